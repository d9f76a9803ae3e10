"""The augmentation `basic`: gain, shift and noise in HU; mirror, rotation, scale and shift."""

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from ml_collections import ConfigDict

from mbh_jax import keys as config_keys

KEYS = {
    "flip": config_keys.switch(False, "mirror half of the slices left to right"),
    "rotation_degrees": config_keys.number(0.0, 0, "largest rotation", below=180),
    "scale": config_keys.number(0.0, 0, "largest change of scale, as a fraction", below=1),
    "shift": config_keys.number(0.0, 0, "largest shift, as a fraction of the side", below=1),
    "hu_scale": config_keys.number(0.0, 0, "standard deviation of a factor on HU"),
    "hu_shift_hu": config_keys.number(0.0, 0, "standard deviation of a shift of all HU"),
    "hu_noise_hu": config_keys.number(0.0, 0, "standard deviation of the noise of each pixel"),
}
"""Its keys in the section "augment" of a configuration."""

_HU_AXIS, _GEOMETRY_AXIS = 0, 1


def augment_hu(keys: jax.Array, hu: jax.Array, config: ConfigDict) -> jax.Array:
    """Shifts and scales HU of whole slices and adds pixel noise, as scanners and doses differ.

    Args:
        keys: (B,) PRNG keys.
        hu: (B,H,W,S) HU, any number type. Gain and shift are those of all S slices, noise is of
            each.
        config: `config.augment`: `hu_scale` (standard deviation of the gain), `hu_shift_hu` and
            `hu_noise_hu` (standard deviations in HU); 0 turns each off.

    Returns:
        (B,H,W,S) float32 HU, or `hu` unchanged where all are off.
    """
    if not (config.hu_scale or config.hu_shift_hu or config.hu_noise_hu):
        return hu

    def one(key: jax.Array, image: jax.Array) -> jax.Array:
        gain_key, shift_key, noise_key = jax.random.split(jax.random.fold_in(key, _HU_AXIS), 3)
        image = image.astype(jnp.float32)
        image *= 1.0 + config.hu_scale * jax.random.normal(gain_key)
        image += config.hu_shift_hu * jax.random.normal(shift_key)
        if config.hu_noise_hu:
            image += config.hu_noise_hu * jax.random.normal(noise_key, image.shape)
        return image

    return jax.vmap(one)(keys, hu)


def augment_geometry(
    keys: jax.Array, image: jax.Array, label: jax.Array, config: ConfigDict
) -> tuple[jax.Array, jax.Array]:
    """Mirrors left-right, turns, scales and shifts image and label together.

    Args:
        keys: (B,) PRNG keys.
        image: (B,H,W,C) float32 network input; bilinear, the edge repeated outside.
        label: (B,H,W) integer; nearest neighbour, background outside.
        config: `config.augment`: `flip` (mirror half of the slices), `rotation_degrees`, `scale`
            (fraction) and `shift` (fraction of the side), each the bound of a uniform draw; 0 turns
            each off.

    Returns:
        Image and label of the same shapes and dtypes, unchanged where all are off.
    """
    if not (config.flip or config.rotation_degrees or config.scale or config.shift):
        return image, label
    height, width = label.shape[1:]
    row, column = jnp.meshgrid(
        jnp.arange(height) - (height - 1) / 2, jnp.arange(width) - (width - 1) / 2, indexing="ij"
    )

    def one(key: jax.Array, image: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
        flip_key, turn_key, scale_key, shift_key = jax.random.split(
            jax.random.fold_in(key, _GEOMETRY_AXIS), 4
        )
        angle = jnp.deg2rad(config.rotation_degrees) * jax.random.uniform(turn_key, minval=-1.0)
        zoom = 1.0 + config.scale * jax.random.uniform(scale_key, minval=-1.0)
        down, right = config.shift * jax.random.uniform(shift_key, (2,), minval=-1.0)
        mirror = jnp.where(jax.random.bernoulli(flip_key, 0.5 if config.flip else 0.0), -1.0, 1.0)
        cos, sin = jnp.cos(angle) / zoom, jnp.sin(angle) / zoom
        # Not a matrix product: accelerators would round the coordinates.
        rows = cos * row - sin * mirror * column + (height - 1) / 2 + down * height
        columns = sin * row + cos * mirror * column + (width - 1) / 2 + right * width
        warped = jax.vmap(
            lambda channel: map_coordinates(channel, [rows, columns], order=1, mode="nearest"),
            in_axes=-1,
            out_axes=-1,
        )(image)
        moved = map_coordinates(label, [rows, columns], order=0, mode="constant", cval=0)
        return warped, moved

    return jax.vmap(one)(keys, image, label)
