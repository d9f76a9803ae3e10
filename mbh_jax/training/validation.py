"""Validation inside training: counts of every slice, made on the device and added on the host."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from mbh_jax.runtime import distributed
from mbh_jax.runtime.parallel import Batch, Parallel, map_batches
from mbh_jax.runtime.preemption import StopRequest
from mbh_jax.training.run_state import Sums

PyTree = Any


def validate(
    step: Callable[[PyTree, PyTree], PyTree],
    variables: PyTree,
    batches: Iterable[Batch],
    parallel: Parallel,
    *,
    stop: StopRequest | None = None,
) -> Sums:
    """Adds up what a validation step returns of every slice.

    Args:
        step: compiled, (variables, batch) -> {name: (B, ...)}.
        variables: the model's variables.
        batches: this process's share of them; slices with `example` -1 are padding.
        parallel: the devices.
        stop: asked after every batch, if given.

    Returns:
        On every process the sums over all slices, in float64 or int64, and their number as
        "examples".

    Raises:
        Stopped: `stop` said so.
    """
    parts = []
    for batch, rows in map_batches(step, variables, batches, parallel):
        parts.append({"example": batch["example"]} | rows)
        if stop is not None:
            stop.raise_if_set()
    rows = distributed.gather_rows(
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    )
    # In the order of the index, so that sums do not depend on the number of processes.
    order = np.argsort(rows["example"])
    order = order[rows["example"][order] >= 0]
    sums = {
        name: values[order].sum(0, dtype=np.float64 if values.dtype.kind == "f" else np.int64)
        for name, values in rows.items()
        if name != "example"
    }
    return {**sums, "examples": np.float64(len(order))}
