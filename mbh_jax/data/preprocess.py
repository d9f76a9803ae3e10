"""From Hounsfield units to network input, on the device inside the compiled step."""

import jax
import jax.numpy as jnp

from mbh_jax.imageio import windows


def apply_windows(hu: jax.Array, preset: str) -> jax.Array:
    """Network input (B,H,W,S*C) float32 from HU (B,H,W,S), C windows of each of S slices.

    The C windows of the first slice come first, then those of the second.

    Args:
        hu: any number type.
        preset: a key of `mbh_jax.imageio.windows.PRESETS`.
    """
    channels = windows.PRESETS[preset]
    if len(set(channels)) == 1:
        return jnp.repeat(channels[0](hu), len(channels), axis=-1)
    if hu.shape[-1] == 1:
        return jnp.concatenate([window(hu) for window in channels], axis=-1)
    by_slice = jnp.stack([window(hu) for window in channels], axis=-1)
    return by_slice.reshape(*hu.shape[:-1], -1)


def resize_image(image: jax.Array, size: int) -> jax.Array:
    """Antialiased bilinear resizing of (B,H,W,C) to (B,size,size,C); the same array if it fits."""
    shape = (image.shape[0], size, size, image.shape[3])
    return image if image.shape == shape else jax.image.resize(image, shape, "linear")


def resize_label(label: jax.Array, size: int) -> jax.Array:
    """Nearest-neighbour resizing of (B,H,W) to (B,size,size); the same array if it fits."""
    shape = (label.shape[0], size, size)
    return label if label.shape == shape else jax.image.resize(label, shape, "nearest")


def resize_logits(logits: jax.Array, height: int, width: int) -> jax.Array:
    """Bilinear resizing of logits (B,h,w,K) to the scan's own grid (B,height,width,K)."""
    shape = (logits.shape[0], height, width, logits.shape[3])
    return logits if logits.shape == shape else jax.image.resize(logits, shape, "linear")
