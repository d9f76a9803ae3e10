"""Evaluation: a network over slices, and a checkpoint over the volumes of a split."""

import collections
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mbh_jax import parallel
from mbh_jax.checkpoints import Checkpoints, Restored
from mbh_jax.experiment import Experiment, create_experiment
from mbh_jax.parallel import Batch
from mbh_jax.reporting import tables
from mbh_jax.reporting.log import log
from mbh_jax.run_record import check_same_network
from mbh_jax.volume_io import voxel_volume_ml

PyTree = Any
Rows = dict[str, np.ndarray]

_IN_FLIGHT = 2
"""Batches whose results stay on the device while the next are computed."""


def evaluate_examples(experiment: Experiment, variables: PyTree, examples: np.ndarray) -> Rows:
    """Runs the evaluation step over slices.

    Args:
        experiment: data and compiled steps.
        variables: the model's variables.
        examples: (n,) int32, rows of the index.

    Returns:
        One row a slice, in the order of `examples`: what `Steps.evaluate` returns, and "example"
        and "volume", the numbers of slice and volume.
    """
    how = experiment.parallel
    on_device: collections.deque[Rows] = collections.deque()
    pending: collections.deque = collections.deque()
    parts: list[Rows] = []

    def remember_ids() -> Iterator[Batch]:
        for batch in experiment.eval_batches(examples):
            on_device.append({name: batch[name] for name in ("example", "volume")})
            yield batch

    def collect() -> None:
        ids, outputs = pending.popleft()
        rows = ids | parallel.local_rows(outputs, how)
        real = rows["example"] >= 0
        parts.append({name: values[real] for name, values in rows.items()})

    for batch in parallel.prefetch(remember_ids(), how):
        pending.append((on_device.popleft(), experiment.eval_step(variables, batch)))
        if len(pending) > _IN_FLIGHT:
            collect()
    while pending:
        collect()
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


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


def write_tables(experiment: Experiment, restored: Restored, workdir: Path, *, split: str) -> str:
    """Evaluates restored variables on the volumes of a split.

    Writes `<workdir>/evaluation/<split>/evaluation.csv` and `summary.json`.

    Returns:
        The table for a terminal.
    """
    config, index = experiment.config, experiment.index
    examples = index.examples(split, config.eval.slices)
    rows = evaluate_examples(experiment, restored.arrays, examples)
    volumes, confusion = confusion_by_volume(rows)
    directory = workdir / "evaluation" / split
    summary = tables.write_evaluation(
        directory,
        [index.volumes[v].volume_id for v in volumes],
        confusion,
        voxel_volume_ml=np.array([voxel_volume_ml(index.volumes[v].affine) for v in volumes]),
        cross_entropy=float(rows["cross_entropy"].mean()),
        dice_coef_multiclass=float(rows["dice_coef_multiclass"].mean()),
        split=split,
        step=restored.step,
        slices=config.eval.slices,
    )
    log.info("wrote %s", directory)
    return tables.format_table(summary)


def evaluate_checkpoint(config: ConfigDict, workdir: Path) -> None:
    """Evaluates `config.eval.checkpoint` of `workdir` on `config.eval.split` and prints the table.

    Raises:
        UserError: there is no such checkpoint or split, or the configuration is not the run's.
    """
    check_same_network(config, workdir)
    experiment = create_experiment(config)
    saved = Checkpoints(workdir, experiment.parallel.replicated)
    restored = saved.restore_variables(config.eval.checkpoint, experiment.template)
    saved.close()
    print(write_tables(experiment, restored, workdir, split=config.eval.split))
