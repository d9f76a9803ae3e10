"""How a network takes in the slices beside a slice, which come to it as channels.

Channels are ordered slice by slice, from inferior to superior (`mbh_jax.data.neighbours`).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from mbh_jax import keys

FUSIONS = ("channels", "convolution")
"""What `model.slice_fusion` may be."""

KEY = keys.choice(
    "channels",
    FUSIONS,
    "how neighbouring slices (`data.neighbours`) are taken in: `channels` of the first "
    "convolution, or each by the first level and then a `convolution` across slices",
)
"""The key `slice_fusion` of a network."""


def to_batch(x: jax.Array, num_slices: int) -> jax.Array:
    """Slices as examples: (B, H, W, S * C) -> (B * S, H, W, C), the S of an example together."""
    if num_slices == 1:
        return x
    batch, height, width, _ = x.shape
    x = x.reshape(batch, height, width, num_slices, -1).transpose(0, 3, 1, 2, 4)
    return x.reshape(batch * num_slices, height, width, -1)


def repeat(rows: jax.Array | None, num_slices: int) -> jax.Array | None:
    """What belongs to an example, (B,), for each of its slices: (B * S,)."""
    return rows if rows is None or num_slices == 1 else jnp.repeat(rows, num_slices)


def fuse(
    x: jax.Array, num_slices: int, convolution: Callable[[jax.Array, str], jax.Array]
) -> jax.Array:
    """Convolutions of 3 x 1 x 1 across slices, without padding, until one slice is left.

    A convolution across slices is one of 1 x 1 on the channels of three slices.

    Args:
        x: (B * S, H, W, F), the S slices of an example together; S is odd.
        num_slices: S.
        convolution: `(x (N, H, W, 3 F), name) -> (N, H, W, F)`, a layer with its activation, called
            S // 2 times with the names slices_0, slices_1, ...

    Returns:
        (B, H, W, F).
    """
    for number in range(num_slices // 2):
        left = num_slices - 2 * number
        by_example = x.reshape(-1, left, *x.shape[1:])
        three = [by_example[:, start : start + left - 2] for start in range(3)]
        x = jnp.concatenate(three, axis=-1)
        x = convolution(x.reshape(-1, *x.shape[2:]), f"slices_{number}")
    return x
