"""The augmentation of the TensorFlow FlexUNet project, under the names of its configuration.

After `ImageMaskAugmentor.py` of
https://github.com/sarah-antillia/TensorFlow-FlexUNet-Image-Segmentation-Model. It makes every
variant of a slice and draws batches from slices and variants; here each slice becomes one variant
or stays as it is, all with equal chance. Image and mask are moved alike, masks keep their labels,
and sharpening and brightening change images only, none of which holds for the original.

Everything here is for one example (H,W,C) float32 on a scale of 0..255; callers use `jax.vmap`.
"""

import functools
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from scipy.ndimage import gaussian_filter1d

from mbh_jax import keys
from mbh_jax.data.augmentation import geometry
from mbh_jax.data.augmentation.geometry import Coordinates

KEYS = {
    "rotation": keys.switch(True, "variants turned by 90, 180 and 270 degrees"),
    "hflip": keys.switch(True, "a variant mirrored left to right"),
    "vflip": keys.switch(True, "a variant mirrored upside down"),
    "shrinks": keys.number(0.8, 0, "a variant smaller by this factor; 0: none", below=1),
    "shears": keys.number(
        0.0, 0, "variants sheared by this tangent, also mirrored as hflip and vflip say; 0: none"
    ),
    "deformation": keys.switch(False, "a variant with an elastic deformation"),
    "distortion": keys.switch(False, "a variant with a smooth distortion of 2 % of the side"),
    "barrdistortion": keys.switch(False, "a variant with a barrel distortion"),
    "pincdistortion": keys.switch(False, "a variant with a pincushion distortion"),
    "sharpening": keys.switch(False, "a sharpened variant"),
    "brightening": keys.switch(False, "a brighter variant"),
}
"""Its keys in the section "augment" of a configuration, with the original's defaults."""

_DEFORMATION_ALPHA, _DEFORMATION_SIGMA = 1300.0, 8.0
_DISTORTION_SIGMA, _DISTORTION = 40.0, 0.02
_BARREL_RADIUS, _BARREL_AMOUNT = 0.5, 0.5
_SHARPEN = 1.0
_BRIGHTEN_FACTOR, _BRIGHTEN_SHIFT = 1.2, 10.0

Move = Callable[[jax.Array, int, int], Coordinates]
"""`(key, height, width) -> coordinates` that a variant reads the image at."""


def moves(config: Mapping[str, float]) -> list[Move]:
    """The spatial variants that a configuration turns on, in the order of the original."""
    found: list[Move] = []
    if config["hflip"]:
        found.append(linear(((1, 0), (0, -1))))
    if config["vflip"]:
        found.append(linear(((-1, 0), (0, 1))))
    if config["rotation"]:
        found += [linear(((0, 1), (-1, 0))), linear(((-1, 0), (0, -1))), linear(((0, -1), (1, 0)))]
    if config["shrinks"]:
        found.append(linear(((1 / config["shrinks"], 0), (0, 1 / config["shrinks"]))))
    if config["shears"]:
        for row_sign in (1, -1) if config["vflip"] else (1,):
            for column_sign in (1, -1) if config["hflip"] else (1,):
                shear = -config["shears"] * column_sign
                found.append(linear(((row_sign, shear), (0, column_sign))))
    if config["deformation"]:
        found.append(deformation)
    if config["distortion"]:
        found.append(distortion)
    if config["barrdistortion"]:
        found.append(functools.partial(barrel, amount=_BARREL_AMOUNT))
    if config["pincdistortion"]:
        found.append(functools.partial(barrel, amount=-_BARREL_AMOUNT))
    return found


def change_one(
    key: jax.Array, image: jax.Array, label: jax.Array, config: Mapping[str, float]
) -> tuple[jax.Array, jax.Array]:
    """One of the variants that a configuration turns on, or the slice as it is.

    Args:
        key: PRNG key of the example.
        image: (H,W,C) float32, 0..255.
        label: (H,W) integer.
        config: the values of `KEYS`.
    """
    spatial = moves(config)
    change_values = [change for name, change in _VALUES.items() if config[name]]
    choice_key, field_key = jax.random.split(key)
    choice = jax.random.randint(choice_key, (), 0, 1 + len(spatial) + len(change_values))
    height, width = label.shape

    def move(image: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
        branches = [lambda key, one=one: one(key, height, width) for one in spatial]
        where = jax.lax.switch(choice - 1, branches, field_key)
        return geometry.resample(image, label, where, image.min((0, 1)))

    def stay(image: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
        if not change_values:
            return image, label
        number = jnp.maximum(choice - len(spatial), 0)
        return jax.lax.switch(number, [lambda image: image, *change_values], image), label

    if not spatial:
        return stay(image, label)
    return jax.lax.cond((choice >= 1) & (choice <= len(spatial)), move, stay, image, label)


def linear(matrix: tuple[tuple[float, float], tuple[float, float]]) -> Move:
    """Reads at `matrix` times (row, column) about the middle of the image."""
    (a, b), (c, d) = matrix

    def coordinates(key: jax.Array, height: int, width: int) -> Coordinates:
        del key
        row, column = _pixels(height, width)
        row, column = row - (height - 1) / 2, column - (width - 1) / 2
        return a * row + b * column + (height - 1) / 2, c * row + d * column + (width - 1) / 2

    return coordinates


def deformation(key: jax.Array, height: int, width: int) -> Coordinates:
    """Elastic deformation (Simard et al. 2003): smoothed noise of -1..1, times alpha, in pixels.

    The original smooths along the three colour channels too, which makes displacements of about 2
    pixels; its factor is kept.
    """
    noise = jax.random.uniform(key, (2, height, width), minval=-1.0)
    # Independent noise in three channels, smoothed, has the deviation of one times this.
    factor = np.linalg.norm(_smoothing(3, _DEFORMATION_SIGMA, 0, "constant")[1])
    row, column = _pixels(height, width)
    down, right = (
        factor * _DEFORMATION_ALPHA * _smooth(one, _DEFORMATION_SIGMA, (0, 0), "constant")
        for one in noise
    )
    return row + down, column + right


def distortion(key: jax.Array, height: int, width: int) -> Coordinates:
    """Displacement by the gradient of smooth noise, scaled to a maximum of 2 % of the side."""
    noise = jax.random.normal(key, (height, width))
    row, column = _pixels(height, width)
    right = _smooth(noise, _DISTORTION_SIGMA, (0, 1), "reflect")
    down = _smooth(noise, _DISTORTION_SIGMA, (1, 0), "reflect")
    down *= int(height * _DISTORTION) / down.max()
    right *= int(width * _DISTORTION) / right.max()
    return row - down, column - right


def barrel(key: jax.Array, height: int, width: int, *, amount: float) -> Coordinates:
    """Barrel distortion within half of the width; pincushion for a negative amount."""
    del key
    row, column = _pixels(height, width)
    down, right = row - height / 2, column - width / 2
    radius = _BARREL_RADIUS * width
    distance = jnp.hypot(down, right)
    inside = (distance > 0) & (distance < radius)
    sine = jnp.sin(math.pi / 2 * jnp.where(inside, distance, radius) / radius)
    factor = jnp.where(inside, sine**amount, 1.0)
    return factor * down + height / 2, factor * right + width / 2


def sharpen(image: jax.Array) -> jax.Array:
    """Adds to each pixel its differences from the eight around it; 0..255."""
    padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0)), mode="reflect")
    height, width = image.shape[:2]
    total = sum(padded[i : i + height, j : j + width] for i in range(3) for j in range(3))
    return jnp.clip((1 + 9 * _SHARPEN) * image - _SHARPEN * total, 0.0, 255.0)


def brighten(image: jax.Array) -> jax.Array:
    """Values times 1.2, and 10 more; 0..255."""
    return jnp.clip(_BRIGHTEN_FACTOR * image + _BRIGHTEN_SHIFT, 0.0, 255.0)


_VALUES = {"sharpening": sharpen, "brightening": brighten}


def _pixels(height: int, width: int) -> Coordinates:
    row, column = jnp.indices((height, width), dtype=jnp.float32)
    return row, column


def _smooth(field: jax.Array, sigma: float, order: tuple[int, int], mode: str) -> jax.Array:
    """Gaussian filter of a field (H,W), or its derivative of an order along each axis."""
    rows, columns = (
        _smoothing(size, sigma, one, mode) for size, one in zip(field.shape, order, strict=True)
    )
    return jnp.einsum("hi,ij,wj->hw", rows, field, columns, precision=jax.lax.Precision.HIGHEST)


@functools.cache
def _smoothing(size: int, sigma: float, order: int, mode: str) -> np.ndarray:
    """The matrix (size, size) that SciPy's Gaussian filter multiplies a line of pixels with."""
    identity = np.eye(size)
    return gaussian_filter1d(identity, sigma, axis=0, order=order, mode=mode).astype(np.float32)
