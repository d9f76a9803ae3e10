"""Shared by the two implementations in JAX."""

import importlib.metadata
import math
import os
from collections.abc import Callable
from typing import Any

# Two workers may share a GPU: each takes at most this fraction of its memory.
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.45")

import jax
import jax.numpy as jnp
import optax

from benchmarks.baselines import Implementation
from benchmarks.workload import Workload

PyTree = Any


def with_weights(variables: PyTree, workload: Workload) -> PyTree:
    """`variables` (real or abstract) with the workload's kernels, scales and variances 1, else 0.

    Raises:
        ValueError: the network's kernels are not those of the workload.
    """
    kernels = {}
    for layer, kernel in workload.weights():
        kernels[f"params/{layer.name}/kernel"] = jnp.asarray(kernel)

    def value(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name = "/".join(key.key for key in path)
        if name.endswith("/kernel"):
            kernel = kernels.pop(name)
            if kernel.shape != leaf.shape:
                raise ValueError(f"{name} is {leaf.shape}, not {kernel.shape}")
            return kernel
        ones = name.endswith(("/scale", "/var"))
        return jnp.ones(leaf.shape, leaf.dtype) if ones else jnp.zeros(leaf.shape, leaf.dtype)

    filled = jax.tree_util.tree_map_with_path(value, variables)
    if kernels:
        raise ValueError(f"the network lacks {sorted(kernels)}")
    return filled


def num_parameters(variables: PyTree) -> int:
    """Number of trained parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def mean_cross_entropy(logits: jax.Array, labels: jax.Array) -> float:
    """Mean cross-entropy over all pixels, in nats."""
    logits = logits.astype(jnp.float32)
    return float(optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean())


def as_implementation(
    num_parameters: int,
    loss: float,
    step: Callable[[], PyTree],
    program: Callable[[], str | None] | None = None,
) -> Implementation:
    """An `Implementation` from a `step` that returns a label map or a dict with its "loss"."""
    newest: PyTree = None

    def start() -> None:
        nonlocal newest
        newest = step()

    def wait() -> None:
        result = jax.block_until_ready(newest)
        if isinstance(result, dict) and not math.isfinite(float(result["loss"])):
            raise FloatingPointError("the loss is not finite")

    def peak_device_bytes() -> int | None:
        statistics = jax.devices()[0].memory_stats()
        return statistics and statistics.get("peak_bytes_in_use")

    device = jax.devices()[0]
    return Implementation(
        num_parameters=num_parameters,
        loss=loss,
        step=start,
        wait=wait,
        versions={name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax")},
        device=f"{jax.device_count()} x {device.device_kind}",
        peak_device_bytes=peak_device_bytes,
        program=program,
    )
