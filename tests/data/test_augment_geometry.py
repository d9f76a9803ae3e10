"""The one resampling of the presets: SciPy's numbers, labels that stay labels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.interpolate
import scipy.ndimage

from mbh_jax.data.augmentation import draws, geometry
from mbh_jax.data.augmentation.presets import STRONG, Preset, Range

SIZE = 24
RNG = np.random.default_rng(0)
IMAGE = RNG.normal(size=(SIZE, SIZE, 2)).astype(np.float32)
LABEL = RNG.integers(0, 6, (SIZE, SIZE)).astype(np.uint8)
FILL = jnp.array([-3.0, 2.0])


def always(value: float) -> Range:
    return Range(1.0, value, value)


@functools.partial(jax.jit, static_argnums=0)
def transformed(preset: Preset, key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    where = geometry.draw_coordinates(*draws.numbers(key, *geometry.SHAPES), preset, SIZE, SIZE)
    return *geometry.resample(jnp.asarray(IMAGE), jnp.asarray(LABEL), where, FILL), jnp.stack(where)


def moved(preset: Preset, key: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, label and coordinates (2,H,W) under a preset."""
    image, label, where = transformed(preset, jax.random.key(key))
    return np.asarray(image), np.asarray(label), np.asarray(where)


def test_transforms_that_are_off_leave_the_same_bits() -> None:
    image, label, _ = moved(Preset(flip_horizontal=1e-12))
    np.testing.assert_array_equal(image, IMAGE)
    np.testing.assert_array_equal(label, LABEL)
    assert label.dtype == LABEL.dtype
    assert geometry.is_off(Preset())
    assert not geometry.is_off(STRONG)


@pytest.mark.parametrize(("preset", "axis"), [("flip_horizontal", 1), ("flip_vertical", 0)])
def test_mirror_images_are_exact(preset: str, axis: int) -> None:
    image, label, _ = moved(Preset(**{preset: 1.0}))
    np.testing.assert_array_equal(image, np.flip(IMAGE, axis))
    np.testing.assert_array_equal(label, np.flip(LABEL, axis))


def test_a_quarter_turn_is_that_of_numpy() -> None:
    image, label, _ = moved(Preset(rotation_degrees=always(90.0)))
    np.testing.assert_allclose(image, np.rot90(IMAGE, -1), atol=2e-5)
    np.testing.assert_array_equal(label, np.rot90(LABEL, -1))


def test_affine_transforms_are_those_of_scipy() -> None:
    preset = Preset(
        rotation_degrees=always(17.0), scale=always(1.3), shear=always(0.2), shift=always(0.1)
    )
    image, _, _ = moved(preset)
    cos, sin = 1.3 * np.cos(np.deg2rad(17.0)), 1.3 * np.sin(np.deg2rad(17.0))
    matrix = np.array([[cos, -sin], [sin, cos]]) @ np.array([[1, 0], [0.2, 1]])
    middle = np.full(2, (SIZE - 1) / 2)
    offset = middle - matrix @ middle + 0.1 * SIZE
    for channel, fill in enumerate(np.asarray(FILL)):
        expected = scipy.ndimage.affine_transform(
            IMAGE[..., channel].astype(float), matrix, offset, order=1, mode="grid-constant",
            cval=fill,
        )  # fmt: skip
        np.testing.assert_allclose(image[..., channel], expected, atol=1e-4)


def test_a_label_is_the_one_with_most_weight_among_its_neighbours() -> None:
    _, label, where = moved(STRONG._replace(elastic=Range(1.0, 0.02, 0.02)), key=3)
    weights = [
        scipy.ndimage.map_coordinates(
            (value == LABEL).astype(float), where, order=1, mode="grid-constant", cval=value == 0
        )
        for value in range(6)
    ]
    expected = np.argmax(weights, axis=0)
    best = np.sort(weights, axis=0)
    clear = best[-1] - best[-2] > 1e-4
    assert clear.mean() > 0.95
    np.testing.assert_array_equal(label[clear], expected[clear])


def test_what_comes_from_outside_is_fill_and_background() -> None:
    image, label, where = moved(Preset(scale=always(3.0)))
    outside = ((where < -1) | (where > SIZE)).any(0)
    assert 0.7 < outside.mean() < 0.95
    np.testing.assert_array_equal(image[outside], np.broadcast_to(FILL, image[outside].shape))
    assert not label[outside].any()


def test_deformation_is_a_cubic_b_spline() -> None:
    drawn = np.random.default_rng(3).uniform(size=(2, 11, 11))
    field = np.asarray(geometry.displacement(jnp.asarray(drawn), 40, 64))
    control = (drawn - 0.5) * np.sqrt(12)
    assert control.var() == pytest.approx(1.0, abs=0.2)
    knots = np.arange(-3, 12)
    row, column = ((np.arange(size) + 0.5) * 8 / size for size in (40, 64))
    for one, points in zip(field, control, strict=True):
        by_rows = scipy.interpolate.BSpline(knots, points, 3)(row)
        expected = scipy.interpolate.BSpline(knots, by_rows.T, 3)(column).T
        np.testing.assert_allclose(one, expected, atol=1e-5)


def test_strong_deforms_without_folding() -> None:
    preset = Preset(elastic=Range(1.0, STRONG.elastic.high, STRONG.elastic.high))
    numbers = draws.numbers(jax.random.key(1), *((64, *shape) for shape in geometry.SHAPES))
    rows, columns = jax.vmap(lambda *one: geometry.draw_coordinates(*one, preset, 64, 64))(*numbers)
    down, right = np.diff(rows, axis=1)[..., :-1], np.diff(columns, axis=2)[:, :-1]
    across, along = np.diff(columns, axis=1)[..., :-1], np.diff(rows, axis=2)[:, :-1]
    assert (down * right - across * along).min() > 0
