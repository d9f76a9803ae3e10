"""From Hounsfield units to network input, on the device inside the compiled step."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def window(hu: jax.Array, *, level_hu: float, width_hu: float) -> jax.Array:
    """Maps `level - width/2 .. level + width/2` HU to 0..1, clamped; float32, same shape."""
    low_hu = level_hu - width_hu / 2
    return jnp.clip((hu.astype(jnp.float32) - low_hu) / width_hu, 0.0, 1.0)


def _hu_0_255(hu: jax.Array) -> jax.Array:
    grey = jnp.clip(hu.astype(jnp.float32), 0.0, 255.0)
    return jnp.repeat(grey, 3, axis=-1)


def _brain(hu: jax.Array) -> jax.Array:
    return window(hu, level_hu=40, width_hu=80)


def _brain_subdural_bone(hu: jax.Array) -> jax.Array:
    channels = [
        window(hu, level_hu=40, width_hu=80),
        window(hu, level_hu=80, width_hu=200),
        window(hu, level_hu=600, width_hu=2800),
    ]
    return jnp.concatenate(channels, axis=-1)


WINDOWS: dict[str, tuple[int, Callable[[jax.Array], jax.Array]]] = {
    "hu_0_255": (3, _hu_0_255),
    "brain": (1, _brain),
    "brain_subdural_bone": (3, _brain_subdural_bone),
}
"""Window presets: number of channels made of one HU channel, and the function that makes them.

`hu_0_255`: HU clamped to 0..255, not normalised, in three equal channels (the input of the
TensorFlow FlexUNet); `brain`: level 40, width 80; `brain_subdural_bone`: 40/80, 80/200, 600/2800.
"""


def num_channels(preset: str) -> int:
    """Channels of the network input that a window preset makes."""
    return WINDOWS[preset][0]


def apply_window(hu: jax.Array, preset: str) -> jax.Array:
    """Network input (B,H,W,C) float32 from HU (B,H,W,1) by the window `preset`."""
    return WINDOWS[preset][1](hu)


def resize_image(image: jax.Array, size: int) -> jax.Array:
    """Antialiased bilinear resizing of (B,H,W,C) to (B,size,size,C); the same array if it fits."""
    shape = (image.shape[0], size, size, image.shape[3])
    return image if image.shape == shape else jax.image.resize(image, shape, "linear")


def resize_label(label: jax.Array, size: int) -> jax.Array:
    """Nearest-neighbour resizing of (B,H,W) to (B,size,size); the same array if it fits."""
    shape = (label.shape[0], size, size)
    return label if label.shape == shape else jax.image.resize(label, shape, "nearest")


def resize_logits(logits: jax.Array, height: int, width: int) -> jax.Array:
    """Bilinear resizing of logits (B,h,w,K) to the scan's own matrix (B,height,width,K)."""
    shape = (logits.shape[0], height, width, logits.shape[3])
    return logits if logits.shape == shape else jax.image.resize(logits, shape, "linear")
