"""Random parameters of transforms, from uniform random numbers of one example.

All numbers of an example are drawn at once, because each draw by itself takes time to compile.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from mbh_jax.data.augmentation.presets import Range

_ACTS, _ACTS_ON_CHANNEL, _FIRST, _SECOND = range(4)


def numbers(key: jax.Array, *shapes: tuple[int, ...]) -> list[jax.Array]:
    """Arrays of these shapes with uniform random numbers from 0 to below 1."""
    sizes = [math.prod(shape) for shape in shapes]
    parts = jnp.split(jax.random.uniform(key, (sum(sizes),)), np.cumsum(sizes)[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def shape_for(transforms: int, channels: int) -> tuple[int, int, int]:
    """Of the numbers that `uniform` and `factor` take, a row for each transform."""
    return transforms, 4, channels


def uniform(numbers: jax.Array, bounds: Range, off: float, *, second: bool = False) -> jax.Array:
    """Values (C,) between the bounds, `off` where the transform does not act.

    Args:
        numbers: (4,C) uniform random numbers.
        bounds: of the values, and the probabilities of acting.
        off: the value without effect.
        second: take another value than without, for the same channels.
    """
    share = numbers[_SECOND if second else _FIRST]
    values = bounds.low + (bounds.high - bounds.low) * share
    return jnp.where(_acts(numbers, bounds), values, off)


def factor(numbers: jax.Array, bounds: Range) -> jax.Array:
    """Factors (C,), below and above 1 with equal chance, 1 where the transform does not act.

    Below 1 they are uniform between the low bound and 1, above it between 1 and the high bound: so
    batchgeneratorsv2 draws factors of brightness and contrast and exponents of gamma.

    Args:
        numbers: (4,C) uniform random numbers.
        bounds: of the factors, and the probabilities of acting.
    """
    share = numbers[_SECOND]
    below = bounds.low + (1.0 - bounds.low) * share
    above = 1.0 + (bounds.high - 1.0) * share
    values = jnp.where(numbers[_FIRST] < 0.5, below, above)
    return jnp.where(_acts(numbers, bounds), values, 1.0)


def _acts(numbers: jax.Array, bounds: Range) -> jax.Array:
    """Whether the transform acts on each channel (C,) of this example."""
    on_example = numbers[_ACTS, 0] < bounds.probability
    return on_example & (numbers[_ACTS_ON_CHANNEL] < bounds.channel_probability)
