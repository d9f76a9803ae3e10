"""Masks mean what they show, however a program stored them; pictures of heads are grey."""

import io

import numpy as np
import pytest
from PIL import Image

from mbh_jax.errors import UserError
from mbh_jax.imageio import png
from mbh_jax.labels import LABELS

LABEL = np.array([[0, 0, 3, 5], [0, 3, 5, 5], [0, 0, 0, 0]], np.uint8)
RGB = np.array([label.rgb for label in LABELS], np.uint8)


def stream_of(picture):
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    stream.seek(0)
    return stream


def indexed(indices, palette):
    picture = Image.fromarray(np.asarray(indices, np.uint8))
    picture.putpalette(np.asarray(palette, np.uint8).ravel().tolist())
    assert picture.mode == "P"
    return stream_of(picture)


def reordered(label, colours):
    """An indexed picture that shows colours[label], its palette in order of use from the end."""
    used, indices = np.unique(label, return_inverse=True)
    last = len(used) - 1
    return indexed(last - indices.reshape(label.shape), colours[used[::-1]])


GREYS = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
STORED = {
    "grey": lambda: stream_of(Image.fromarray(LABEL)),
    "grey of 16 bits": lambda: stream_of(Image.fromarray(LABEL.astype(np.uint16))),
    "grey and alpha": lambda: stream_of(Image.fromarray(LABEL).convert("LA")),
    "grey as colours": lambda: stream_of(Image.fromarray(GREYS[LABEL])),
    "grey in a palette (oxipng)": lambda: indexed(
        [[0, 0, 2, 1], [0, 2, 1, 1], [0] * 4], GREYS[[0, 5, 3]]
    ),
    "grey in a palette, reordered": lambda: reordered(LABEL, GREYS),
    "colours": lambda: stream_of(Image.fromarray(RGB[LABEL])),
    "colours and alpha": lambda: stream_of(Image.fromarray(RGB[LABEL]).convert("RGBA")),
    "colours in a palette": lambda: indexed(LABEL, RGB),
    "colours in a palette, reordered": lambda: reordered(LABEL, RGB),
    "quantised": lambda: stream_of(Image.fromarray(RGB[LABEL]).quantize(8)),
    "colours in Pillow's web palette": lambda: stream_of(Image.fromarray(RGB[LABEL]).convert("P")),
}


@pytest.mark.parametrize("stored", STORED)
def test_masks_mean_what_they_show(stored):
    labels = png.read_labels(STORED[stored](), None, "mask")
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, LABEL)


def test_a_map_holds_for_every_storage():
    grey_map = {(0, 0, 0): 0, (3, 3, 3): 1, (5, 5, 5): 4}
    expected = np.select([LABEL == 3, LABEL == 5], [1, 4], 0)
    for stored in [name for name in STORED if "grey" in name]:
        np.testing.assert_array_equal(png.read_labels(STORED[stored](), grey_map, "m"), expected)
    with pytest.raises(UserError, match="grey value 5 stands for no class: give --rgb_map"):
        png.read_labels(STORED["grey"](), {(0, 0, 0): 0, (3, 3, 3): 1}, "mask")
    binary = (LABEL > 0) * np.uint8(255)
    for picture in (Image.fromarray(binary), Image.fromarray(binary).convert("1")):
        with pytest.raises(UserError, match="mask: grey value 255 stands for no class"):
            png.read_labels(stream_of(picture), None, "mask")
        labels = png.read_labels(stream_of(picture), {(0, 0, 0): 0, (255, 255, 255): 2}, "mask")
        np.testing.assert_array_equal(labels, (LABEL > 0) * 2)


PRETTY = [(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255)]
"""Decorates the labels 0 to 5; four of its colours are of other classes, magenta is of none."""


@pytest.mark.parametrize("label", [LABEL, LABEL * (LABEL == 3), LABEL // 3 * 2])
def test_a_palette_that_only_decorates_is_refused(label):
    with pytest.raises(png.PaletteError, match=r"mask: .*\(255, 0, 255\).* --rgb_map"):
        png.read_labels(indexed(label, PRETTY), None, "mask")
    rgb_map = {rgb: value for value, rgb in enumerate(PRETTY)}
    np.testing.assert_array_equal(png.read_labels(indexed(label, PRETTY), rgb_map, "m"), label)


def test_unused_colours_of_a_palette_do_not_matter():
    palette = [*RGB, (9, 9, 9), (255, 0, 255)]
    np.testing.assert_array_equal(png.read_labels(indexed(LABEL, palette), None, "m"), LABEL)
    labels = png.read_labels(indexed(LABEL // 3, [(0, 0, 0), (255, 0, 0), (0, 255, 0)]), None, "m")
    np.testing.assert_array_equal(labels, np.array([0, 1, 5])[LABEL // 3])


def test_grey_of_a_palette_and_of_colours():
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for stream in (indexed(grey, 20 * GREYS[:12]), stream_of(Image.fromarray(GREYS[grey] * 20))):
        np.testing.assert_array_equal(png.read_grey(stream, "image"), grey * 20)
