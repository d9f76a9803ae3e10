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
    """The change of a batch: keys (B,), image (B,H,W,S*C) of any float type, label (B,H,W).

    Args:
        change: of one example, with a channel for each distinct window of each of the S slices, one
            slice after the other; equal windows are changed once.
        window: a key of `mbh_jax.imageio.windows.PRESETS`, the channels of the image.
        scale: of the image that `change` gets.
        clip: whether values are clamped to those that a window can have.
    """
    chosen, num_windows = _distinct(window), len(windows.PRESETS[window])
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
        num_slices = image.shape[-1] // num_windows
        repeats = num_windows // len(chosen)
        if num_slices == 1:
            distinct = image[..., : len(chosen)].astype(jnp.float32)
        else:
            by_slice = image.reshape(*label.shape, num_slices, num_windows)[..., : len(chosen)]
            distinct = by_slice.reshape(*label.shape, -1).astype(jnp.float32)

        def of_all_slices(values: jax.Array) -> jax.Array:
            return jnp.tile(values, num_slices) if num_slices > 1 and values.ndim else values

        first, one = of_all_slices(origin), of_all_slices(unit)
        changed, label = change(key, (distinct - first) / one, label)
        changed = changed * one + first
        if clip:
            changed = jnp.clip(changed, of_all_slices(low), of_all_slices(high))
        if num_slices == 1:
            changed = jnp.tile(changed, (1, 1, repeats))
        else:
            by_slice = changed.reshape(*label.shape, num_slices, len(chosen))
            changed = jnp.tile(by_slice, repeats).reshape(image.shape)
        return changed.astype(image.dtype), label

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
