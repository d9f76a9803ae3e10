"""Evaluation of a split of a dataset: predict its volumes, then score their masks."""

import concurrent.futures
import contextlib
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from mbh_jax import config as config_keys
from mbh_jax.data.index import SliceIndex
from mbh_jax.data.loader import Loader
from mbh_jax.data.order import num_batches
from mbh_jax.data.schema import VolumeInfo
from mbh_jax.errors import Stopped
from mbh_jax.evaluation import summary
from mbh_jax.evaluation.case_table import Masks, ScoredCase, case_rows, score_masks
from mbh_jax.imageio import nifti
from mbh_jax.imageio.volume import Volume
from mbh_jax.inference.report_images import case_images
from mbh_jax.log import log
from mbh_jax.reporting import tables
from mbh_jax.reporting.progress import Progress
from mbh_jax.reporting.report.page import REPORT_FILE, ReportContents, write_report
from mbh_jax.reporting.run_files import read_history
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

MASKS_DIR = "masks"
"""Folder of the predicted masks, below that of the results."""


def evaluate(
    config: ConfigDict,
    workdir: epath.Path,
    stop: StopRequest,
    *,
    split: str,
    checkpoint: str,
    rules: Sequence[str] = (),
) -> None:
    """Evaluates a checkpoint of `workdir` on the volumes of a split, and prints the table.

    Writes into `<workdir>/evaluation/<split>` what `summary.write_evaluation` writes and, of whole
    volumes, the masks; tables of an earlier evaluation there are deleted first. What is not of the
    best checkpoint or not of all slices has `_last` or `_blood` after the split, and what is of
    another dataset than the run was trained on the first eight digits of that one's fingerprint.

    Args:
        config: the run's, perhaps with other values of `data.dir`, `eval.*` and `parallel.*`.
        workdir: the run's folder.
        stop: asked after every batch.
        split: one of `mbh_jax.data.index.SPLIT_NAMES`.
        checkpoint: "best" or "last".
        rules: challenges whose own scores are added, of `mbh_jax.evaluation.case_table.RULES`.

    Raises:
        UserError: there is no such checkpoint or split, or the configuration is not the run's.
        Stopped: by SIGTERM or Ctrl-C; no table is written.
    """
    network.check_same_network(config, workdir)
    config_keys.validate(config, jax.device_count(), batches=("eval.batch_size",))
    loader = Loader(config.data)
    index = loader.index
    examples = index.examples(split, config.eval.slices)
    parallel = create_parallel(config.parallel.mode)
    trained = network.restore_network(workdir, parallel, checkpoint=checkpoint)
    unusual = [
        choice
        for choice, usual in ((checkpoint, "best"), (config.eval.slices, "all"))
        if choice != usual
    ]
    directory = _results_dir(
        workdir, "_".join([split, *unusual]), index.fingerprint, trained_on=trained.dataset
    )
    step = compile_eval_step(create_mask_step(trained.network), parallel)
    total = sum(
        num_batches(len(part), config.eval.batch_size) for part in index.by_in_plane_shape(examples)
    )
    is_whole = config.eval.slices == "all"
    with (
        memory.out_of_memory_errors(config),
        Progress(total, label=f"evaluating {split}") as progress,
    ):
        batches = loader.eval_batches(examples, global_batch=config.eval.batch_size)
        watched = _watch(batches, progress, stop)
        if distributed.is_primary():
            # If this one is stopped, its masks must not lie beside the tables of others.
            summary.discard_evaluation(directory)
            (directory / REPORT_FILE).unlink(missing_ok=True)
        volumes = predict_volumes(step, trained.variables, watched, parallel)
        scores = score_volumes(volumes, index, rules, directory / MASKS_DIR if is_whole else None)
    if not distributed.is_primary():
        return
    facts = {
        "split": split,
        "slices": config.eval.slices,
        "checkpoint_step": trained.step,
        "provenance": {
            "workdir": workdir.name,
            "checkpoint": checkpoint,
            "dataset": index.fingerprint,
            "dataset_dir": str(index.directory),
            "config": config.to_dict(),
        },
        "cross_entropy": float(scores.slices["cross_entropy"].mean()),
        "including_background": {
            "dice_coef_multiclass": float(scores.slices["dice_coef_multiclass"].mean())
        },
    }
    patients = [index.volumes[v].patient_id for v in scores.volumes]
    found = summary.summarize(scores.cases, patients=patients, facts=facts)
    summary.write_evaluation(directory, found, scores.cases, rules)
    if is_whole:
        contents = ReportContents(
            title=f"{workdir.name}: {split}",
            summary=found,
            case_rows=case_rows(scores.cases),
            images=functools.partial(case_images, loader, examples, directory / MASKS_DIR),
            history=read_history(workdir),
        )
        write_report(directory / REPORT_FILE, contents)
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


class Scores(NamedTuple):
    """What the masks of a split were found to be, volume by volume and slice by slice.

    Attributes:
        volumes: numbers of the volumes.
        cases: what was found in each.
        slices: "example", "cross_entropy" and "dice_coef_multiclass" of each slice.
    """

    volumes: list[int]
    cases: list[ScoredCase]
    slices: Rows


def score_volumes(
    volumes: Iterable[tuple[int, Rows]],
    index: SliceIndex,
    rules: Sequence[str] = (),
    masks_dir: epath.Path | None = None,
) -> Scores:
    """Scores the masks of volumes, on process 0 alone, while the devices predict the next ones.

    Args:
        volumes: of `predict_volumes`.
        index: the dataset.
        rules: challenges whose own scores are added.
        masks_dir: where the masks are written to, or None.

    Returns:
        The scores in the order of the volumes' numbers; nothing on other processes.
    """
    scoring: dict[int, concurrent.futures.Future[ScoredCase]] = {}
    slices: list[Rows] = []
    # One volume waits at most: masks of many would fill the memory.
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        last: concurrent.futures.Future[ScoredCase] | None = None
        for number, rows in volumes:
            if not distributed.is_primary():
                continue
            if last is not None:
                last.result()
            placed = rows | {"slice_index": index.slice_index[rows["example"]]}
            last = thread.submit(_score, index.volumes[number], placed, tuple(rules), masks_dir)
            scoring[number] = last
            slices.append(
                {name: rows[name] for name in ("example", "cross_entropy", "dice_coef_multiclass")}
            )
        numbers = sorted(scoring)
        cases = [scoring[number].result() for number in numbers]
    if not numbers:
        return Scores([], [], {})
    joined = {name: np.concatenate([part[name] for part in slices]) for name in slices[0]}
    order = np.argsort(joined["example"])
    return Scores(numbers, cases, {name: values[order] for name, values in joined.items()})


def _score(
    volume: VolumeInfo, rows: Rows, rules: tuple[str, ...], masks_dir: epath.Path | None
) -> ScoredCase:
    """Scores the mask of a volume, and writes it on the grid of the file it came from."""
    mask = rows["mask"].astype(np.uint8)
    if masks_dir is not None:
        like = Volume(mask, volume.affine, volume.stored_axcodes)
        nifti.write_label(masks_dir / f"{volume.volume_id}.nii.gz", mask, like)
    affine = volume.affine if volume.spacing_known else None
    # Slices that are not evaluated lie between the others all the same, for distances and lesions.
    label, placed = (np.zeros((volume.num_slices, *mask.shape[1:]), np.uint8) for _ in range(2))
    label[rows["slice_index"]], placed[rows["slice_index"]] = rows["label"], mask
    scored = score_masks(Masks(volume.volume_id, label, placed, affine, rules))
    left_out = np.setdiff1d(np.arange(volume.num_slices), rows["slice_index"])
    scored.confusion[left_out] = 0
    return scored


def _watch(batches: Iterable[Batch], progress: Progress, stop: StopRequest) -> Iterator[Batch]:
    """Yields batches, shows each, and asks before each whether to stop."""
    for number, batch in enumerate(batches):
        try:
            stop.raise_if_set()
        except Stopped:
            raise Stopped(
                "stopped on request: the same command evaluates from the beginning"
            ) from None
        progress.update(number)
        yield batch
    progress.update(number + 1)
