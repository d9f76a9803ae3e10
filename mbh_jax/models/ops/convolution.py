"""Convolutions: the same arguments and results on every platform, within rounding.

On a GPU or TPU `conv` is the plain operation of `jax.lax`, which those compilers know best. On a
CPU XLA leaves much of the machine idle on some of the shapes of a U-Net; `cpu_conv` says which, and
what is done instead. The choice is made when a program is compiled for its platform, not when it is
traced: a program exported on a CPU for a GPU holds plain convolutions. No choice depends on the
batch size, so that it may be symbolic in an export.
"""

import contextlib
import contextvars
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import lax

from mbh_jax.models.ops import cpu_conv

LARGE_UP_KERNEL = 8
"""The kernel of `up_conv` is used as it lies in memory where an image has so many times fewer
pixels than channels: reordering it would take longer than the product."""

_only_plain = contextvars.ContextVar("only_plain", default=False)


@contextlib.contextmanager
def only_plain_convolutions() -> Iterator[None]:
    """Networks traced inside the block hold plain convolutions alone, on a CPU too.

    For exporters of formats that do not know platforms, such as ONNX.
    """
    token = _only_plain.set(True)
    try:
        yield
    finally:
        _only_plain.reset(token)


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
    if _only_plain.get():
        return plain_conv(x, kernel, dilation)
    return _conv(x, kernel, dilation)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    return lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(cpu_conv.conv, dilation=dilation),
        default=functools.partial(plain_conv, dilation=dilation),
    )


def _conv_forward(
    x: jax.Array, kernel: jax.Array, dilation: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _conv(x, kernel, dilation), (x, kernel)


def _conv_backward(
    dilation: int, residuals: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return lax.platform_dependent(
        *residuals,
        gradient,
        cpu=functools.partial(cpu_conv.conv_gradients, dilation=dilation),
        default=functools.partial(_plain_gradients, dilation=dilation),
    )


_conv.defvjp(_conv_forward, _conv_backward)


def strided_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution of stride 2 with a window centred on every second pixel, from the first on.

    Zeros are padded on both sides alike, as PyTorch's `padding=k // 2` does.

    Args:
        x: (B, H, W, C), H and W even.
        kernel: (3, 3, C, features), of the dtype of `x`.

    Returns:
        (B, H/2, W/2, features) of the dtype of `x`.
    """
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(2, 2),
        padding=((pad, pad), (pad, pad)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def plain_conv(x: jax.Array, kernel: jax.Array, dilation: int = 1) -> jax.Array:
    """`conv` as one operation of `jax.lax`."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1, 1),
        padding="SAME",
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _plain_gradients(
    x: jax.Array, kernel: jax.Array, gradient: jax.Array, dilation: int
) -> tuple[jax.Array, jax.Array]:
    _, pullback = jax.vjp(functools.partial(plain_conv, dilation=dilation), x, kernel)
    return pullback(gradient)


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
    if height * width * LARGE_UP_KERNEL < channels:
        pixels = jnp.stack([x @ tap for tap in kernel.reshape(4, channels, features)], axis=1)
    else:
        pixels = x @ kernel.transpose(2, 0, 1, 3).reshape(channels, 4 * features)
    rows = pixels.reshape(batch, height, width, 2, 2 * features).swapaxes(2, 3)
    return rows.reshape(batch, 2 * height, 2 * width, features)
