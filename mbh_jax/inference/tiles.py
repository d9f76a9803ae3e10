"""Slices larger than a network's input, predicted in overlapping tiles at their own resolution.

Neighbouring tiles overlap by at least a half, and each counts most in its middle: its weights are
those of a Gaussian with a standard deviation of an eighth of its side, as in nnU-Net (Isensee et
al., Nature Methods 2021, 18:203). They are products of weights along rows and along columns, and
add up to 1 in every pixel.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

STEP = 0.5
"""Distance of neighbouring tiles, at most, as a part of their side."""

SIGMA = 0.125
"""Standard deviation of the Gaussian, as a part of a tile's side."""

AIR_HU = -1024
"""What fills slices that are narrower than a tile."""


def is_tiled(height: int, width: int, size: int) -> bool:
    """Whether slices of this size are larger than a tile."""
    return max(height, width) > size


def axis_tiles(length: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where tiles begin along one axis, and their weights there.

    Args:
        length: of the axis, at least `size`.
        size: of a tile.

    Returns:
        (T,) int32 first pixels, from 0 to `length - size`, and (T, size) float32 weights, which
        add up to 1 in each pixel.
    """
    number = math.ceil((length - size) / (size * STEP)) + 1
    starts = np.linspace(0, length - size, number).round().astype(np.int32)
    distance = (np.arange(size) - (size - 1) / 2) / (size * SIGMA)
    gaussian = np.exp(-0.5 * distance**2)
    total = np.zeros(length)
    for start in starts:
        total[start : start + size] += gaussian
    weights = np.stack([gaussian / total[start : start + size] for start in starts])
    return starts, weights.astype(np.float32)


def tiled_logits(
    logits: Callable[[jax.Array], jax.Array], hu: jax.Array, size: int, num_classes: int
) -> jax.Array:
    """Weighted mean of the logits of all tiles, one tile of every slice at a time.

    Args:
        logits: (B,size,size,S) HU to (B,size,size,K) logits; traced once.
        hu: (B,H,W,S) integers. Sides shorter than a tile are filled with air.
        size: of a tile.
        num_classes: K.

    Returns:
        (B,H,W,K) float32.
    """
    batch, height, width, num_slices = hu.shape
    padding = ((0, 0), (0, max(0, size - height)), (0, max(0, size - width)), (0, 0))
    padded = jnp.pad(hu, padding, constant_values=AIR_HU)
    rows, row_weights = axis_tiles(padded.shape[1], size)
    columns, column_weights = axis_tiles(padded.shape[2], size)

    def add_tile(total: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
        row, column = number // len(columns), number % len(columns)
        corner = (0, jnp.asarray(rows)[row], jnp.asarray(columns)[column], 0)
        found = logits(jax.lax.dynamic_slice(padded, corner, (batch, size, size, num_slices)))
        found *= jnp.asarray(row_weights)[row][:, None, None]
        found *= jnp.asarray(column_weights)[column][:, None]
        before = jax.lax.dynamic_slice(total, corner, found.shape)
        return jax.lax.dynamic_update_slice(total, before + found, corner), None

    total = jnp.zeros((*padded.shape[:3], num_classes), jnp.float32)
    total, _ = jax.lax.scan(add_tile, total, jnp.arange(len(rows) * len(columns)))
    return total[:, :height, :width]
