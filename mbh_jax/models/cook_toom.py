"""Convolution with fewer multiplications than its definition has: Cook-Toom, along the rows.

`m` rows of the result of a kernel of `k` rows are a product of polynomials, which `m + k - 1`
products determine where the definition takes `m * k` (Toom 1963, Cook 1966; for networks Lavin and
Gray 2016, arXiv:1509.09308). A product here is a convolution along the columns, which XLA computes
well. With `y = A [(G g) * (B x)]`, `x` the `m + k - 1` rows that `m` rows `y` see, and `g` the rows
of the kernel:

    kernel   m   products, of the definition's
    3 x 3    4   6 of 12
    5 x 5    4   8 of 20
    7 x 7    2   8 of 14

Its points are at most 2 and at least 1/2 in size, and one axis only is treated so: rounding errors
are about twice those of the definition. Both gradients have as few products as the result.
"""

import functools
import math
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

LAYOUT = ("NHWC", "HWIO", "NHWC")

TILE_ROWS = {3: 4, 5: 4, 7: 2}
"""Rows of the result that are computed together, by the side of the kernel."""

_POINTS = tuple(Fraction(point) for point in ("0", "1", "-1", "2", "-1/2", "-2", "1/2"))

CACHED_BYTES = 4 * 2**20
"""Transformed rows that are worked on at a time: what a core's caches hold."""


class Transforms(NamedTuple):
    """`y = A [(G g) * (B x)]`: float64 matrices (m, n), (n, k) and (n, n), n = m + k - 1."""

    A: np.ndarray
    G: np.ndarray
    B: np.ndarray


@functools.cache
def transforms(tile_rows: int, kernel_rows: int) -> Transforms:
    """Exact, of the first `m + k - 2` points and infinity."""
    products = tile_rows + kernel_rows - 1
    points = _POINTS[: products - 1]
    A = [[point**row for point in points] + [row == tile_rows - 1] for row in range(tile_rows)]
    G, B = [], []
    for index, point in enumerate(points):
        others = points[:index] + points[index + 1 :]
        scale = math.prod((point - other for other in others), start=Fraction(1))
        G.append([point**row / scale for row in range(kernel_rows)])
        B.append([*_polynomial(others), Fraction(0)])
    G.append([Fraction(row == kernel_rows - 1) for row in range(kernel_rows)])
    B.append(_polynomial(points))
    return Transforms(*(np.array(matrix, np.float64) for matrix in (A, G, B)))


def _polynomial(roots: tuple[Fraction, ...]) -> list[Fraction]:
    """Coefficients of the product of `(z - root)`, the constant first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        scaled = [root * value for value in coefficients] + [Fraction(0)]
        coefficients = [a - b for a, b in zip(shifted, scaled, strict=True)]
    return coefficients


def _combine(matrix: np.ndarray, arrays: list[jax.Array]) -> list[jax.Array]:
    """Each row of `matrix` times the arrays; zeros and ones cost nothing."""
    combined = []
    for row in matrix:
        terms = [
            array if factor == 1 else array * np.float32(factor)
            for factor, array in zip(row, arrays, strict=True)
            if factor
        ]
        combined.append(functools.reduce(jnp.add, terms))
    return combined


class _Stretches(NamedTuple):
    """How a map is divided: `number` stretches an example, each of `tiles` tiles of rows."""

    tile_rows: int
    tiles: int
    number: int
    examples: int
    """Examples a stretch holds: all of them, or one."""

    @classmethod
    def of(cls, x_shape: tuple[int, ...], kernel_rows: int) -> "_Stretches":
        batch, height, width, channels = x_shape
        tile_rows = TILE_ROWS[kernel_rows]
        tiles = -(-height // tile_rows)
        products = tile_rows + kernel_rows - 1
        tile_bytes = products * width * channels * 4
        if batch * tiles * tile_bytes <= CACHED_BYTES:
            return cls(tile_rows, tiles, 1, batch)
        number = -(-tiles // max(CACHED_BYTES // tile_bytes, 1))
        return cls(tile_rows, -(-tiles // number), number, 1)

    @property
    def rows(self) -> int:
        """Rows of a stretch."""
        return self.tile_rows * self.tiles


def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """'same' convolution of x (B, H, W, C) with kernel (k, k, C, F), k a key of `TILE_ROWS`."""
    batch, height, width, _ = x.shape
    kernel_rows, _, _, features = kernel.shape
    stretches = _Stretches.of(x.shape, kernel_rows)
    matrices = transforms(stretches.tile_rows, kernel_rows)
    kernels = [part[None] for part in _combine(matrices.G, list(kernel))]
    x = _pad_rows(x, stretches, kernel_rows // 2)

    def stretch(index: jax.Array | int) -> jax.Array:
        rows = _rows_of_stretch(x, stretches, index, 2 * (kernel_rows // 2))
        parts = _combine(matrices.B, _every_tile_row(rows, stretches, kernel_rows))
        products = [
            _conv_along_columns(_with_columns(a, width), b)
            for a, b in zip(parts, kernels, strict=True)
        ]
        tiles = jnp.stack(_combine(matrices.A, _flat(products)), axis=2)
        return tiles.reshape(stretches.examples, stretches.rows, width, features)

    if stretches.number == 1 and stretches.examples == batch:
        y = stretch(0)
    else:
        count = batch * stretches.number
        _, y = lax.scan(lambda _, index: (None, stretch(index)), None, jnp.arange(count))
    y = y.reshape(batch, stretches.number * stretches.rows, width, features)
    return y[:, :height]


def kernel_gradient(x: jax.Array, gradient: jax.Array, kernel_rows: int) -> jax.Array:
    """Gradient of `conv` with respect to its kernel, (k, k, C, F)."""
    batch, _, width, channels = x.shape
    features = gradient.shape[3]
    half = kernel_rows // 2
    stretches = _Stretches.of(x.shape, kernel_rows)
    matrices = transforms(stretches.tile_rows, kernel_rows)
    block = 2 if features < 32 and width % 2 == 0 else 1
    x = _pad_rows(x, stretches, half)
    gradient = _pad_rows(gradient, stretches, 0)
    x = jnp.pad(x, ((0, 0), (0, 0), (half, half + -(2 * half) % block), (0, 0)))
    padded_width = x.shape[2]

    def stretch(index: jax.Array | int) -> jax.Array:
        rows = _rows_of_stretch(x, stretches, index, 2 * half)
        parts = _combine(matrices.B, _every_tile_row(rows, stretches, kernel_rows))
        of_result = _rows_of_stretch(gradient, stretches, index, 0)
        tiles = _every_tile_row(of_result, stretches, 1)
        products = _combine(matrices.A.T, tiles)
        return jnp.stack(
            [
                _gradient_along_columns(
                    _with_columns(a, padded_width), _with_columns(b, width), block
                )
                for a, b in zip(parts, products, strict=True)
            ]
        )

    if stretches.number == 1 and stretches.examples == batch:
        total = stretch(0)
    else:
        zeros = jnp.zeros(jax.eval_shape(stretch, 0).shape, x.dtype)
        count = batch * stretches.number
        total, _ = lax.scan(lambda s, index: (s + stretch(index), None), zeros, jnp.arange(count))
    shifts = total.shape[2]
    total = total.reshape(-1, block, channels, shifts, block, features)
    # (products, shift, place of x, channels, place of the gradient, features)
    total = total.transpose(0, 3, 1, 2, 4, 5).reshape(-1, shifts * block, channels, block, features)
    taps = [total[:, place : place + kernel_rows, :, place] for place in range(block)]
    return jnp.stack(_combine(matrices.G.T, list(functools.reduce(jnp.add, taps))))


def _pad_rows(x: jax.Array, stretches: _Stretches, half: int) -> jax.Array:
    below = stretches.number * stretches.rows + half - x.shape[1]
    return jnp.pad(x, ((0, 0), (half, below), (0, 0), (0, 0)))


def _rows_of_stretch(
    x: jax.Array, stretches: _Stretches, index: jax.Array | int, halo: int
) -> jax.Array:
    """The rows that a stretch sees, of one example or of all."""
    if stretches.number == 1 and stretches.examples == x.shape[0]:
        return x
    example, number = index // stretches.number, index % stretches.number
    shape = (stretches.examples, stretches.rows + halo, *x.shape[2:])
    return lax.dynamic_slice(x, (example, number * stretches.rows, 0, 0), shape)


def _every_tile_row(rows: jax.Array, stretches: _Stretches, kernel_rows: int) -> list[jax.Array]:
    """The first row that each tile sees, the second, ...: (examples, tiles, W * C) each.

    Columns and channels as one long axis, over which the compiler's loops are fast.
    """
    rows = rows.reshape(*rows.shape[:2], -1)
    step, last = stretches.tile_rows, stretches.tile_rows * (stretches.tiles - 1)
    return [rows[:, r : r + last + 1 : step] for r in range(step + kernel_rows - 1)]


def _with_columns(rows: jax.Array, width: int) -> jax.Array:
    """(examples, tiles, W * C) -> (examples, tiles, W, C)."""
    return rows.reshape(*rows.shape[:2], width, -1)


def _flat(maps: list[jax.Array]) -> list[jax.Array]:
    """(examples, tiles, W, C) -> (examples, tiles, W * C) each."""
    return [array.reshape(*array.shape[:2], -1) for array in maps]


def _conv_along_columns(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """'same' convolution with a kernel of one row, neighbouring columns computed together."""
    features = kernel.shape[3]
    half = kernel.shape[1] // 2
    block = 2 if features < 32 and x.shape[2] % 2 == 0 else 1
    shifted = [jnp.pad(kernel, ((0, 0), (p, block - 1 - p), (0, 0), (0, 0))) for p in range(block)]
    y = lax.conv_general_dilated(
        x,
        jnp.concatenate(shifted, axis=-1),
        window_strides=(1, block),
        padding=((0, 0), (half, half)),
        dimension_numbers=LAYOUT,
    )
    return y.reshape(*x.shape[:3], features)


def _gradient_along_columns(x: jax.Array, gradient: jax.Array, block: int) -> jax.Array:
    """Every column of x padded times every column of the gradient, by their distance.

    Columns are taken in blocks: one's place in its block becomes an image of its own in x
    (`image = place, c`) and a feature of its own in the gradient (`feature = place, f`).

    Returns:
        (block * C, shifts in blocks, block * F).
    """
    examples, rows, padded_width, channels = x.shape
    _, _, width, features = gradient.shape
    x = x.reshape(examples * rows, padded_width // block, block, channels)
    gradient = gradient.reshape(examples * rows, width // block, 1, block * features)
    product = lax.conv_general_dilated(
        x.transpose(2, 3, 0, 1).reshape(block * channels, examples * rows, -1, 1),
        gradient,
        window_strides=(1, 1),
        padding="VALID",
        dimension_numbers=LAYOUT,
    )
    return product[:, 0]
