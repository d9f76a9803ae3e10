"""Pooling of 2 x 2 windows: the maximum, whose gradient needs one byte a window, and the mean."""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
    """2x2 max-pool of stride 2, (B, H, W, C) -> (B, H/2, W/2, C), H and W even.

    The gradient goes to the first maximum of a window in row-major order, as in XLA's and
    TensorFlow's. It needs only the position of that maximum, one byte a window.
    """
    return _windows(x).max(axis=(2, 4))


def mean_pool(x: jax.Array) -> jax.Array:
    """2x2 mean-pool of stride 2, (B, H, W, C) -> (B, H/2, W/2, C), H and W even."""
    return _windows(x).mean(axis=(2, 4))


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
