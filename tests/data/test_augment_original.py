"""The original's variants against NumPy and SciPy; image and label stay together."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from ml_collections import ConfigDict

from mbh_jax.data.augmentation import create_augmentation, geometry, original

SIZE = 40
OFF = dict.fromkeys(original.KEYS, 0.0)
IMAGE = np.random.default_rng(0).uniform(0, 255, (SIZE, SIZE, 1)).astype(np.float32)
LABEL = np.random.default_rng(1).integers(0, 6, (SIZE, SIZE)).astype(np.uint8)


@functools.cache
def moved(names: tuple[tuple[str, float], ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Image and label of each spatial variant that these keys turn on."""
    found = []
    for move in original.moves({**OFF, **dict(names)}):
        where = move(jax.random.key(0), SIZE, SIZE)
        image, label = geometry.resample(
            jnp.asarray(IMAGE), jnp.asarray(LABEL), where, jnp.zeros(1)
        )
        found.append((np.asarray(image), np.asarray(label)))
    return found


def test_turns_and_mirror_images_are_exact() -> None:
    found = moved((("hflip", 1), ("rotation", 1), ("vflip", 1)))
    for image, label in found:
        np.testing.assert_array_equal(np.sort(image, axis=None), np.sort(IMAGE, axis=None))
        assert label.sum() == LABEL.sum()
    expected = [IMAGE[:, ::-1], IMAGE[::-1], *(np.rot90(IMAGE, turns) for turns in (1, 2, 3))]
    for (image, _), one in zip(found, expected, strict=True):
        np.testing.assert_array_equal(image, one)


def test_shrinking_and_shearing_are_those_of_scipy() -> None:
    middle = np.full(2, (SIZE - 1) / 2)
    keys = (("shrinks", 0.8), ("shears", 0.3), ("hflip", 1), ("vflip", 1))
    found = moved(keys)[2:]
    matrices = [[[1.25, 0], [0, 1.25]], [[1, -0.3], [0, 1]]]
    for (image, _), matrix in zip(found[:2], matrices, strict=True):
        expected = scipy.ndimage.affine_transform(
            IMAGE[..., 0].astype(float), matrix, middle - matrix @ middle, order=1,
            mode="grid-constant",
        )  # fmt: skip
        np.testing.assert_allclose(image[..., 0], expected, atol=0.02)
    sheared = found[1][0]
    assert len(found) == 5
    for (image, _), axes in zip(found[2:], [1, 0, (0, 1)], strict=True):
        np.testing.assert_allclose(image, np.flip(sheared, axes), atol=0.02)


def test_deformation_is_smoothed_noise_of_about_two_pixels() -> None:
    size = 128
    row, column = jax.jit(functools.partial(original.deformation, height=size, width=size))(
        jax.random.key(1)
    )
    moved = np.stack([row, column]) - np.indices((size, size))
    assert moved[:, 32:-32, 32:-32].std() == pytest.approx(2.2, abs=0.6)
    noise = np.asarray(jax.random.uniform(jax.random.key(1), (2, size, size), minval=-1.0))
    for one, smoothed in zip(noise, moved, strict=True):
        expected = scipy.ndimage.gaussian_filter(one.astype(float), 8, mode="constant")
        ratio = smoothed / expected
        np.testing.assert_allclose(smoothed, np.median(ratio) * expected, atol=1e-3)


def test_distortion_is_the_gradient_of_smooth_noise() -> None:
    size = 64
    row, column = jax.jit(functools.partial(original.distortion, height=size, width=size))(
        jax.random.key(2)
    )
    noise = np.asarray(jax.random.normal(jax.random.key(2), (size, size)), float)
    for where, grid, order in ((row, 0, (1, 0)), (column, 1, (0, 1))):
        expected = scipy.ndimage.gaussian_filter(noise, 40, order=order)
        expected *= int(size * 0.02) / expected.max()
        np.testing.assert_allclose(np.indices((size, size))[grid] - where, expected, atol=1e-3)


@pytest.mark.parametrize("amount", [0.5, -0.5])
def test_barrel_distortion_scales_radii(amount: float) -> None:
    row, column = original.barrel(jax.random.key(0), SIZE, SIZE, amount=amount)
    for i, j in ((20, 20), (20, 30), (5, 12), (0, 0)):
        radius = np.hypot(i - 20, j - 20)
        factor = np.sin(np.pi * radius / 40) ** amount if 0 < radius < 20 else 1.0
        expected = (20 + factor * (i - 20), 20 + factor * (j - 20))
        np.testing.assert_allclose((row[i, j], column[i, j]), expected, atol=1e-4)


def test_sharpening_and_brightening_are_clamped() -> None:
    kernel = np.full((3, 3, 1), -1.0)
    kernel[1, 1] = 9
    expected = scipy.ndimage.convolve(IMAGE.astype(float), kernel, mode="mirror").clip(0, 255)
    np.testing.assert_allclose(original.sharpen(jnp.asarray(IMAGE)), expected, atol=0.01)
    expected = (IMAGE * 1.2 + 10).clip(0, 255)
    np.testing.assert_allclose(original.brighten(jnp.asarray(IMAGE)), expected, atol=0.01)


def test_every_variant_is_drawn_with_equal_chance() -> None:
    on = {**OFF, "hflip": True, "vflip": True, "brightening": True}
    augmentation = create_augmentation(ConfigDict({"name": "original", **on}), "hu_0_255")
    keys = jax.random.split(jax.random.key(0), 400)
    image = jnp.broadcast_to(jnp.array([[0.0, 50.0], [100.0, 200.0]])[..., None], (400, 2, 2, 3))
    label = jnp.broadcast_to(jnp.array([[0, 1], [2, 3]]), (400, 2, 2))
    changed, moved = jax.jit(augmentation.augment_image)(keys, image, label)
    rows = np.concatenate([changed[..., 0].reshape(400, 4), moved.reshape(400, 4)], axis=1)
    variants, counts = np.unique(rows.round(2), axis=0, return_counts=True)
    np.testing.assert_array_equal(
        variants,
        [
            [0, 50, 100, 200, 0, 1, 2, 3],
            [10, 70, 130, 250, 0, 1, 2, 3],
            [50, 0, 200, 100, 1, 0, 3, 2],
            [100, 200, 0, 50, 2, 3, 0, 1],
        ],
    )
    assert counts.min() > 70
