"""Convolution for XLA's CPU backend, where a plain `lax.conv` is far from the machine's speed.

XLA's CPU convolution is fast where it is a long product of patches with many output channels. Each
function here turns a shape for which it is slow into one for which it is fast. The thresholds were
measured with float32 on AVX-512 cores (`benchmarks/conv_lowering.py`; the section "Each
convolution" of `benchmarks/RESULTS.md` has the gains):

- Few channels (the full-resolution levels): a product with 16 output channels spends its time on
  gathering patches. Several neighbouring pixels are computed at once, as extra output channels, and
  share the patches; this costs a few products with zeros.
- The kernel's gradient: XLA sees a convolution whose window is the whole map, and gathers its
  patches one value at a time. Here each channel of the input is one image, and the gradient of a
  large map is a sum over chunks of rows that fit the cache.
- Wide kernels or many channels (most levels): a half to a third of the multiplications suffice
  (`cook_toom`), for the output and for the input's gradient.
- Tiny maps with many channels (the deepest levels): patches and one matrix product. The input's
  gradient is then a product with the kernel in the order in which it lies in memory.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from mbh_jax.models.ops import cook_toom

LAYOUT = ("NHWC", "HWIO", "NHWC")
"""The layout that XLA's CPU backend computes fast everywhere; others are slow inside loops."""

TINY_MAP_CHANNELS = 256
TINY_MAP_PIXELS = 64
TINY_MAP_PIXELS_BACKWARD = 256
"""Most pixels of a map, and least channels on both sides, to compute it as a matrix product."""

FEW_INPUT_CHANNELS = 16
WIDE_OUTPUT_CHANNELS = 32
MAX_BLOCK = 4
"""Neighbouring pixels are computed together up to this number of output channels, or of pixels."""

FEW_PIXELS = 128
"""With fewer pixels in all maps, the kernel is the left factor of the input's gradient."""

COOK_TOOM_CHANNELS = {3: (32, 16), 5: (16, 16), 7: (3, 16)}
COOK_TOOM_ROWS = 16
"""Least number of rows of a map, and of input and output channels by the kernel's side."""

SMALL_MAP_PIXELS = 4096
"""Up to this size the gradient of the kernel is not computed in row chunks."""

ROWS_AT_ONCE = 16
PIXELS_AT_ONCE = 4096
"""Rows, or pixels where those are more, of one row chunk of the kernel's gradient.

Less work is not worth dividing among cores, more does not fit the cache.
"""


def conv(x: jax.Array, kernel: jax.Array, dilation: int = 1) -> jax.Array:
    """'same' convolution of x (B, H, W, C) with kernel (k, k, C, F) -> (B, H, W, F)."""
    if _is_tiny(x, kernel, TINY_MAP_PIXELS):
        return _patches_conv(x, kernel, dilation)
    return _same_conv(x, kernel, dilation, _same_padding(kernel.shape[0], dilation))


def _same_conv(
    x: jax.Array, kernel: jax.Array, dilation: int, padding: tuple[int, int]
) -> jax.Array:
    """Convolution whose `padding` keeps the map's size."""
    side, _, channels, features = kernel.shape
    enough = COOK_TOOM_CHANNELS.get(side, (math.inf, math.inf))
    if (
        dilation == 1
        and x.dtype == jnp.float32
        and x.shape[1] >= COOK_TOOM_ROWS
        and channels >= enough[0]
        and features >= enough[1]
    ):
        return cook_toom.conv(x, kernel)
    return _padded_conv(x, kernel, dilation, padding)


def conv_gradients(
    x: jax.Array, kernel: jax.Array, gradient: jax.Array, dilation: int = 1
) -> tuple[jax.Array, jax.Array]:
    """Gradients of `conv` with respect to x and kernel, from that of its result (B, H, W, F)."""
    if _is_tiny(x, kernel, TINY_MAP_PIXELS_BACKWARD):
        return _patches_gradients(x, kernel, gradient, dilation)
    return _input_gradient(kernel, gradient, dilation), _kernel_gradient(
        x, gradient, kernel.shape[0], dilation
    )


def _same_padding(kernel_size: int, dilation: int) -> tuple[int, int]:
    """Zeros before and after each axis that keep the map's size: XLA's and Keras's SAME."""
    total = (kernel_size - 1) * dilation
    return total // 2, total - total // 2


def _is_tiny(x: jax.Array, kernel: jax.Array, pixels: int) -> bool:
    """Whether a map has at most `pixels` and many channels on both sides."""
    _, height, width, _ = x.shape
    return height * width <= pixels and min(kernel.shape[2:]) >= TINY_MAP_CHANNELS


def _patches(x: jax.Array, kernel_size: int, dilation: int) -> jax.Array:
    """What each place of the kernel sees: (B, H, W, C) -> (B * H * W, k * k * C)."""
    batch, height, width, _ = x.shape
    pad = _same_padding(kernel_size, dilation)
    x = jnp.pad(x, ((0, 0), pad, pad, (0, 0)))
    offsets = [tap * dilation for tap in range(kernel_size)]
    patches = jnp.concatenate(
        [x[:, r : r + height, c : c + width] for r in offsets for c in offsets], axis=-1
    )
    return patches.reshape(batch * height * width, -1)


def _patches_conv(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    """Convolution as patches times the kernel as a matrix (k * k * C, F)."""
    features = kernel.shape[3]
    product = _patches(x, kernel.shape[0], dilation) @ kernel.reshape(-1, features)
    return product.reshape(*x.shape[:3], features)


def _patches_gradients(
    x: jax.Array, kernel: jax.Array, gradient: jax.Array, dilation: int
) -> tuple[jax.Array, jax.Array]:
    """Gradients of `_patches_conv` with respect to x and the kernel."""
    patches, to_map = jax.vjp(lambda x: _patches(x, kernel.shape[0], dilation), x)
    matrix = kernel.reshape(-1, kernel.shape[3])
    pixels = gradient.reshape(-1, kernel.shape[3])
    if len(pixels) < FEW_PIXELS:
        # The barrier keeps XLA from writing it as the other product.
        of_patches = lax.optimization_barrier(matrix @ pixels.T).T
    else:
        of_patches = pixels @ matrix.T
    (of_map,) = to_map(of_patches)
    return of_map, (patches.T @ pixels).reshape(kernel.shape)


def _padded_conv(
    x: jax.Array, kernel: jax.Array, dilation: int, padding: tuple[int, int]
) -> jax.Array:
    """Convolution with `padding` zeros before and after both axes."""
    batch, height, width, channels = x.shape
    features = kernel.shape[3]
    block = 1
    if dilation == 1 and channels <= FEW_INPUT_CHANNELS:
        block = math.gcd(width, _block_size(features))
        # Patches of a number of channels that is no multiple of 4 are gathered one value at a time.
        missing = -channels % 4
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, missing)))
        kernel = jnp.pad(kernel, ((0, 0), (0, 0), (0, missing), (0, 0)))
    shifted = [jnp.pad(kernel, ((0, 0), (p, block - 1 - p), (0, 0), (0, 0))) for p in range(block)]
    y = lax.conv_general_dilated(
        x,
        jnp.concatenate(shifted, axis=-1),
        window_strides=(1, block),
        padding=(padding, padding),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=LAYOUT,
    )
    return y.reshape(batch, height, width, features)


def _block_size(features: int) -> int:
    """How many neighbouring pixels to compute together for `features` output channels."""
    return min(max(WIDE_OUTPUT_CHANNELS // features, 1), MAX_BLOCK)


def _input_gradient(kernel: jax.Array, gradient: jax.Array, dilation: int) -> jax.Array:
    """Gradient with respect to x: convolution with the kernel turned by 180 degrees."""
    before, after = _same_padding(kernel.shape[0], dilation)
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    return _same_conv(gradient, turned, dilation, (after, before))


def _kernel_gradient(
    x: jax.Array, gradient: jax.Array, kernel_size: int, dilation: int
) -> jax.Array:
    """Gradient with respect to the kernel, (k, k, C, F).

    `d kernel[i, j, c, f] = sum over pixels (h, w) of x[h + i, w + j, c] * gradient[h, w, f]`, x
    padded: a convolution over the images x[..., c] whose kernel is a chunk of `gradient`'s rows.

    With few features, rows are blocked in pairs or fours. A row of a block is then a channel of its
    own, in x (`channel = row in block, c`) and in the gradient (`feature = row in block, f`), and
    the distance of any row of x from any row of the gradient is the distance of their blocks times
    the block's height plus that of their places in it.
    """
    batch, height, width, channels = x.shape
    features = gradient.shape[3]
    if height * width <= SMALL_MAP_PIXELS:
        return _plain_kernel_gradient(x, gradient, kernel_size, dilation)

    before, after = _same_padding(kernel_size, dilation)
    block = _block_size(features) if dilation == 1 else 1
    rows = min(max(ROWS_AT_ONCE, PIXELS_AT_ONCE // width), height)
    rows = -(-rows // block)  # of blocks in a chunk
    chunks = -(-height // (rows * block))
    halo = -(-(before + after) // block)  # blocks below a chunk that its last rows reach
    blocks = chunks * rows
    taps = halo + 1 if dilation == 1 else kernel_size

    below = (blocks + halo) * block - height - before
    x = jnp.pad(x, ((0, 0), (before, below), (before, after), (0, 0)))
    padded_width = width + before + after
    x = x.reshape(batch, blocks + halo, block, padded_width, channels)
    gradient = jnp.pad(gradient, ((0, 0), (0, blocks * block - height), (0, 0), (0, 0)))
    gradient = gradient.reshape(batch, blocks, block, width, features)

    def add_chunk(total: jax.Array, index: jax.Array) -> tuple[jax.Array, None]:
        example, first = index // chunks, index % chunks * rows
        # Here and not before the loop: a chunk fits the cache.
        images = lax.dynamic_slice(
            x, (example, first, 0, 0, 0), (1, rows + halo, block, padded_width, channels)
        ).transpose(2, 4, 0, 1, 3)
        window = lax.dynamic_slice(
            gradient, (example, first, 0, 0, 0), (1, rows, block, width, features)
        )
        term = lax.conv_general_dilated(
            images.reshape(block * channels, rows + halo, padded_width, 1),
            window.swapaxes(2, 3).reshape(rows, width, 1, block * features),
            window_strides=(dilation, dilation),
            padding="VALID",
            dimension_numbers=LAYOUT,
        )
        return total + term, None

    total = jnp.zeros((block * channels, taps, kernel_size, block * features), x.dtype)
    total, _ = lax.scan(add_chunk, total, jnp.arange(batch * chunks))
    total = total.reshape(block, channels, taps, kernel_size, block, features)
    by_distance = total.transpose(2, 0, 3, 1, 4, 5)  # taps, row in block, ...
    by_distance = by_distance.reshape(taps * block, kernel_size, channels, block, features)
    parts = [by_distance[row : row + kernel_size, :, :, row] for row in range(block)]
    return functools.reduce(jnp.add, parts)


def _plain_kernel_gradient(
    x: jax.Array, gradient: jax.Array, kernel_size: int, dilation: int
) -> jax.Array:
    """`_kernel_gradient` as one convolution of images x[..., c] with a kernel as large as the map.

    XLA's own gradient is the same convolution in another layout, which loops make slow.
    """
    pad = _same_padding(kernel_size, dilation)
    images = jnp.pad(x, ((0, 0), pad, pad, (0, 0))).transpose(3, 1, 2, 0)
    kernel_gradient = lax.conv_general_dilated(
        images,
        gradient.transpose(1, 2, 0, 3),
        window_strides=(dilation, dilation),
        padding="VALID",
        dimension_numbers=LAYOUT,
    )
    return kernel_gradient.transpose(1, 2, 0, 3)
