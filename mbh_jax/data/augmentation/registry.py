"""Augmentations by name. A new one is a preset and a line here."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from mbh_jax import keys
from mbh_jax.data.augmentation import basic, geometry, intensity, presets
from mbh_jax.imageio import windows

_WINDOW, _GEOMETRY, _INTENSITY = range(3)
"""Which random numbers of an example's key a part of a preset uses."""


class Augmentation(NamedTuple):
    """The random changes of training slices, before and after windows are applied.

    Attributes:
        augment_hu: `(keys (B,), hu (B,H,W,1)) -> hu (B,H,W,1)`, HU on the scan's own grid.
        augment_image: `(keys (B,), image (B,S,S,C), label (B,S,S)) -> (image, label)`, the input of
            the network and its label, of the same shapes and dtypes.
    """

    augment_hu: Callable[[jax.Array, jax.Array], jax.Array]
    augment_image: Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def _none(window: str) -> Augmentation:
    del window
    return Augmentation(lambda _, hu: hu, lambda _, image, label: (image, label))


def _basic(window: str, **values: float) -> Augmentation:
    """The seven keys of `basic`, which are independent of windows."""
    del window
    config = ConfigDict(values)
    return Augmentation(
        lambda keys, hu: basic.augment_hu(keys, hu, config),
        lambda keys, image, label: basic.augment_geometry(keys, image, label, config),
    )


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
    channels = windows.PRESETS[window]
    distinct = channels[:1] if len(set(channels)) == 1 else channels
    mean, std, low, high = (jnp.asarray(values) for values in _scale(distinct))

    def hu_of_one(key: jax.Array, hu: jax.Array) -> jax.Array:
        return intensity.change_window(jax.random.fold_in(key, _WINDOW), hu, preset)

    def image_of_one(
        key: jax.Array, image: jax.Array, label: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        changed = (image[..., : len(distinct)].astype(jnp.float32) - mean) / std
        if spatial and not geometry.is_off(preset):
            geometry_key = jax.random.fold_in(key, _GEOMETRY)
            fill = changed.min((0, 1)) if preset.fill_with_lowest else jnp.zeros_like(mean)
            where = geometry.draw_coordinates(geometry_key, preset, *label.shape)
            changed, label = geometry.resample(changed, label, where, fill)
        if intensity_changes:
            intensity_key = jax.random.fold_in(key, _INTENSITY)
            changed = intensity.change_intensity(intensity_key, changed, preset)
        changed = changed * std + mean
        if preset.clip:
            changed = jnp.clip(changed, low, high)
        # Equal channels are changed once.
        repeats = image.shape[-1] // len(distinct)
        return jnp.tile(changed, (1, 1, repeats)).astype(image.dtype), label

    def augment_image(
        keys: jax.Array, image: jax.Array, label: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        # On a CPU one example after another, because transforms that do not act are then not
        # computed, and XLA does not compute a transform again for each of those after it.
        return jax.lax.platform_dependent(
            keys,
            image,
            label,
            cpu=lambda *batch: jax.lax.map(lambda example: image_of_one(*example), batch),
            default=jax.vmap(image_of_one),
        )

    return Augmentation(
        jax.vmap(hu_of_one) if intensity_changes else lambda _, hu: hu, augment_image
    )


def _scale(channels: tuple[windows.Window, ...]) -> tuple[np.ndarray, ...]:
    """Mean and deviation of blood, lowest and highest value, (C,) float32 each, in windowed units.

    They are not clamped: blood may lie outside of a window.
    """
    rows = []
    for window in channels:
        low_hu = window.level_hu - window.width_hu / 2
        factor, origin = (1 / window.width_hu, low_hu) if window.to_unit else (1.0, 0.0)
        high_hu = low_hu + window.width_hu
        hu = (presets.BLOOD_MEAN_HU, low_hu, high_hu)
        mean, low, high = ((value - origin) * factor for value in hu)
        rows.append((mean, presets.BLOOD_STD_HU * factor, low, high))
    return tuple(np.array(rows, np.float32).T)


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
