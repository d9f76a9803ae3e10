"""Changes of values against SciPy and closed forms; parameters that are off change nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from mbh_jax.data.augmentation import draws, intensity
from mbh_jax.data.augmentation.presets import Preset, Range

IMAGE = np.random.default_rng(1).normal(size=(21, 18, 2)).astype(np.float32)


def test_parameters_that_are_off_leave_the_same_bits() -> None:
    off, one, image = jnp.zeros(2), jnp.ones(2), jnp.asarray(IMAGE)

    @jax.jit
    def changes() -> list[jax.Array]:
        return [
            intensity.add_noise(jax.random.key(0), image, jnp.zeros(())),
            intensity.blur(image, jnp.zeros((2, 2))),
            intensity.change_contrast(image, one),
            intensity.lower_resolution(image, one),
            intensity.change_gamma(image, one + off),
            intensity.change_intensity(jnp.zeros((7, 4, 2)), jax.random.key(0), image, Preset()),
        ]

    for changed in changes():
        np.testing.assert_array_equal(changed, IMAGE)


def test_blur_is_that_of_scipy_with_kernels_of_three_five_and_seven() -> None:
    sigma = np.array([[0.5, 0.8], [1.0, 0.0]])
    blurred = np.asarray(intensity.blur(jnp.asarray(IMAGE), jnp.asarray(sigma)))
    for channel, (rows, columns) in enumerate(sigma):
        expected = IMAGE[..., channel]
        for axis, (width, radius) in enumerate([(rows, {0.5: 1, 1.0: 3}), (columns, {0.8: 2})]):
            if width:
                expected = scipy.ndimage.gaussian_filter1d(
                    expected, width, axis, mode="mirror", radius=radius[width]
                )
        np.testing.assert_allclose(blurred[..., channel], expected, atol=1e-5)


def test_contrast_keeps_mean_and_range() -> None:
    changed = np.asarray(intensity.change_contrast(jnp.asarray(IMAGE), jnp.array([1.25, 0.8])))
    mean, low, high = IMAGE.mean((0, 1)), IMAGE.min((0, 1)), IMAGE.max((0, 1))
    expected = np.clip((IMAGE - mean) * [1.25, 0.8] + mean, low, high)
    np.testing.assert_allclose(changed, expected, atol=1e-5)


def test_gamma_is_a_power_within_the_range_that_keeps_mean_and_deviation() -> None:
    exponent = np.array([0.7, 1.5])
    changed = np.asarray(intensity.change_gamma(jnp.asarray(IMAGE), jnp.asarray(exponent)))
    low, extent = IMAGE.min((0, 1)), np.ptp(IMAGE, (0, 1))
    power = ((IMAGE - low) / extent) ** exponent
    # Correlation 1 with the power, and the moments of the image.
    for channel in range(2):
        one, other = changed[..., channel].ravel(), power[..., channel].ravel()
        assert np.corrcoef(one, other)[0, 1] == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_allclose(changed.mean((0, 1)), IMAGE.mean((0, 1)), atol=1e-5)
    np.testing.assert_allclose(changed.std((0, 1)), IMAGE.std((0, 1)), rtol=1e-4)


def test_a_channel_of_one_value_stays_finite() -> None:
    flat = jnp.full((8, 8, 1), 3.0)
    np.testing.assert_allclose(intensity.change_gamma(flat, jnp.array([0.7])), flat)
    np.testing.assert_allclose(intensity.change_contrast(flat, jnp.array([0.7])), flat)


def test_low_resolution_is_nearest_down_and_linear_up() -> None:
    lowered = np.asarray(intensity.lower_resolution(jnp.asarray(IMAGE), jnp.array([0.5, 0.72])))
    for channel, fraction in enumerate([0.5, 0.72]):
        expected = IMAGE[..., channel].astype(float)
        for axis in range(2):
            size = expected.shape[axis]
            left = round(size * fraction)
            centres = (np.arange(left) + 0.5) * size / left
            sampled = np.take(expected, np.floor(centres).astype(int), axis)
            expected = np.apply_along_axis(
                lambda line, centres=centres, size=size: np.interp(
                    np.arange(size) + 0.5, centres, line
                ),
                axis,
                sampled,
            )
        np.testing.assert_allclose(lowered[..., channel], expected, atol=1e-4)


def test_noise_has_its_deviation_and_is_one_field() -> None:
    noise = np.asarray(intensity.add_noise(jax.random.key(2), jnp.zeros((64, 64, 2)), 0.3))
    assert noise.std() == pytest.approx(0.3, rel=0.05)
    np.testing.assert_array_equal(noise[..., 0], noise[..., 1])


def test_the_brain_window_gets_another_level_and_width() -> None:
    hu = jnp.array([20.0, 40.0, 60.0]).reshape(3, 1, 1)
    preset = Preset(window_level_hu=Range(1.0, 5.0, 5.0), window_width=Range(1.0, 0.8, 1.2))
    keys = jax.random.split(jax.random.key(0), 50)
    change = jax.jit(jax.vmap(lambda key: intensity.change_window(key, hu, preset)))
    changed = change(keys)[..., 0, 0]
    width = 20 / np.asarray(changed[:, 1] - changed[:, 0])
    assert width.min() == pytest.approx(0.8, abs=0.03)
    assert width.max() == pytest.approx(1.2, abs=0.03)
    np.testing.assert_allclose(changed[:, 1], 40 - 5 / width, rtol=1e-4)
    assert intensity.change_window(keys[0], hu, Preset()) is hu


def test_draws_have_their_probabilities_and_bounds() -> None:
    numbers = jax.random.uniform(jax.random.key(4), (10_000, 4, 2))
    bounds = Range(0.3, 0.7, 1.5, channel_probability=0.5)
    draw = jax.vmap(functools.partial(draws.uniform, second=False), in_axes=(0, None, None))
    draw_other = jax.vmap(functools.partial(draws.uniform, second=True), in_axes=(0, None, None))
    values = np.asarray(draw(numbers, bounds, 0.0))
    others = np.asarray(draw_other(numbers, bounds, 0.0))
    np.testing.assert_array_equal(values != 0, others != 0)
    assert (values != 0).mean() == pytest.approx(0.15, abs=0.01)
    assert (values != 0).any(1).mean() == pytest.approx(0.3 * 0.75, abs=0.015)
    drawn = values[values != 0]
    assert (drawn.min(), drawn.max()) == pytest.approx((0.7, 1.5), abs=0.01)
    assert drawn.mean() == pytest.approx(1.1, abs=0.02)
    assert abs(np.corrcoef(drawn, others[others != 0])[0, 1]) < 0.05

    factors = np.asarray(jax.vmap(lambda one: draws.factor(one, bounds))(numbers))
    assert (factors != 1).mean() == pytest.approx(0.15, abs=0.01)
    drawn = factors[factors != 1]
    assert (drawn < 1).mean() == pytest.approx(0.5, abs=0.03)
    assert drawn[drawn < 1].mean() == pytest.approx(0.85, abs=0.01)
    assert drawn[drawn > 1].mean() == pytest.approx(1.25, abs=0.02)
