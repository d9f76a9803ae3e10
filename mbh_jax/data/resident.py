"""Training slices in the memory of the devices: a step takes its batch from there.

The host sends only which examples make up a batch.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mbh_jax.data.batch import Batch, without_pixels
from mbh_jax.data.neighbours import Neighbours
from mbh_jax.data.order import host_examples
from mbh_jax.data.packed import PackedSlices
from mbh_jax.errors import UserError

PyTree = Any


class ResidentSlices(NamedTuple):
    """Decoded slices that a device holds whole.

    Attributes:
        row: (N,) int32 for every example of the dataset, its place in the others; -1 for none.
        image: (n, H, W) int16 HU.
        label: (n, H, W) uint8.
        beside: (N, S) int32 examples that are the channels of an example's image; None: itself.
        shift: (N, S, 2) int32, see `mbh_jax.data.neighbours.Neighbours`; None: all are 0.
    """

    row: jax.Array
    image: jax.Array
    label: jax.Array
    beside: jax.Array | None = None
    shift: jax.Array | None = None


def load(
    packed: PackedSlices,
    examples: np.ndarray,
    hold: Callable[[np.ndarray], jax.Array],
    beside: Neighbours | None = None,
) -> ResidentSlices:
    """Brings slices to the devices, and waits until they are there.

    Args:
        packed: the dataset.
        examples: (n,) int32, those to bring; their neighbours come with them.
        hold: copies an array to all devices.
        beside: of every example, the slices that are the channels of its image; None: it alone.

    Raises:
        UserError: the slices are of several sizes.
    """
    parts = packed.index.by_in_plane_shape(examples)
    if len(parts) > 1:
        shapes = [packed.shape_of(part) for part in parts]
        listed = ", ".join(f"{rows}x{columns}" for rows, columns in sorted(shapes))
        raise UserError(
            f"data.resident: training slices of several sizes ({listed}) in "
            f"{packed.index.directory}: --config.data.resident=False resizes them"
        )
    held = examples if beside is None else np.unique(beside.row[examples])
    row = np.full(len(packed.index), -1, np.int32)
    row[held] = np.arange(len(held))
    # One after the other: only one of them is on the host as well.
    image = jax.block_until_ready(hold(packed.read("image", held)))
    label = jax.block_until_ready(hold(packed.read("label", held)))
    if beside is None:
        return ResidentSlices(hold(row), image, label)
    shift = hold(beside.shift) if beside.shift[examples].any() else None
    return ResidentSlices(hold(row), image, label, hold(beside.row), shift)


def batches(
    order: np.ndarray,
    *,
    global_batch: int,
    start_batch: int = 0,
    host: int = 0,
    num_hosts: int = 1,
) -> Iterator[Batch]:
    """This host's share of the batches of an order, without pixels.

    They hold `example` (B,) int32 and `weight` (B,) float32 with the values that
    `mbh_jax.data.pipeline.batches` gives them; the arguments are those of that function.
    """
    for numbers in host_examples(order, global_batch, start_batch, host, num_hosts):
        yield without_pixels(numbers)


def gather(slices: ResidentSlices, example: jax.Array) -> dict[str, jax.Array]:
    """The pixels of examples (B,) int32; zeros for -1, the padding of a batch.

    Returns:
        `image` (B, H, W, S) int16 HU and `label` (B, H, W) uint8.
    """
    row = _take(slices.row, example, -1)
    rows = row
    if slices.beside is not None:
        rows = _take(slices.row, _take(slices.beside, example, -1), -1)
    image, label = _take(slices.image, rows, 0), _take(slices.label, row, 0)
    if slices.shift is not None:
        image = jax.vmap(jax.vmap(_shifted))(image, _take(slices.shift, example, 0))
    image = image[..., jnp.newaxis] if slices.beside is None else jnp.moveaxis(image, 1, -1)
    return {"image": image, "label": label}


def _shifted(image: jax.Array, shift: jax.Array) -> jax.Array:
    """As `mbh_jax.data.neighbours.gather` shifts one slice (H, W) by (2,) pixels."""
    for axis, size in enumerate(image.shape):
        places = jnp.clip(jnp.arange(size) + shift[axis], 0, size - 1)
        image = jnp.take(image, places, axis=axis)
    return image


def _take(array: jax.Array, rows: jax.Array, fill: int) -> jax.Array:
    """Rows of an array; `fill` for row -1."""
    return array.at[rows].get(mode="fill", fill_value=fill, wrap_negative_indices=False)


def with_gather(step: Callable) -> Callable:
    """Makes a training step that takes example numbers out of one that takes pixels.

    Args:
        step: `(state, batch, rng, *, axis_name) -> (state, sums)`.

    Returns:
        `(state, batch, rng, slices, *, axis_name) -> (state, sums)`, which finds the pixels of its
        batch in `slices`.
    """

    def step_of_slices(
        state: PyTree,
        batch: dict[str, jax.Array],
        rng: jax.Array,
        slices: ResidentSlices,
        *,
        axis_name: str | None = None,
    ) -> tuple[PyTree, PyTree]:
        pixels = gather(slices, batch["example"])
        return step(state, {**batch, **pixels}, rng, axis_name=axis_name)

    return step_of_slices
