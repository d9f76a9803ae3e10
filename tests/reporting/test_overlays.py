"""Windows, colours and outlines against numbers worked out by hand."""

import numpy as np
import pytest
from PIL import Image

from mbh_jax.labels import LABELS
from mbh_jax.reporting import overlays


def test_brain_window_is_level_40_width_80():
    hu = np.array([-1000, 0, 20, 40, 60, 80, 3000], np.int16)
    # 20 HU is a quarter of the width: 63.75.
    np.testing.assert_array_equal(overlays.brain_window(hu), [0, 0, 64, 128, 191, 255, 255])


def test_colourise_uses_the_one_table():
    label = np.array([[0, 1, 2], [3, 4, 5]], np.uint8)
    rgb = overlays.colourise(label)
    assert rgb.dtype == np.uint8
    assert rgb[0, 1].tolist() == [255, 0, 0]
    assert rgb.reshape(-1, 3).tolist() == [list(entry.rgb) for entry in LABELS]


def test_overlay_keeps_background_outlines_and_tints():
    hu = np.full((7, 7), 40, np.int16)
    label = np.zeros((7, 7), np.uint8)
    label[1:6, 1:6] = 5
    rgb = overlays.overlay(hu, label, alpha=0.5)
    assert (rgb[label == 0] == 128).all()
    ring = label.astype(bool)
    ring[2:5, 2:5] = False
    assert (rgb[ring] == (0, 255, 0)).all()
    # Half of grey 128 and half of (0, 255, 0), rounded half up.
    assert (rgb[2:5, 2:5] == (64, 192, 64)).all()


def test_overlay_outlines_where_two_classes_touch():
    label = np.zeros((6, 8), np.uint8)
    label[:, :4], label[:, 4:] = 1, 2
    rgb = overlays.overlay(np.zeros((6, 8), np.int16), label, alpha=0.0)
    assert (rgb[2, 3] == (255, 0, 0)).all()
    assert (rgb[2, 4] == (0, 0, 255)).all()
    assert (rgb[2, 2] == 0).all()


@pytest.mark.parametrize(("size", "factor"), [(64, 4), (256, 1)])
def test_panel_shows_image_truth_and_prediction_side_by_side(size, factor):
    hu = np.random.default_rng(0).integers(0, 80, (size, size)).astype(np.int16)
    truth, prediction = np.zeros((2, size, size), np.uint8)
    truth[:8, :8], prediction[:8, -8:] = 1, 4
    picture = overlays.panel(hu, truth, prediction, "title")

    def find(label):
        """Top left corner of the tile that shows `label` over `hu`, in the whole picture."""
        tile = overlays.overlay(
            hu.repeat(factor, 0).repeat(factor, 1), label.repeat(factor, 0).repeat(factor, 1)
        )
        side = size * factor
        for top in range(picture.shape[0] - side + 1):
            for left in range(picture.shape[1] - side + 1):
                if (picture[top, left : left + side] == tile[0]).all():
                    np.testing.assert_array_equal(
                        picture[top : top + side, left : left + side], tile
                    )
                    return top, left
        raise AssertionError("the tile is not in the picture")

    corners = [find(label) for label in (np.zeros_like(truth), truth, prediction)]
    assert len({top for top, _ in corners}) == 1
    lefts = [left for _, left in corners]
    assert lefts[0] + size * factor <= lefts[1]
    assert lefts[1] + size * factor <= lefts[2]


def test_legend_shows_the_colours_of_the_classes_in_the_picture():
    blank = np.zeros((256, 256), np.uint8)
    truth = blank.copy()
    truth[10:20, 10:20] = 3
    picture = overlays.panel(blank.astype(np.int16), truth, blank, "")
    legend = picture[-36:].reshape(-1, 3)
    shown = [entry.name for entry in LABELS[1:] if (legend == entry.rgb).all(1).sum() > 100]
    assert shown == ["IVH"]


def test_write_epoch_change_writes_a_panel_a_slice_and_a_montage(tmp_path):
    rng = np.random.default_rng(0)
    hu = rng.integers(-1000, 1000, (3, 300, 300)).astype(np.int16)
    truth, prediction = rng.integers(0, 6, (2, 3, 300, 300)).astype(np.uint8)
    names = ["ID_a_001", "ID_a_002", "ID_b_010"]
    sheet = overlays.write_epoch_change(tmp_path, 7, hu, truth, prediction, names=names)
    folder = tmp_path / "epoch_0007"
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [f"{name}.png" for name in names] + ["montage.png"]
    )
    with Image.open(folder / "montage.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), sheet)
    with Image.open(folder / "ID_a_002.png") as picture:
        expected = overlays.panel(hu[1], truth[1], prediction[1], "ID_a_002   epoch 7")
        np.testing.assert_array_equal(np.asarray(picture), expected)
    assert sheet.shape[1] < 2 * 3 * 300, "montage tiles are reduced"


def test_names_longer_than_a_file_name_may_be_keep_their_beginning_and_end(tmp_path):
    hu, label = np.zeros((2, 8, 8)), np.ones((2, 8, 8), int)
    names = [232 * "x" + "a_slice_007", 232 * "x" + "b_slice_007"]
    overlays.write_epoch_change(tmp_path, 1, hu, label, label, names=names)
    written = sorted(path.name for path in (tmp_path / "epoch_0001").iterdir())
    assert written.pop(0) == "montage.png"
    assert {name[:100] for name in written} == {100 * "x"}
    assert {name[-15:] for name in written} == {"a_slice_007.png", "b_slice_007.png"}
