"""Parts of slices: where they lie, how often on blood, and that image and label stay together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import flexunet
from mbh_jax import config as config_keys
from mbh_jax.data import crops
from mbh_jax.errors import UserError

SIZE = 16
HEIGHT, WIDTH = 40, 56


@pytest.fixture(scope="module")
def slices():
    """Images that hold (row, column) and a slice without, with two kinds and with one of blood."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    image = np.repeat(np.stack([rows, columns], -1)[None].astype(np.float32), 3, axis=0)
    label = np.zeros((3, HEIGHT, WIDTH), np.uint8)
    label[1, 20:24, 30:40] = 3
    label[1, 0, 0] = 5
    label[2, HEIGHT - 1, WIDTH - 1] = 1
    return image, label


def cropped(slices, number: int, share: float, draws: int = 400):
    """(row, column) of the first pixel and label of many crops of one slice."""
    image, label = (np.repeat(part[number : number + 1], draws, axis=0) for part in slices)
    keys = jax.random.split(jax.random.key(number), draws)
    parts, labels = crops.crop(
        keys, jnp.asarray(image), jnp.asarray(label), size=SIZE, blood_share=share
    )
    return np.asarray(parts), np.asarray(labels)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_image_and_label_are_the_same_square_of_the_slice(slices, number):
    parts, labels = cropped(slices, number, share=0.5, draws=50)
    assert parts.shape == (50, SIZE, SIZE, 2)
    assert labels.dtype == np.uint8
    for part, label in zip(parts, labels, strict=True):
        row, column = part[0, 0].astype(int)
        np.testing.assert_array_equal(part, slices[0][0, row : row + SIZE, column : column + SIZE])
        np.testing.assert_array_equal(
            label, slices[1][number, row : row + SIZE, column : column + SIZE]
        )


def test_without_blood_every_place_is_as_likely(slices):
    parts, _ = cropped(slices, 0, share=1.0, draws=4000)
    places = parts[:, 0, 0].astype(int)
    assert places.min() == 0
    np.testing.assert_array_equal(places.max(axis=0), [HEIGHT - SIZE, WIDTH - SIZE])
    expected = np.array([HEIGHT - SIZE, WIDTH - SIZE]) / 2
    np.testing.assert_allclose(places.mean(axis=0), expected, rtol=0.05)


def test_each_kind_in_a_slice_is_centred_on_equally_often(slices):
    """One pixel of SDH in the corner counts as much as forty of IVH."""
    parts, _ = cropped(slices, 1, share=1.0, draws=2000)
    places = parts[:, 0, 0].astype(int)
    in_corner = (places == 0).all(axis=1)
    assert 0.45 < in_corner.mean() < 0.55
    centres = places[~in_corner] + SIZE // 2
    assert set(map(tuple, centres)) == {(r, c) for r in range(20, 24) for c in range(30, 40)}


def test_a_share_is_centred_on_blood(slices):
    """At the edge the part ends where the slice does."""
    parts, _ = cropped(slices, 2, share=0.3, draws=3000)
    places = parts[:, 0, 0].astype(int)
    at_edge = (places == [HEIGHT - SIZE, WIDTH - SIZE]).all(axis=1)
    by_chance = 0.7 / ((HEIGHT - SIZE + 1) * (WIDTH - SIZE + 1))
    assert abs(at_edge.mean() - 0.3 - by_chance) < 0.03


@pytest.mark.parametrize("size", [512, 24])
def test_a_size_that_does_not_fit_is_one_line(size):
    config = flexunet.get_config()
    config.data.image_size = 256
    config.data.crop_size = size
    with pytest.raises(UserError, match=f"data.crop_size={size} must be 0, or a multiple of 128"):
        config_keys.validate(config, 1)
