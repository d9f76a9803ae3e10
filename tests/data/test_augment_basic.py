"""Augmentation: keyed by example, geometry shared by image and label, exact where it can be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from configs import flexunet
from mbh_jax.data.augmentation import basic


@pytest.fixture
def config():
    return flexunet.get_config().augment


def keys(*numbers):
    return jax.vmap(lambda n: jax.random.fold_in(jax.random.key(7), n))(jnp.array(numbers))


def blob():
    label = np.zeros((32, 32), np.uint8)
    label[8:14, 5:12] = 3
    label[20:26, 16:28] = 5
    return label


def test_all_off_returns_the_inputs_themselves(config):
    image, label, hu = jnp.ones((2, 8, 8, 3)), jnp.ones((2, 8, 8), int), jnp.ones((2, 8, 8, 1))
    moved = basic.augment_geometry(keys(1, 2), image, label, config)
    assert moved[0] is image and moved[1] is label
    assert basic.augment_hu(keys(1, 2), hu, config) is hu


def test_an_example_does_not_depend_on_its_place_in_the_batch(config):
    config.update(flip=True, rotation_degrees=20.0, scale=0.2, shift=0.1)
    image = jax.random.normal(jax.random.key(0), (3, 32, 32, 2))
    label = jnp.stack([jnp.asarray(blob())] * 3)
    together = basic.augment_geometry(keys(4, 5, 6), image, label, config)
    alone = basic.augment_geometry(keys(6), image[2:], label[2:], config)
    np.testing.assert_allclose(together[0][2], alone[0][0], atol=1e-6)
    np.testing.assert_array_equal(together[1][2], alone[1][0])


def test_flip_mirrors_left_and_right_in_about_half_of_the_examples(config):
    config.flip = True
    label = jnp.stack([jnp.asarray(blob())] * 40)
    image = label[..., None].astype(jnp.float32)
    moved, moved_label = basic.augment_geometry(keys(*range(40)), image, label, config)
    mirrored = [np.array_equal(one, blob()[:, ::-1]) for one in np.asarray(moved_label)]
    kept = [np.array_equal(one, blob()) for one in np.asarray(moved_label)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 8 <= sum(mirrored) <= 32
    np.testing.assert_allclose(moved[..., 0], moved_label, atol=1e-5)


def test_image_and_label_move_together_as_scipy_moves_them(config):
    config.update(rotation_degrees=30.0, scale=0.2, shift=0.1)
    label = jnp.asarray(blob())[None]
    image = (label == 3)[..., None].astype(jnp.float32)
    warped, moved = basic.augment_geometry(keys(3), image, label, config)
    # Independent check: the affine map found from moments of the moved shapes, applied by SciPy.
    source = [scipy.ndimage.center_of_mass(blob() == value) for value in (3, 5)]
    target = [scipy.ndimage.center_of_mass(np.asarray(moved[0]) == value) for value in (3, 5)]
    a, b = np.subtract(source[1], source[0]), np.subtract(target[1], target[0])
    factor = complex(*a) / complex(*b)
    matrix = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
    offset = np.array(source[0]) - matrix @ np.array(target[0])
    expected = scipy.ndimage.affine_transform(
        np.asarray(image[0, ..., 0]), matrix, offset, order=1, mode="nearest"
    )
    assert np.abs(np.asarray(warped[0, ..., 0]) - expected).mean() < 0.01
    assert abs(factor) != pytest.approx(1.0, abs=1e-3)


def test_hu_changes_have_the_asked_for_spread(config):
    config.update(hu_shift_hu=5.0, hu_noise_hu=3.0)
    hu = jnp.full((200, 16, 16, 1), 40, jnp.int16)
    changed = np.asarray(basic.augment_hu(keys(*range(200)), hu, config))
    per_slice = changed.mean(axis=(1, 2, 3))
    assert per_slice.mean() == pytest.approx(40, abs=1.5)
    assert per_slice.std() == pytest.approx(5.0, rel=0.2)
    assert (changed - per_slice[:, None, None, None]).std() == pytest.approx(3.0, rel=0.05)
