"""What FlexUNet's layers become on each platform: same arguments, same results within rounding.

Elsewhere than on a CPU these are the plain operations of `jax.lax`, which GPU and TPU compilers
know best. On a CPU XLA leaves much of the machine idle on some of the shapes a U-Net is made of;
`cpu_conv` says which and what is done instead. `benchmarks/conv_lowering.py` measures both.
"""

import jax
import jax.numpy as jnp
from jax import lax

from mbh_jax.models.ops import cpu_conv


def conv(x: jax.Array, kernel: jax.Array, dilation: int = 1) -> jax.Array:
    """Convolution (cross-correlation) of stride 1 with 'same' zero padding.

    Args:
        x: (B, H, W, C).
        kernel: (k, k, C, features), of the dtype of `x`.
        dilation: distance in pixels between neighbouring taps of the kernel.

    Returns:
        (B, H, W, features) of the dtype of `x`.
    """
    if kernel.shape[:2] == (1, 1):
        return x @ kernel[0, 0]
    if jax.default_backend() == "cpu":
        return cpu_conv.conv(x, kernel, dilation)
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1, 1),
        padding="SAME",
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def up_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """2x2 transposed convolution of stride 2: matrix products, then depth to space.

    Args:
        x: (B, H, W, C).
        kernel: (2, 2, C, features), of the dtype of `x`. Output pixel (2r + a, 2c + b) is input
            pixel (r, c) times `kernel[a, b]`: windows do not overlap.

    Returns:
        (B, 2H, 2W, features) of the dtype of `x`.
    """
    batch, height, width, channels = x.shape
    features = kernel.shape[-1]
    x = x.reshape(-1, channels)
    if len(x) < channels:  # The kernel is the larger one: use it as it lies in memory.
        pixels = jnp.stack([x @ tap for tap in kernel.reshape(4, channels, features)], axis=1)
    else:
        pixels = x @ kernel.transpose(2, 0, 1, 3).reshape(channels, 4 * features)
    rows = pixels.reshape(batch, height, width, 2, 2 * features).swapaxes(2, 3)
    return rows.reshape(batch, 2 * height, 2 * width, features)


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
    """2x2 max-pool of stride 2, (B, H, W, C) -> (B, H/2, W/2, C), H and W even.

    The gradient goes to the first maximum of a window in row-major order, as in XLA's and
    TensorFlow's. It needs only the position of that maximum, one byte a window.
    """
    return _windows(x).max(axis=(2, 4))


def _windows(x: jax.Array) -> jax.Array:
    """(B, H, W, C) -> (B, H/2, 2, W/2, 2, C)."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels)


def _max_pool_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    windows = _windows(x)
    largest = windows.max(axis=(2, 4))
    position = jnp.full(largest.shape, 3, jnp.uint8)
    for index, (row, column) in reversed(list(enumerate([(0, 0), (0, 1), (1, 0)]))):
        is_largest = windows[:, :, row, :, column] == largest
        position = jnp.where(is_largest, jnp.uint8(index), position)
    return largest, position


def _max_pool_backward(position: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    batch, height, width, channels = gradient.shape
    pixel = jnp.arange(4, dtype=jnp.uint8).reshape(2, 1, 2, 1)
    chosen = position[:, :, None, :, None] == pixel
    spread = jnp.where(chosen, gradient[:, :, None, :, None], 0)
    return (spread.reshape(batch, 2 * height, 2 * width, channels),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)
