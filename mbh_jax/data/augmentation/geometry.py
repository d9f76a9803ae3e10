"""Spatial transforms of image and label, composed into one resampling.

Everything here is for one example; callers use `jax.vmap`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mbh_jax.data.augmentation import draws
from mbh_jax.data.augmentation.presets import Preset

Coordinates = tuple[jax.Array, jax.Array]
"""Row and column, (H,W) float32 each, of the place in the input that each output pixel shows."""

_CELLS = 8
"""Cells of the B-spline of elastic deformation along a side."""

SHAPES = (draws.shape_for(7, 2), (2, _CELLS + 3, _CELLS + 3))
"""Of the random numbers that `draw_coordinates` takes."""


def is_off(preset: Preset) -> bool:
    """Whether no spatial transform of a preset ever acts."""
    ranges = (preset.rotation_degrees, preset.scale, preset.shear, preset.shift, preset.elastic)
    flips = (preset.flip_horizontal, preset.flip_vertical)
    return not any([*(one.probability for one in ranges), *flips])


def draw_coordinates(
    numbers: jax.Array, control: jax.Array, preset: Preset, height: int, width: int
) -> Coordinates:
    """The coordinates of a random elastic and affine transform about the middle of the image.

    Args:
        numbers, control: uniform random numbers from 0 to 1 with the shapes `SHAPES`.
        preset: ranges of the parameters.
        height, width: of the image.
    """
    side = jnp.array([height, width], jnp.float32)
    angle = jnp.deg2rad(draws.uniform(numbers[0], preset.rotation_degrees, 0.0)[0])
    scale = draws.uniform(numbers[1], preset.scale, 1.0)[0]
    shear = draws.uniform(numbers[2], preset.shear, 0.0)[0]
    down, right = side * draws.uniform(numbers[3], preset.shift, 0.0)
    upright = jnp.where(numbers[4, 0, 0] < preset.flip_vertical, -1.0, 1.0)
    sideways = jnp.where(numbers[5, 0, 0] < preset.flip_horizontal, -1.0, 1.0)
    row = jnp.arange(height, dtype=jnp.float32)[:, None] - (height - 1) / 2
    column = jnp.arange(width, dtype=jnp.float32)[None, :] - (width - 1) / 2
    if preset.elastic.probability:
        amount = draws.uniform(numbers[6], preset.elastic, 0.0)[0]
        moved = displacement(control, height, width) * (amount * side)[:, None, None]
        row, column = row + moved[0], column + moved[1]
    # Not a matrix product: accelerators would round the coordinates.
    cos, sin = scale * jnp.cos(angle), scale * jnp.sin(angle)
    sheared = column + shear * row
    rows = upright * (cos * row - sin * sheared) + (height - 1) / 2 + down
    columns = sideways * (sin * row + cos * sheared) + (width - 1) / 2 + right
    return rows, columns


def displacement(control: jax.Array, height: int, width: int) -> jax.Array:
    """A smooth random field (2,H,W): a cubic B-spline of control points of mean 0, variance 1.

    Args:
        control: (2, cells + 3, cells + 3) uniform random numbers from 0 to 1.
        height, width: of the field.
    """
    return jnp.einsum(
        "hi,kij,wj->khw",
        _spline(height),
        12.0**0.5 * (control - 0.5),
        _spline(width),
        precision=jax.lax.Precision.HIGHEST,
    )


@functools.cache
def _spline(size: int) -> np.ndarray:
    """The uniform cubic B-spline basis (size, control points) at the pixels of a side."""
    cell, t = np.divmod((np.arange(size) + 0.5) * _CELLS / size, 1.0)
    weights = [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]
    basis = np.zeros((size, _CELLS + 3), np.float32)
    for offset, weight in enumerate(weights):
        basis[np.arange(size), cell.astype(int) + offset] = weight / 6
    return basis


def resample(
    image: jax.Array, label: jax.Array, coordinates: Coordinates, fill: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Image and label at other coordinates, read together by one gather of four neighbours.

    Args:
        image: (H,W,C) float32; bilinear.
        label: (H,W) integer; the label with the largest bilinear weight, so that no other label
            than those of the four neighbours appears.
        coordinates: of the same shape (H,W).
        fill: (C,) float32, the image outside; the label outside is 0.

    Returns:
        Image and label of the same shapes and dtypes.
    """
    height, width = label.shape
    both = jnp.concatenate([image, label[..., None].astype(image.dtype)], axis=-1)
    outside = jnp.concatenate([fill.astype(image.dtype), jnp.zeros(1, image.dtype)])
    # One pixel of what is outside all around, and no coordinate further out than its middle.
    framed = jnp.broadcast_to(outside, (height + 2, width + 2, len(outside)))
    pixels = framed.at[1:-1, 1:-1].set(both).reshape(-1, len(outside))

    corner, fractions = [], []
    for position, size in zip(coordinates, (height, width), strict=True):
        inside = jnp.clip(position, -1.0, size) + 1.0
        first = jnp.clip(jnp.floor(inside), 0, size)
        corner.append(first.astype(jnp.int32))
        fractions.append(inside - first)
    start = corner[0] * (width + 2) + corner[1]
    down, right = fractions
    weights = [(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right]
    neighbours = [
        pixels.at[start + offset].get(mode="promise_in_bounds")
        for offset in (0, 1, width + 2, width + 3)
    ]
    moved = jnp.zeros_like(image)
    for weight, one in zip(weights, neighbours, strict=True):
        moved += weight[..., None] * one[..., :-1]
    labels = [one[..., -1] for one in neighbours]
    return moved, _vote(labels, weights).astype(label.dtype)


def _vote(labels: list[jax.Array], weights: list[jax.Array]) -> jax.Array:
    """Of four labels (H,W) the one with most weight; of two with the same, the lower one."""
    best, best_votes = labels[0], jnp.full_like(weights[0], -1.0)
    for candidate in labels:
        votes = sum(
            jnp.where(label == candidate, weight, 0.0)
            for label, weight in zip(labels, weights, strict=True)
        )
        better = (votes > best_votes) | ((votes == best_votes) & (candidate < best))
        best, best_votes = jnp.where(better, candidate, best), jnp.maximum(votes, best_votes)
    return best
