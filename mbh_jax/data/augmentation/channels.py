"""Applies a change of one example to a batch, on one scale for all windows."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mbh_jax.imageio import windows

Change = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
"""`(key, image (H,W,C) float32, label (H,W)) -> (image, label)` of one example."""


class Scale(NamedTuple):
    """A scale of HU on which images are changed.

    Attributes:
        origin_hu, unit_hu: what is 0, and how many HU more are 1; (C,) for another scale in each
            window.
    """

    origin_hu: np.ndarray | float
    unit_hu: np.ndarray | float


def window_bounds_hu(window: str) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest HU (C,) of the distinct windows of a preset."""
    low, high = np.array([one.range_hu for one in _distinct(window)]).T
    return low, high


def over_batch(change: Change, window: str, scale: Scale, *, clip: bool) -> Change:
    """The change of a batch: keys (B,), image (B,H,W,C) of any float type, label (B,H,W).

    Args:
        change: of one example, with a channel for each distinct window; equal ones are changed
            once.
        window: a key of `mbh_jax.imageio.windows.PRESETS`, the channels of the image.
        scale: of the image that `change` gets.
        clip: whether values are clamped to those that a window can have.
    """
    chosen = _distinct(window)
    # Windows are straight lines: HU = offset_hu + value * factor.
    low_hu, high_hu = window_bounds_hu(window)
    to_unit = np.array([one.to_unit for one in chosen])
    factor = np.where(to_unit, high_hu - low_hu, 1.0)
    offset_hu = np.where(to_unit, low_hu, 0.0)
    origin, unit, low, high = (
        jnp.asarray(values, jnp.float32)
        for values in (
            (scale.origin_hu - offset_hu) / factor,
            scale.unit_hu / factor,
            (low_hu - offset_hu) / factor,
            (high_hu - offset_hu) / factor,
        )
    )

    def of_one(key: jax.Array, image: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
        distinct = image[..., : len(chosen)].astype(jnp.float32)
        changed, label = change(key, (distinct - origin) / unit, label)
        changed = changed * unit + origin
        if clip:
            changed = jnp.clip(changed, low, high)
        repeats = image.shape[-1] // len(chosen)
        return jnp.tile(changed, (1, 1, repeats)).astype(image.dtype), label

    def of_batch(
        keys: jax.Array, image: jax.Array, label: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        # On a CPU one example after another, because transforms that do not act are then not
        # computed, and XLA does not compute a transform again for each of those after it. (Under
        # jit over several CPUs each of them computes all examples.)
        return jax.lax.platform_dependent(
            keys,
            image,
            label,
            cpu=lambda *batch: jax.lax.map(lambda example: of_one(*example), batch),
            default=jax.vmap(of_one),
        )

    return of_batch


def _distinct(window: str) -> tuple[windows.Window, ...]:
    """The windows of a preset; one if all are equal."""
    chosen = windows.PRESETS[window]
    return chosen[:1] if len(set(chosen)) == 1 else chosen
