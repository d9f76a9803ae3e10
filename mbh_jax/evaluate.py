"""Evaluation of a split: predict its volumes, then score their masks."""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from mbh_jax import config as config_keys
from mbh_jax.data.index import SliceIndex
from mbh_jax.data.loader import Loader
from mbh_jax.data.order import steps_per_epoch
from mbh_jax.evaluation import summary
from mbh_jax.evaluation.confusion import mask_confusion
from mbh_jax.imageio.volume import voxel_volume_ml
from mbh_jax.labels import NUM_CLASSES
from mbh_jax.log import log
from mbh_jax.reporting import tables
from mbh_jax.reporting.progress import Progress
from mbh_jax.runtime import distributed
from mbh_jax.runtime.parallel import (
    Batch,
    Parallel,
    compile_eval_step,
    create_parallel,
    map_batches,
)
from mbh_jax.runtime.preemption import StopRequest
from mbh_jax.training import memory, network
from mbh_jax.training.steps import create_mask_step

PyTree = Any
Rows = dict[str, np.ndarray]


class Scores(NamedTuple):
    """What the masks of a split were found to be, volume by volume and slice by slice.

    Attributes:
        volumes: (V,) numbers of the volumes.
        confusion: (V,K,K) int64 voxel counts, axes [volume, true, predicted].
        slices: "example", "cross_entropy" and "dice_coef_multiclass" of each slice.
    """

    volumes: np.ndarray
    confusion: np.ndarray
    slices: Rows


def evaluate(
    config: ConfigDict,
    workdir: epath.Path,
    stop: StopRequest,
    *,
    split: str,
    checkpoint: str,
) -> None:
    """Evaluates a checkpoint of `workdir` on the volumes of a split, and prints the table.

    Writes evaluation.csv, summary.json and evaluation.json into `<workdir>/evaluation/<split>`;
    what is not of the best checkpoint or not of all slices has `_last` or `_blood` after the split,
    and what is of another dataset than the run was trained on the first eight digits of that
    dataset's fingerprint.

    Args:
        config: the run's, perhaps with other values of `data.dir`, `eval.*` and `parallel.*`.
        workdir: the run's folder.
        stop: asked after every batch.
        split: one of `mbh_jax.data.index.SPLIT_NAMES`.
        checkpoint: "best" or "last".

    Raises:
        UserError: there is no such checkpoint or split, or the configuration is not the run's.
        Stopped: by SIGTERM or Ctrl-C; nothing is written.
    """
    network.check_same_network(config, workdir)
    config_keys.validate(config, jax.device_count(), batches=("eval.batch_size",))
    loader = Loader(config.data)
    index = loader.index
    examples = index.examples(split, config.eval.slices)
    parallel = create_parallel(config.parallel.mode)
    trained = network.restore_network(workdir, parallel, checkpoint=checkpoint)
    step = compile_eval_step(create_mask_step(trained.network), parallel)
    num_batches = sum(
        steps_per_epoch(len(part), config.eval.batch_size)
        for part in index.by_in_plane_shape(examples)
    )
    with (
        memory.out_of_memory_errors(config),
        Progress(num_batches, label=f"evaluating {split}") as progress,
    ):
        batches = loader.eval_batches(examples, global_batch=config.eval.batch_size)
        watched = _watch(batches, progress, stop)
        volumes = predict_volumes(step, trained.variables, watched, parallel)
        scores = score_volumes(volumes)
    if not distributed.is_primary():
        return
    found = summary.summarize(
        [index.volumes[v].volume_id for v in scores.volumes],
        scores.confusion,
        voxel_volume_ml=_voxel_volumes_ml(index, scores.volumes),
        cross_entropy=float(scores.slices["cross_entropy"].mean()),
        dice_coef_multiclass=float(scores.slices["dice_coef_multiclass"].mean()),
        split=split,
        step=trained.step,
        slices=config.eval.slices,
        provenance={
            "workdir": workdir.name,
            "checkpoint": checkpoint,
            "dataset": index.fingerprint,
            "dataset_dir": str(index.directory),
            "config": config.to_dict(),
        },
    )
    unusual = [
        choice
        for choice, usual in ((checkpoint, "best"), (config.eval.slices, "all"))
        if choice != usual
    ]
    directory = _results_dir(
        workdir, "_".join([split, *unusual]), index.fingerprint, trained_on=trained.dataset
    )
    summary.write_evaluation(directory, found)
    log.info("wrote %s", directory)
    tables.print_table(found)


def _results_dir(
    workdir: epath.Path, name: str, dataset: str, *, trained_on: str | None
) -> epath.Path:
    """Where the results of a dataset go, so that no two datasets have the same place.

    Args:
        workdir: the run's folder.
        name: of the split, and what else tells this evaluation from others.
        dataset: fingerprint of the dataset that was evaluated.
        trained_on: fingerprint of the dataset that the network was trained on, if that is known.
    """
    directory = workdir / "evaluation" / name
    before, found = directory / "summary.json", None
    if before.exists():
        with contextlib.suppress(KeyError, TypeError, ValueError):  # Of an earlier version.
            found = json.loads(before.read_text())["provenance"]["dataset"]
    if {trained_on, found} <= {dataset, None}:
        return directory
    return directory.with_name(f"{name}_{dataset[:8]}")


def predict_volumes(
    step: Callable[[PyTree, PyTree], PyTree],
    variables: PyTree,
    batches: Iterable[Batch],
    parallel: Parallel,
) -> Iterator[tuple[int, Rows]]:
    """Predicts masks, and hands each volume on as soon as its last slice is there.

    Args:
        step: compiled, see `mbh_jax.training.steps.create_mask_step`.
        variables: the network's.
        batches: this process's share of batches, whose slices come volume by volume.
        parallel: the devices.

    Yields:
        On every process the number of a volume, and rows (slices, ...): "example", "label" and
        what `step` returns. No more than a volume and a batch are held at a time.
    """
    held: list[Rows] = []
    for batch, outputs in map_batches(step, variables, batches, parallel):
        local = {name: batch[name] for name in ("example", "volume", "label")} | outputs
        rows = distributed.gather_rows(local)
        is_real = rows["example"] >= 0
        numbers = rows["volume"][is_real]
        starts = np.flatnonzero(np.diff(numbers, prepend=-1))
        for start, end in zip(starts, [*starts[1:], len(numbers)], strict=True):
            if held and held[0]["volume"][0] != numbers[start]:
                yield _volume_of(held)
                held = []
            held.append({name: values[is_real][start:end] for name, values in rows.items()})
    yield _volume_of(held)


def _volume_of(parts: list[Rows]) -> tuple[int, Rows]:
    rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return int(rows.pop("volume")[0]), rows


def score_volumes(volumes: Iterable[tuple[int, Rows]]) -> Scores:
    """Scores the masks of volumes, in the order of their numbers."""
    confusion: dict[int, np.ndarray] = {}
    slices: list[Rows] = []
    for number, rows in volumes:
        confusion[number] = mask_confusion(rows["label"], rows["mask"], NUM_CLASSES)
        slices.append(
            {name: rows[name] for name in ("example", "cross_entropy", "dice_coef_multiclass")}
        )
    joined = {name: np.concatenate([part[name] for part in slices]) for name in slices[0]}
    order = np.argsort(joined["example"])
    numbers = sorted(confusion)
    return Scores(
        np.array(numbers),
        np.stack([confusion[number] for number in numbers]),
        {name: values[order] for name, values in joined.items()},
    )


def _watch(batches: Iterable[Batch], progress: Progress, stop: StopRequest) -> Iterator[Batch]:
    """Yields batches, shows each, and asks before each whether to stop."""
    for number, batch in enumerate(batches):
        stop.raise_if_set()
        progress.update(number)
        yield batch
    progress.update(number + 1)


def _voxel_volumes_ml(index: SliceIndex, volumes: np.ndarray) -> np.ndarray:
    """(V,) float64; NaN where millimetres are not known."""
    return np.array(
        [
            voxel_volume_ml(index.volumes[v].affine) if index.volumes[v].spacing_known else np.nan
            for v in volumes
        ]
    )
