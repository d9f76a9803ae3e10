"""Evaluation: a network over slices, and a checkpoint over the volumes of a split."""

import collections
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from mbh_jax.data.order import steps_per_epoch
from mbh_jax.imageio.volume import voxel_volume_ml
from mbh_jax.log import log
from mbh_jax.reporting import tables
from mbh_jax.reporting.progress import Progress
from mbh_jax.runtime import distributed
from mbh_jax.runtime.parallel import local_rows, prefetch
from mbh_jax.runtime.preemption import StopRequest
from mbh_jax.training.checkpoints import Checkpoints, Restored
from mbh_jax.training.run_state import check_same_network
from mbh_jax.training.setup import Experiment, create_experiment

PyTree = Any
Rows = dict[str, np.ndarray]

_IN_FLIGHT = 2
"""Batches whose results stay on the device while the next are computed."""


def evaluate_examples(
    experiment: Experiment,
    variables: PyTree,
    examples: np.ndarray,
    *,
    stop: StopRequest | None = None,
    progress: Progress | None = None,
) -> Rows:
    """Runs the evaluation step over slices; each process takes its share of every batch.

    Args:
        experiment: data and compiled steps.
        variables: the model's variables.
        examples: (n,) int32, rows of the index, each once.
        stop: asked after every batch, if given.
        progress: told of every batch, if given.

    Returns:
        On every process one row a slice, in the order of the index: what `Steps.evaluate` returns,
        and "example" and "volume", the numbers of slice and volume.

    Raises:
        Stopped: `stop` said so.
    """
    how = experiment.parallel
    pending: collections.deque = collections.deque()
    parts: list[Rows] = []

    def collect() -> None:
        batch, outputs = pending.popleft()
        ids = {name: batch[name] for name in ("example", "volume")}
        parts.append(ids | local_rows(outputs, how))
        if progress is not None:
            progress.update(len(parts))

    for batch, arrays in prefetch(experiment.eval_batches(examples), how):
        pending.append((batch, experiment.eval_step(variables, arrays)))
        if len(pending) > _IN_FLIGHT:
            collect()
        if stop is not None:
            stop.raise_if_set()
    while pending:
        collect()
    local = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    rows = distributed.gather_rows(local)
    order = np.argsort(rows["example"])
    order = order[rows["example"][order] >= 0]
    return {name: values[order] for name, values in rows.items()}


def sum_rows(rows: Rows) -> dict[str, np.ndarray]:
    """Adds rows over examples in float64 or int64, with their number as "examples"."""
    sums = {
        name: values.sum(axis=0, dtype=np.float64 if values.dtype.kind == "f" else np.int64)
        for name, values in rows.items()
        if name not in ("example", "volume")
    }
    return {**sums, "examples": np.float64(len(rows["example"]))}


def confusion_by_volume(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Adds the slices' confusion counts at the scan's own matrix to volumes.

    Returns:
        Volume numbers (V,), ascending, and counts (V,K,K) int64.
    """
    volumes, inverse = np.unique(rows["volume"], return_inverse=True)
    counts = np.zeros((len(volumes), *rows["native_confusion"].shape[1:]), np.int64)
    np.add.at(counts, inverse, rows["native_confusion"])
    return volumes, counts


def evaluate_split(
    experiment: Experiment,
    restored: Restored,
    workdir: epath.Path,
    *,
    split: str,
    checkpoint: str,
    stop: StopRequest,
) -> None:
    """Evaluates restored variables on the volumes of a split, and prints the table.

    Writes evaluation.csv and summary.json into `<workdir>/evaluation/<split>`; what is not the best
    checkpoint or not all slices has `_last` or `_blood` after the split.

    Raises:
        Stopped: `stop` said so; nothing is written.
    """
    config, index = experiment.config, experiment.index
    examples = index.examples(split, config.eval.slices)
    num_batches = sum(
        steps_per_epoch(len(part), config.eval.batch_size)
        for part in index.by_in_plane_shape(examples)
    )
    with Progress(num_batches, label=f"evaluating {split}") as progress:
        rows = evaluate_examples(
            experiment, restored.arrays, examples, stop=stop, progress=progress
        )
    if not distributed.is_primary():
        return
    volumes, confusion = confusion_by_volume(rows)
    unusual = [
        choice
        for choice, usual in ((checkpoint, "best"), (config.eval.slices, "all"))
        if choice != usual
    ]
    directory = workdir / "evaluation" / "_".join([split, *unusual])
    summary = tables.summarize(
        [index.volumes[v].volume_id for v in volumes],
        confusion,
        voxel_volume_ml=np.array(
            [
                voxel_volume_ml(index.volumes[v].affine)
                if index.volumes[v].spacing_known
                else np.nan
                for v in volumes
            ]
        ),
        cross_entropy=float(rows["cross_entropy"].mean()),
        dice_coef_multiclass=float(rows["dice_coef_multiclass"].mean()),
        split=split,
        step=restored.step,
        slices=config.eval.slices,
        provenance={
            "workdir": workdir.name,
            "checkpoint": checkpoint,
            "dataset": index.fingerprint,
            "config": config.to_dict(),
        },
    )
    tables.write_evaluation(directory, summary)
    log.info("wrote %s", directory)
    print(tables.format_table(summary))


def evaluate_checkpoint(config: ConfigDict, workdir: epath.Path) -> None:
    """Evaluates `config.eval.checkpoint` of `workdir` on `config.eval.split` and prints the table.

    Raises:
        UserError: there is no such checkpoint or split, or the configuration is not the run's.
        Stopped: by SIGTERM or Ctrl-C; nothing is written.
    """
    check_same_network(config, workdir)
    experiment = create_experiment(config, batches=("eval.batch_size",))
    which, split = config.eval.checkpoint, config.eval.split
    with Checkpoints(workdir, experiment.parallel) as saved:
        restored = saved.restore_variables(which, experiment.template.variables)
    with StopRequest() as stop:
        evaluate_split(experiment, restored, workdir, split=split, checkpoint=which, stop=stop)
