"""Convolution with fewer multiplications than its definition has: Cook-Toom, along the rows.

`m` rows of the result of a kernel of `k` rows are a product of polynomials, which `m + k - 1`
products determine where the definition takes `m * k` (Toom 1963, Cook 1966; for networks Lavin and
Gray 2016, arXiv:1509.09308). A product here is a convolution along the columns, which XLA computes
well. With `y = A [(G g) * (B x)]`, `x` the `m + k - 1` rows that `m` rows `y` see, and `g` the rows
of the kernel:

    kernel   m   products, of the definition's
    3 x 3    4   6 of 12
    5 x 5    4   8 of 20
    7 x 7    4   14 of 28 (in two parts)

Its points are at most 2 and at least 1/2 in size, and one axis only is treated so: rounding errors
are about twice those of the definition. Both gradients have as few products as the result.
"""

import functools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

LAYOUT = ("NHWC", "HWIO", "NHWC")


class _Form(NamedTuple):
    """Rows of the result of a tile, rows of a part of the kernel, and such parts in a kernel."""

    tile_rows: int
    part_rows: int
    parts: int


FORMS = {3: _Form(4, 3, 1), 5: _Form(4, 5, 1), 7: _Form(4, 4, 2)}
"""By the side of the kernel. With several parts, a part begins where a tile does."""

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

    tiles: int
    number: int
    examples: int
    """Examples a stretch holds: all of them, or one."""

    @classmethod
    def of(cls, x_shape: tuple[int, ...], form: _Form) -> "_Stretches":
        batch, height, width, channels = x_shape
        tiles = -(-height // form.tile_rows)
        products = form.tile_rows + form.part_rows - 1
        tile_bytes = products * width * channels * 4
        if batch * tiles * tile_bytes <= CACHED_BYTES:
            return cls(tiles, 1, batch)
        number = -(-tiles // max(CACHED_BYTES // tile_bytes, 1))
        return cls(-(-tiles // number), number, 1)


def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """'same' convolution of x (B, H, W, C) with kernel (k, k, C, F), k a key of `FORMS`."""
    batch, height, width, _ = x.shape
    side, _, _, features = kernel.shape
    form = FORMS[side]
    A, G, B = transforms(form.tile_rows, form.part_rows)
    stretches = _Stretches.of(x.shape, form)
    kernel = jnp.pad(kernel, ((0, form.part_rows * form.parts - side), (0, 0), (0, 0), (0, 0)))
    kernel = kernel.reshape(form.parts, form.part_rows, -1)
    kernels = [
        part.reshape(form.parts, side, -1, features)
        for part in _combine(G, [kernel[:, row] for row in range(form.part_rows)])
    ]
    x = _pad_rows(x, stretches, form, side // 2)

    def stretch(rows: jax.Array) -> jax.Array:
        seen = _tile_rows(rows, form, stretches.tiles + form.parts - 1, form.part_rows)
        products = [
            _conv_along_columns(_with_columns(a, width), b)
            for a, b in zip(_combine(B, seen), kernels, strict=True)
        ]
        tiles = [array.reshape(*array.shape[:2], -1) for array in products]
        return jnp.stack(_combine(A, tiles), axis=2)

    y = _map_stretches(stretch, (x,), stretches, form)
    return y.reshape(batch, -1, width, features)[:, :height]


def kernel_gradient(x: jax.Array, gradient: jax.Array, side: int) -> jax.Array:
    """Gradient of `conv` with respect to its kernel, (k, k, C, F)."""
    _, _, width, channels = x.shape
    features = gradient.shape[3]
    form = FORMS[side]
    A, G, B = transforms(form.tile_rows, form.part_rows)
    stretches = _Stretches.of(x.shape, form)
    block = 2 if features < 32 and width % 2 == 0 else 1
    half = side // 2
    x = _pad_rows(x, stretches, form, half)
    x = jnp.pad(x, ((0, 0), (0, 0), (half, half + -(2 * half) % block), (0, 0)))
    padded_width = x.shape[2]
    gradient = _pad_rows(gradient, stretches, form, 0)

    def stretch(rows: jax.Array, gradient_rows: jax.Array) -> jax.Array:
        seen = _tile_rows(rows, form, stretches.tiles + form.parts - 1, form.part_rows)
        given = _tile_rows(gradient_rows, form, stretches.tiles, 1)
        return jnp.stack(
            [
                _gradient_along_columns(
                    _with_columns(a, padded_width), _with_columns(b, width), block
                )
                for a, b in zip(_combine(B, seen), _combine(A.T, given), strict=True)
            ]
        )

    total = _sum_stretches(stretch, (x, gradient), stretches, form)
    products, _, parts, shifts, _ = total.shape
    total = total.reshape(products, block, channels, parts, shifts, block, features)
    # From an image for each place in a block to a shift of its own.
    total = total.transpose(0, 3, 4, 1, 2, 5, 6)
    total = total.reshape(products, parts, shifts * block, channels, block, features)
    taps = [total[:, :, place : place + side, :, place] for place in range(block)]
    rows = jnp.stack(_combine(G.T, list(functools.reduce(jnp.add, taps))), axis=1)
    return rows.reshape(-1, side, channels, features)[:side]


def _pad_rows(x: jax.Array, stretches: _Stretches, form: _Form, above: int) -> jax.Array:
    """Zeros above, and as many below as the last stretch sees."""
    rows = stretches.number * stretches.tiles * form.tile_rows + _halo(form)
    return jnp.pad(x, ((0, 0), (above, rows - above - x.shape[1]), (0, 0), (0, 0)))


def _halo(form: _Form) -> int:
    """Rows below a stretch that its last tile sees."""
    return (form.parts - 1) * form.tile_rows + form.part_rows - 1


def _stretch_of(
    arrays: tuple[jax.Array, ...], stretches: _Stretches, form: _Form, index: jax.Array
) -> list[jax.Array]:
    """The rows that a stretch sees."""
    step = stretches.tiles * form.tile_rows
    example, number = index // stretches.number, index % stretches.number
    return [
        lax.dynamic_slice(
            array, (example, number * step, 0, 0), (1, step + _halo(form), *array.shape[2:])
        )
        for array in arrays
    ]


def _map_stretches(
    function: Callable[..., jax.Array],
    arrays: tuple[jax.Array, ...],
    stretches: _Stretches,
    form: _Form,
) -> jax.Array:
    """`function` of the rows of each stretch, one after another."""
    count = arrays[0].shape[0] * stretches.number
    if stretches.examples * stretches.number == count:
        return function(*arrays)
    return lax.map(
        lambda index: function(*_stretch_of(arrays, stretches, form, index)), jnp.arange(count)
    )


def _sum_stretches(
    function: Callable[..., jax.Array],
    arrays: tuple[jax.Array, ...],
    stretches: _Stretches,
    form: _Form,
) -> jax.Array:
    """The sum of `function` over stretches."""
    count = arrays[0].shape[0] * stretches.number
    if stretches.examples * stretches.number == count:
        return function(*arrays)

    def add(total: jax.Array, index: jax.Array) -> tuple[jax.Array, None]:
        return total + function(*_stretch_of(arrays, stretches, form, index)), None

    first = function(*_stretch_of(arrays, stretches, form, jnp.zeros((), jnp.int32)))
    return lax.scan(add, first, jnp.arange(1, count))[0]


def _tile_rows(rows: jax.Array, form: _Form, tiles: int, part_rows: int) -> list[jax.Array]:
    """The first row that each tile sees, the second, ...: (examples, tiles, W * C) each.

    Columns and channels as one long axis, over which the compiler's loops are fast.
    """
    rows = rows.reshape(*rows.shape[:2], -1)
    last = form.tile_rows * (tiles - 1)
    number = form.tile_rows + part_rows - 1
    return [rows[:, r : r + last + 1 : form.tile_rows] for r in range(number)]


def _with_columns(rows: jax.Array, width: int) -> jax.Array:
    """(examples, tiles, W * C) -> (examples, tiles, W, C)."""
    return rows.reshape(*rows.shape[:2], width, -1)


def _conv_along_columns(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution, 'same' along columns and 'valid' along rows, two columns together if thin."""
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
    return y.reshape(*y.shape[:2], -1, features)


def _gradient_along_columns(x: jax.Array, gradient: jax.Array, block: int) -> jax.Array:
    """Every column of x padded times every column of the gradient, by their distance.

    Columns are taken in blocks: one's place in its block becomes an image of its own in x
    (`image = place, c`) and a feature of its own in the gradient (`feature = place, f`).

    Returns:
        (block * C, parts, shifts in blocks, block * F).
    """
    _, rows, padded_width, channels = x.shape
    examples, tiles, width, features = gradient.shape
    x = x.reshape(examples, rows, padded_width // block, block, channels)
    gradient = gradient.reshape(examples, tiles, width // block, block * features)
    # Examples are channels of the images, which the product sums over.
    return lax.conv_general_dilated(
        x.transpose(3, 4, 1, 2, 0).reshape(block * channels, rows, -1, examples),
        gradient.transpose(1, 2, 0, 3),
        window_strides=(1, 1),
        padding="VALID",
        dimension_numbers=LAYOUT,
    )
