"""Millilitres, lesions and ABC/2 of bodies whose volumes are known."""

import numpy as np
import pytest

from mbh_jax.data.spacing import Spread, TrainingSpacing
from mbh_jax.imageio.volume import Volume
from mbh_jax.inference import measure

AFFINE = np.diag([-0.5, -0.5, 5.0, 1.0])  # 1.25 microlitres a voxel


def test_two_boxes_and_a_corner() -> None:
    mask = np.zeros((6, 40, 40), np.uint8)
    mask[1:4, 4:14, 4:24] = 2  # 3 x 10 x 20 voxels
    mask[4, 14, 24] = 2  # touches it at a corner: one lesion
    mask[0, 30:34, 30:34] = 5
    found = measure.measure(mask, AFFINE)
    assert found["IPH"].ml == pytest.approx(601 * 1.25e-3)
    assert (found["IPH"].num_slices, found["IPH"].num_lesions) == (4, 1)
    assert found["SDH"].ml == pytest.approx(16 * 1.25e-3)
    assert found["EDH"] == measure.Measurement(0.0, 0, 0, 0, 0, 0.0, 0.0)
    assert (found["any"].num_lesions, found["any"].num_slices) == (2, 5)
    assert found["any"].largest_lesion_ml == pytest.approx(601 * 1.25e-3)


def test_a_gantry_tilt_changes_the_volume_of_a_voxel() -> None:
    tilted = AFFINE.copy()
    tilted[1, 2], tilted[2, 2] = 5 * np.sin(0.3), 5 * np.cos(0.3)
    mask = np.ones((2, 4, 4), np.uint8)
    assert measure.measure(mask, tilted)["EDH"].ml == pytest.approx(32 * 1.25e-3 * np.cos(0.3))


def test_what_makes_a_prediction_doubtful() -> None:
    hu = np.full((4, 8, 8), -1000, np.int16)
    mask = np.zeros(hu.shape, np.uint8)
    found = measure.warnings(Volume(hu, AFFINE, "LPS"), mask)
    assert [text.split(":")[0] for text in found] == [
        "the scan covers 20 mm",
        "0 % of the voxels are at 0 to 80 HU",
    ]
    hu[0, 0, 0] = 40
    nearly = np.concatenate([hu, hu[1:2]])  # 1 of 320 voxels.
    assert "0.31 % of" in measure.warnings(Volume(nearly, AFFINE, "LPS"), mask)[1]
    mask[1, 0, 3] = 1
    assert (
        "blood touches the border of the scan"
        in measure.warnings(
            Volume(np.full((40, 8, 8), 30, np.int16), AFFINE, "LPS"), np.repeat(mask, 10, 0)
        )[0]
    )


def test_slices_of_different_thickness() -> None:
    """Each slice counts with its own, and the largest lesion is the one with the most volume."""
    mask = np.zeros((6, 40, 40), np.uint8)
    mask[0, :10, :10] = 2  # 100 voxels in a slice of 5 mm,
    mask[4:, 20:28, 20:30] = 2  # and 2 x 80 in slices of 2 mm: smaller.
    slice_mm = np.array([5.0, 5.0, 2.5, 2.0, 2.0, 2.0])
    found = measure.measure(mask, AFFINE, slice_mm)["IPH"]
    assert found.ml == pytest.approx((100 * 5 + 160 * 2) * 0.25 / 1000)
    assert found.largest_lesion_ml == pytest.approx(100 * 5 * 0.25 / 1000)


def test_what_the_reader_doubts_comes_first() -> None:
    hu = np.full((20, 8, 8), 30, np.int16)
    volume = Volume(hu, AFFINE, "LPS", np.full(20, 3.0), ("slices are missing: somewhere",))
    found = measure.warnings(volume, np.zeros(hu.shape, np.uint8))
    assert found[0] == "slices are missing: somewhere" and "covers 60 mm" in found[1]


def test_a_tilted_gantry_is_named_by_its_angle() -> None:
    tilted = AFFINE.copy()
    tilted[1, 2], tilted[2, 2] = 5 * np.sin(np.deg2rad(15)), 5 * np.cos(np.deg2rad(15))
    hu = np.full((20, 8, 8), 30, np.int16)
    (found,) = measure.warnings(Volume(hu, tilted, "LPS"), np.zeros(hu.shape, np.uint8))
    assert found.startswith("the gantry is tilted by 15.0 degrees")
    assert not measure.warnings(Volume(hu, AFFINE, "LPS"), np.zeros(hu.shape, np.uint8))


def test_spacing_far_from_that_of_training() -> None:
    """Within 1.5 times the range nothing is said; slices are resized, so the field counts too."""
    known = TrainingSpacing(Spread(0.4, 0.5, 0.6), Spread(4, 5, 6), Spread(200, 250, 300))

    def found(pixel_mm: float, slice_mm: float, columns: int) -> list[str]:
        affine = np.diag([-pixel_mm, -pixel_mm, slice_mm, 1.0])
        hu = np.full((60, 4, columns), 30, np.int16)
        volume = Volume(hu, affine, "LPS")
        # Two networks that say the same say it once.
        return measure.warnings(volume, np.zeros(hu.shape, np.uint8), [known, known])

    assert found(0.5, 5, 512) == found(0.89, 8.9, 500) == found(0.27, 2.7, 512) == []
    assert found(0.5, 2.5, 512) == [
        "slices every 2.5 mm, and the network was trained on 4 to 6 mm: it may do worse here"
    ]
    assert [text[:17] for text in found(0.25, 5, 512)] == ["pixels of 0.25 mm", "a field of view o"]
    assert [text[:15] for text in found(0.5, 5, 200)] == ["a field of view"]
