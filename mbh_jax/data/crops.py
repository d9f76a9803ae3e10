"""Square parts of slices to train on, of which a share is centred on blood."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mbh_jax import keys
from mbh_jax.labels import FOREGROUND

KEYS = {
    "crop_size": keys.integer(
        0, 0, "side of the part of a slice that a training step sees, after resizing; 0: all of it"
    ),
    "crop_blood_share": keys.share(
        0.5, "share of these parts that are centred on blood, where a slice has some"
    ),
}
"""Keys of the section "data" of a configuration."""

_CROP_AXIS = 7
"""Sets the randomness of crops apart from that of augmentation, which has the same keys."""


def problem(data: Mapping[str, Any], divisor: int) -> str | None:
    """What is wrong with the crops of the section "data" of a configuration, or None.

    Args:
        data: its `image_size` and `crop_size` are looked at.
        divisor: what a side of the network's input must be a multiple of.
    """
    size, whole = data["crop_size"], data["image_size"]
    if not size or (size <= whole and size % divisor == 0):
        return None
    return (
        f"data.crop_size={size} must be 0, or a multiple of {divisor} of at most "
        f"data.image_size={whole}"
    )


def crop(
    rng_keys: jax.Array, image: jax.Array, label: jax.Array, *, size: int, blood_share: float
) -> tuple[jax.Array, jax.Array]:
    """The same square part of image and label.

    A share of the parts has, as in nnU-Net, a pixel of blood as near to its middle as the edges of
    the slice allow: of a kind drawn from those in the slice, a pixel drawn from all of that kind.
    The others, and those of slices without blood, lie anywhere.

    Args:
        rng_keys: (B,) PRNG keys.
        image: (B, H, W, C).
        label: (B, H, W) integers.
        size: side of the part.
        blood_share: probability of being centred on blood.

    Returns:
        (B, size, size, C) and (B, size, size), of the same dtypes.
    """

    def one(key: jax.Array, image: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
        key = jax.random.fold_in(key, _CROP_AXIS)
        kind_key, pixel_key, choice_key, place_key = jax.random.split(key, 4)
        last = jnp.array(label.shape) - size
        anywhere = jax.random.randint(place_key, (2,), 0, last + 1)
        pixel, has_blood = _pixel_of_blood(kind_key, pixel_key, label)
        centred = jnp.clip(pixel - size // 2, 0, last)
        on_blood = has_blood & jax.random.bernoulli(choice_key, blood_share)
        row, column = jnp.where(on_blood, centred, anywhere)
        return (
            jax.lax.dynamic_slice(image, (row, column, 0), (size, size, image.shape[-1])),
            jax.lax.dynamic_slice(label, (row, column), (size, size)),
        )

    return jax.vmap(one)(rng_keys, image, label)


def _pixel_of_blood(
    kind_key: jax.Array, pixel_key: jax.Array, label: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(row, column) of a pixel of blood of a label (H, W), (2,) int32, and whether there is one."""
    present = jnp.stack([(label == kind).any() for kind in FOREGROUND])
    number = jax.random.randint(kind_key, (), 0, jnp.maximum(present.sum(), 1))
    chosen = jnp.argmax(jnp.cumsum(present) > number)
    is_kind = label == jnp.array(FOREGROUND)[chosen]
    # The n-th of its pixels: first the row that holds it, then its place in the row.
    in_rows = jnp.cumsum(is_kind.sum(axis=1))
    number = jax.random.randint(pixel_key, (), 0, jnp.maximum(in_rows[-1], 1))
    row = jnp.argmax(in_rows > number)
    before = jnp.where(row > 0, in_rows[row - 1], 0)
    column = jnp.argmax(jnp.cumsum(is_kind[row]) > number - before)
    return jnp.array([row, column]), present.any()
