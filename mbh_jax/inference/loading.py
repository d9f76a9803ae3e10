"""Trained networks from runs or bundles, ready to predict."""

import concurrent.futures
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from mbh_jax.data import neighbours
from mbh_jax.data.batch import slice_batches
from mbh_jax.errors import UserError
from mbh_jax.inference.predictor import Predictor, batch_size_on, compile_step, least_batch_size
from mbh_jax.runtime import distributed, xla
from mbh_jax.runtime.parallel import Parallel, create_parallel, put_batch
from mbh_jax.training import memory, pretrained
from mbh_jax.training.network import Network, TrainedNetwork, describe_network, restore_network

PyTree = Any


def load(
    *workdirs: os.PathLike | str,
    checkpoint: str = "best",
    batch_size: int | None = None,
    mirror: bool = False,
    use_tiles: bool = False,
    keep_probabilities: bool = False,
    min_lesion_ml: float = 0.0,
    first_shape: Callable[[], tuple[int, int, int]] | None = None,
) -> Predictor:
    """The networks of one or several runs or bundles, ready to predict on this machine's devices.

    Args:
        workdirs: the runs' folders, or bundles; of several, their mean probabilities decide.
        checkpoint: "best" or "last".
        batch_size, mirror, use_tiles, keep_probabilities, min_lesion_ml: see `Predictor`.
        first_shape: finds slices, rows and columns of the first scan. The network is compiled for
            them while its weights are read; without it, when the scan is predicted.

    Raises:
        UserError: one of them holds no run, is no bundle, or has no such checkpoint.
    """
    distributed.start_devices()
    parallel = create_parallel("jit")
    batch_size = batch_size_on(parallel, batch_size)
    paths = [pretrained.source_path(os.fspath(workdir), "model") for workdir in workdirs]
    described = [describe_network(path) for path in paths]
    shapes = [of_network for _, of_network in described]
    step = compile_step(
        [network for network, _ in described],
        parallel,
        mirror=mirror,
        use_tiles=use_tiles,
        with_probabilities=keep_probabilities,
    )

    def restore() -> list[TrainedNetwork]:
        return [
            restore_network(path, parallel, checkpoint=checkpoint, shapes=of_path)
            for path, of_path in zip(paths, shapes, strict=True)
        ]

    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        restored = thread.submit(restore)
        if first_shape is not None:
            _compile_ahead(step, described, parallel, batch_size, first_shape)
    return Predictor(
        restored.result(),
        parallel,
        batch_size=batch_size,
        mirror=mirror,
        use_tiles=use_tiles,
        keep_probabilities=keep_probabilities,
        min_lesion_ml=min_lesion_ml,
        step=step,
    )


def _compile_ahead(
    step: Callable,
    described: Sequence[tuple[Network, PyTree]],
    parallel: Parallel,
    batch_size: int,
    first_shape: Callable[[], tuple[int, int, int]],
) -> None:
    """Compiles for the shape of a scan; does nothing where that cannot be read."""
    try:
        num_slices, *size = first_shape()
    except UserError:
        return  # The prediction of this scan says it again.
    if not isinstance(step, xla.CompiledWhenCalled):
        return
    if num_slices <= least_batch_size(parallel):
        batch_size = least_batch_size(parallel)
    variables = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=parallel.replicated),
        [shapes for _, shapes in described],
    )
    settings = [neighbours.setting_of(network.config.data) for network, _ in described]
    stack = [neighbours.Stack(1, None)]
    beside = [neighbours.of_stacks(stack, one) for one in neighbours.channels_of(settings)[0]]
    image = np.zeros((1, *size), np.int16)
    batch = put_batch(next(slice_batches(image, batch_size, beside)), parallel)
    with memory.device_memory_errors("give less than --batch_size"):
        step.compile_for(variables, batch)
