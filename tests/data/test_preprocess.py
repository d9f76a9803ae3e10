"""Windows and resizing against their definitions and Pillow's resampling."""

import jax.numpy as jnp
import numpy as np
from PIL import Image

from mbh_jax.data import preprocess

HU = np.array([-1024, -50, 0, 20, 40, 80, 130, 255, 256, 1000, 3000], np.int16)


def windowed(preset):
    return np.asarray(preprocess.apply_windows(jnp.asarray(HU)[None, None, :, None], preset))[0, 0]


def test_hu_0_255_is_the_grey_value_of_the_original_in_three_channels():
    expected = np.clip(HU.astype(np.float32), 0, 255)
    np.testing.assert_array_equal(windowed("hu_0_255"), np.stack([expected] * 3, -1))


def test_brain_window_is_level_40_width_80():
    np.testing.assert_allclose(windowed("brain")[:, 0], np.interp(HU, [0, 80], [0, 1]), atol=1e-6)


def test_three_windows_stand_in_three_channels():
    expected = [np.interp(HU, ends, [0, 1]) for ends in ([0, 80], [-20, 180], [-800, 2000])]
    np.testing.assert_allclose(windowed("brain_subdural_bone"), np.stack(expected, -1), atol=1e-6)


def test_resizing_equals_pillows_antialiased_bilinear():
    image = np.random.default_rng(0).uniform(size=(48, 48)).astype(np.float32)
    ours = preprocess.resize_image(jnp.asarray(image)[None, :, :, None], 16)[0, :, :, 0]
    pillows = Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(ours, np.asarray(pillows), atol=1e-5)


def test_label_resizing_keeps_label_values_and_places():
    label = np.kron(np.arange(6).reshape(2, 3), np.ones((8, 8), int)).astype(np.uint8)
    square = np.concatenate([label, label[:8]])
    resized = np.asarray(preprocess.resize_label(jnp.asarray(square)[None], 12))[0]
    np.testing.assert_array_equal(resized, square[1::2, 1::2])
    assert resized.dtype == np.uint8


def test_nothing_happens_at_the_right_size():
    image = jnp.zeros((1, 8, 8, 1))
    assert preprocess.resize_image(image, 8) is image
