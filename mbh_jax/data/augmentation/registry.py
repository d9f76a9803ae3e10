"""Augmentations by name. A new one is a function here, or a preset, and a line in the table."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mbh_jax import keys
from mbh_jax.data.augmentation import basic, channels, draws, geometry, intensity, original, presets

_WINDOW, _IMAGE = range(2)
"""Which random numbers of an example's key a part of a preset uses."""


class Augmentation(NamedTuple):
    """The random changes of training slices, before and after windows are applied.

    Attributes:
        augment_hu: `(keys (B,), hu (B,H,W,S)) -> hu (B,H,W,S)`, HU on the scan's own grid.
        augment_image: `(keys (B,), image (B,N,N,S*C), label (B,N,N)) -> (image, label)`, the input
            of the network, C windows of each of S neighbouring slices, and its label, of the same
            shapes and dtypes.
    """

    augment_hu: Callable[[jax.Array, jax.Array], jax.Array]
    augment_image: channels.Change


def _same_hu(keys: jax.Array, hu: jax.Array) -> jax.Array:
    del keys
    return hu


def _none(window: str) -> Augmentation:
    del window
    return Augmentation(_same_hu, lambda _, image, label: (image, label))


def _basic(window: str, **values: float) -> Augmentation:
    """The keys of `basic`, which are independent of windows."""
    del window
    config = ConfigDict(values)
    return Augmentation(
        lambda keys, hu: basic.augment_hu(keys, hu, config),
        lambda keys, image, label: basic.augment_geometry(keys, image, label, config),
    )


def _original(window: str, **values: float) -> Augmentation:
    """The keys of `original`; its 0..255 are the lowest and the highest value of each window."""
    low_hu, high_hu = channels.window_bounds_hu(window)
    scale = channels.Scale(low_hu, (high_hu - low_hu) / 255)

    def change(key: jax.Array, image: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
        return original.change_one(key, image, label, values)

    return Augmentation(_same_hu, channels.over_batch(change, window, scale, clip=True))


def create_from_preset(
    preset: presets.Preset, window: str, *, spatial: bool = True, intensity_changes: bool = True
) -> Augmentation:
    """The augmentation that a preset describes.

    Args:
        preset: ranges of the parameters.
        window: a key of `mbh_jax.imageio.windows.PRESETS`, the channels of the image.
        spatial: whether image and label are moved.
        intensity_changes: whether values are changed.
    """

    def hu_of_one(key: jax.Array, hu: jax.Array) -> jax.Array:
        return intensity.change_window(jax.random.fold_in(key, _WINDOW), hu, preset)

    def change(key: jax.Array, image: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
        numbers_key, noise_key = jax.random.split(jax.random.fold_in(key, _IMAGE))
        movement, control, values = draws.numbers(
            numbers_key, *geometry.SHAPES, intensity.shape_of_numbers(num_windows)
        )
        if spatial and not geometry.is_off(preset):
            lowest = image.min((0, 1))
            fill = lowest if preset.fill_with_lowest else jnp.zeros_like(lowest)
            where = geometry.draw_coordinates(movement, control, preset, *label.shape)
            image, label = geometry.resample(image, label, where, fill)
        if intensity_changes:
            image = intensity.change_intensity(values, noise_key, image, preset)
        return image, label

    num_windows = len(channels.window_bounds_hu(window)[0])
    scale = channels.Scale(presets.BLOOD_MEAN_HU, presets.BLOOD_STD_HU)
    return Augmentation(
        jax.vmap(hu_of_one) if intensity_changes else _same_hu,
        channels.over_batch(change, window, scale, clip=preset.clip),
    )


_PARTS = {
    "spatial": keys.switch(True, "move image and label"),
    "intensity": keys.switch(True, "change values"),
}


def _component(preset: presets.Preset, meaning: str) -> keys.Component:
    def create(window: str, spatial: bool = True, intensity: bool = True) -> Augmentation:
        return create_from_preset(preset, window, spatial=spatial, intensity_changes=intensity)

    return keys.Component(create, _PARTS, meaning)


AUGMENTATIONS: dict[str, keys.Component] = {
    "basic": keys.Component(_basic, basic.KEYS, "a few transforms whose strength is given here"),
    "none": keys.Component(_none, {}, "no augmentation"),
    "nnunet": _component(
        presets.NNUNET,
        "the transforms of nnU-Net v2 in 2D, with its probabilities and ranges: rotation by any "
        "angle, scale, mirror images along both axes, noise, blur, brightness, contrast, "
        "resolution, gamma",
    ),
    "original": keys.Component(
        _original,
        original.KEYS,
        "the variants of the TensorFlow FlexUNet project; a slice becomes one of them or stays as "
        "it is, with equal chance",
    ),
    "strong": _component(
        presets.STRONG,
        "for CT of heads: mirrored left to right, moderately rotated, scaled, sheared, shifted and "
        "deformed; windows, noise, blur, brightness, contrast, resolution and gamma changed",
    ),
}
"""What `augment.name` may be."""


def create_augmentation(config: ConfigDict, window: str) -> Augmentation:
    """The augmentation that `config`, the section "augment" of a configuration, names.

    Args:
        config: `name`, and the keys of that augmentation.
        window: `data.window` of the configuration.
    """
    values = {key: value for key, value in config.items() if key != "name"}
    return AUGMENTATIONS[config.name].create(window=window, **values)
