"""Transforms of the values of an image, written as batchgeneratorsv2 computes them.

Everything here is for one example (H,W,C) float32, parameters are one a channel; callers use
`jax.vmap`. A parameter that is off leaves the image as it is.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from mbh_jax.data.augmentation import draws
from mbh_jax.data.augmentation.presets import Preset
from mbh_jax.imageio.windows import BRAIN

_LARGEST_RADIUS = 3
"""Pixels from the middle to the end of the largest kernel of `blur`."""


def change_window(key: jax.Array, hu: jax.Array, preset: Preset) -> jax.Array:
    """Changes HU as if the brain window had another level and width; other windows change alike.

    Args:
        key: PRNG key of the example.
        hu: (H,W,S), any number type; all slices change alike.
        preset: with `window_level_hu` and `window_width`.

    Returns:
        (H,W,S) float32 HU, or `hu` unchanged where both are off.
    """
    if not (preset.window_level_hu.probability or preset.window_width.probability):
        return hu
    (numbers,) = draws.numbers(key, draws.shape_for(2, 1))
    shift_hu = draws.uniform(numbers[0], preset.window_level_hu, 0.0)
    width = draws.factor(numbers[1], preset.window_width)
    level_hu = BRAIN.level_hu
    return (hu.astype(jnp.float32) - level_hu - shift_hu) / width + level_hu


def shape_of_numbers(channels: int) -> tuple[int, int, int]:
    """Of the random numbers that `change_intensity` takes."""
    return draws.shape_for(7, channels)


def change_intensity(
    numbers: jax.Array, noise_key: jax.Array, image: jax.Array, preset: Preset
) -> jax.Array:
    """Noise, blur, brightness, contrast, low resolution, inverted gamma and gamma, in this order.

    Args:
        numbers: uniform random numbers from 0 to 1, of `shape_of_numbers(C)`.
        noise_key: PRNG key of the noise.
        image: (H,W,S*C) float32 on the scale of blood (`mbh_jax.data.augmentation.presets`), the C
            windows of each of S slices. A window is changed alike in all slices.
        preset: ranges of the parameters.
    """
    num_windows = numbers.shape[-1]
    num_slices = image.shape[-1] // num_windows
    if num_slices > 1:
        numbers = jnp.tile(numbers, num_slices)
    if preset.noise.probability:
        std = draws.uniform(numbers[0], preset.noise, 0.0)[0]
        add = functools.partial(add_noise, noise_key, num_slices=num_slices)
        image = _unless_off(add, image, std, 0.0)
    if preset.blur.probability:
        sigma = [draws.uniform(numbers[1], preset.blur, 0.0, second=axis > 0) for axis in range(2)]
        image = _unless_off(blur, image, jnp.stack(sigma, axis=-1), 0.0)
    if preset.brightness.probability:
        image *= draws.factor(numbers[2], preset.brightness)
    if preset.contrast.probability:
        factor = draws.factor(numbers[3], preset.contrast)
        image = _unless_off(change_contrast, image, factor, 1.0)
    if preset.low_resolution.probability:
        fraction = draws.uniform(numbers[4], preset.low_resolution, 1.0)
        image = _unless_off(lower_resolution, image, fraction, 1.0)
    if preset.inverted_gamma.probability:
        exponent = draws.factor(numbers[5], preset.inverted_gamma)
        image = -_unless_off(change_gamma, -image, exponent, 1.0)
    if preset.gamma.probability:
        exponent = draws.factor(numbers[6], preset.gamma)
        image = _unless_off(change_gamma, image, exponent, 1.0)
    return image


def _unless_off(
    change: Callable[[jax.Array, jax.Array], jax.Array],
    image: jax.Array,
    parameter: jax.Array,
    off: float,
) -> jax.Array:
    """`change(image, parameter)`, not computed where the parameter is off in all channels.

    Under `jax.vmap` both are computed and one is taken.
    """
    return jax.lax.cond((parameter == off).all(), lambda image, _: image, change, image, parameter)


def add_noise(
    key: jax.Array, image: jax.Array, std: jax.Array, *, num_slices: int = 1
) -> jax.Array:
    """Adds Gaussian noise with standard deviation `std` (), in each slice one for all windows."""
    field = jax.random.normal(key, (*image.shape[:2], num_slices))
    if num_slices > 1:
        field = jnp.repeat(field, image.shape[-1] // num_slices, axis=-1)
    return image + std * field


def blur(image: jax.Array, sigma: jax.Array) -> jax.Array:
    """Gaussian blur along rows and columns, the edge mirrored without repeating it.

    Args:
        image: (H,W,C).
        sigma: (C,2) standard deviations in pixels along rows and columns, at most 1.2; 0: off. The
            kernel ends `floor(3 sigma + 1/4)` pixels from its middle.
    """
    for axis in range(2):
        offset = jnp.arange(-_LARGEST_RADIUS, _LARGEST_RADIUS + 1)[:, None]
        width = sigma[:, axis]
        kernel = jnp.exp(-0.5 * (offset / jnp.where(width > 0, width, 1.0)) ** 2)
        kernel *= jnp.abs(offset) <= jnp.floor(3 * width + 0.25)
        kernel /= kernel.sum(0)
        padding = [(0, 0)] * 3
        padding[axis] = (_LARGEST_RADIUS, _LARGEST_RADIUS)
        padded, size = jnp.pad(image, padding, mode="reflect"), image.shape[axis]
        image = sum(
            tap * jax.lax.slice_in_dim(padded, start, start + size, axis=axis)
            for start, tap in enumerate(kernel)
        )
    return image


def change_contrast(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Multiplies the distance from the mean of each channel by `factor` (C,); keeps its range."""
    mean, low, high = (f(image, axis=(0, 1)) for f in (jnp.mean, jnp.min, jnp.max))
    changed = jnp.clip((image - mean) * factor + mean, low, high)
    return jnp.where(factor == 1.0, image, changed)


def lower_resolution(image: jax.Array, fraction: jax.Array) -> jax.Array:
    """Samples each channel down to the nearest pixels, and up again bilinearly.

    Args:
        image: (H,W,C).
        fraction: (C,) of the side that is left; 1: off.
    """
    return jax.vmap(_lower_resolution_of_channel, in_axes=-1, out_axes=-1)(image, fraction)


def _lower_resolution_of_channel(image: jax.Array, fraction: jax.Array) -> jax.Array:
    for axis in range(2):
        size = image.shape[axis]
        left = jnp.round(fraction * size)
        # Where each pixel lies between those that are left.
        position = jnp.clip((jnp.arange(size) + 0.5) * (left / size) - 0.5, 0.0, left - 1)
        first = jnp.floor(position)
        share = position - first
        share = share[:, None] if axis == 0 else share
        before, after = (
            _nearest(image, axis, jnp.minimum(which, left - 1), left)
            for which in (first, first + 1)
        )
        image = (1 - share) * before + share * after
    return image


def _nearest(image: jax.Array, axis: int, which: jax.Array, left: jax.Array) -> jax.Array:
    """The pixels along an axis that are left, by their numbers among `left`."""
    size = image.shape[axis]
    source = jnp.clip(jnp.floor((which + 0.5) * (size / left)), 0, size - 1)
    return jnp.take(image, source.astype(jnp.int32), axis=axis, mode="clip")


def change_gamma(image: jax.Array, exponent: jax.Array) -> jax.Array:
    """Raises values within the range of their channel to a power; mean and deviation are kept.

    Args:
        image: (H,W,C).
        exponent: (C,); 1: off.
    """
    axes = (0, 1)
    low = image.min(axes)
    extent = image.max(axes) - low
    # Rounding must not make a base negative, whose power would be NaN.
    base = jnp.maximum((image - low) / jnp.maximum(extent, _TINY), 0.0)
    changed = base**exponent * extent + low
    ratio = image.std(axes, ddof=1) / jnp.maximum(changed.std(axes, ddof=1), _TINY)
    changed = (changed - changed.mean(axes)) * ratio + image.mean(axes)
    return jnp.where(exponent == 1.0, image, changed)


_TINY = 1e-7
"""The smallest divisor, for channels of one value."""
