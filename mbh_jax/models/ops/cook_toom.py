"""Convolution with fewer multiplications than its definition has: Cook-Toom, along the rows.

`m` rows of the result of a kernel of `k` rows are coefficients of a product of polynomials, which
its values at `m + k - 1` points determine, where the definition takes `m * k` products (Toom 1963,
Cook 1966; for networks: Lavin and Gray 2016, arXiv:1509.09308). A product here is a convolution
along the columns, which XLA computes well. With x the rows that m rows y of the result see, and g
the rows of the kernel, `y = A [(G g) * (B x)]`:

    kernel   m   products of the definition's
    3 x 3    4    6 of 12
    5 x 5    6   10 of 30
    7 x 7    4   10 of 28

More rows at once need more points, and points far from 1 cost digits; of nine ways to choose the
last two points, -1/4 and 4 had nearly the least error for both kernels. Only one axis is treated
so, and rounding errors are 2 times (3 x 3) to 9 times (5 x 5) those of the definition.
"""

import functools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

LAYOUT = ("NHWC", "HWIO", "NHWC")

_POINTS = tuple(map(Fraction, ("0", "1", "-1", "2", "-1/2", "-2", "1/2", "-1/4", "4")))
"""Where polynomials are evaluated, as many as are needed; infinity is always the last."""

TILE_ROWS = {3: 4, 5: 6, 7: 4}
"""Output rows that are computed together, by the side of the kernel."""


class Transforms(NamedTuple):
    """`y = A [(G g) * (B x)]`: float64 matrices (m, n), (n, k) and (n, n), n = m + k - 1."""

    A: np.ndarray
    G: np.ndarray
    B: np.ndarray


@functools.cache
def transforms(tile_rows: int, kernel_rows: int) -> Transforms:
    """The matrices for `tile_rows` output rows of a kernel of `kernel_rows` rows."""
    points = _POINTS[: tile_rows + kernel_rows - 2]
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


def _polynomial(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients of the product of `(z - root)`, the constant first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        scaled = [*(root * value for value in coefficients), Fraction(0)]
        coefficients = [a - b for a, b in zip(shifted, scaled, strict=True)]
    return coefficients


def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """'same' convolution of x (B, H, W, C) with kernel (k, k, C, F), k a key of `TILE_ROWS`."""
    batch, height, width, _ = x.shape
    side, features = kernel.shape[0], kernel.shape[3]
    tile_rows = TILE_ROWS[side]
    A, G, B = transforms(tile_rows, side)
    kernels = _combine(G, [kernel[row : row + 1] for row in range(side)])
    products = [
        _conv_along_columns(rows, row_kernel)
        for rows, row_kernel in zip(_evaluated(x, tile_rows, side, B), kernels, strict=True)
    ]
    tiles = [array.reshape(*array.shape[:2], -1) for array in products]
    y = jnp.stack(_combine(A, tiles), axis=2)
    return y.reshape(batch, -1, width, features)[:, :height]


def _evaluated(x: jax.Array, tile_rows: int, side: int, B: np.ndarray) -> list[jax.Array]:
    """The polynomials of the rows that tiles read, at each point: (batch, tiles, W, C) each."""
    height, width = x.shape[1:3]
    tiles = -(-height // tile_rows)
    seen = tile_rows + side - 1
    above = side // 2
    below = (tiles - 1) * tile_rows + seen - above - height
    x = jnp.pad(x, ((0, 0), (above, below), (0, 0), (0, 0)))
    rows = _rows_of_tiles(x, tile_rows, seen)
    return [row.reshape(*row.shape[:2], width, -1) for row in _combine(B, rows)]


def _rows_of_tiles(x: jax.Array, tile_rows: int, seen: int) -> list[jax.Array]:
    """The first row that each tile reads, the second, ...: (batch, tiles, W * C) each.

    Columns and channels as one long axis, over which the compiler's loops are fast.
    """
    x = x.reshape(*x.shape[:2], -1)
    last = x.shape[1] - seen
    return [x[:, row : row + last + 1 : tile_rows] for row in range(seen)]


def _combine(matrix: np.ndarray, arrays: Sequence[jax.Array]) -> list[jax.Array]:
    """For each row of a matrix, the sum of arrays times its factors."""
    return [
        functools.reduce(
            jnp.add,
            [
                array if factor == 1 else array * jnp.asarray(factor, array.dtype)
                for factor, array in zip(row, arrays, strict=True)
                if factor
            ],
        )
        for row in matrix
    ]


def _conv_along_columns(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """'same' convolution with a kernel of one row; with few channels, two columns at once."""
    features, half = kernel.shape[3], kernel.shape[1] // 2
    block = 2 if features < 32 and x.shape[2] % 2 == 0 else 1
    shifted = [jnp.pad(kernel, ((0, 0), (p, block - 1 - p), (0, 0), (0, 0))) for p in range(block)]
    y = lax.conv_general_dilated(
        x,
        jnp.concatenate(shifted, axis=-1),
        window_strides=(1, block),
        padding=((0, 0), (half, half)),
        dimension_numbers=LAYOUT,
    )
    return y.reshape(*y.shape[:2], -1, features)
