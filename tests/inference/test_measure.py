"""Millilitres, lesions and ABC/2 of bodies whose volumes are known."""

import numpy as np
import pytest

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
    assert found["EDH"] == measure.Measurement(0.0, 0, 0, 0.0, 0.0)
    assert (found["any"].num_lesions, found["any"].num_slices) == (2, 5)
    assert found["any"].largest_lesion_ml == pytest.approx(601 * 1.25e-3)


def test_a_gantry_tilt_changes_the_volume_of_a_voxel() -> None:
    tilted = AFFINE.copy()
    tilted[1, 2], tilted[2, 2] = 5 * np.sin(0.3), 5 * np.cos(0.3)
    mask = np.ones((2, 4, 4), np.uint8)
    assert measure.measure(mask, tilted)["EDH"].ml == pytest.approx(32 * 1.25e-3 * np.cos(0.3))


def test_abc2_of_an_ellipsoid_is_near_its_volume() -> None:
    """ABC/2 replaces pi/6 by 1/2: 0.955 of the volume."""
    slices, rows, columns = (
        np.indices((30, 120, 120)) - np.array([14.5, 59.5, 59.5])[:, None, None, None]
    )
    angle = np.deg2rad(30)
    x = (np.cos(angle) * columns + np.sin(angle) * rows) * 0.5
    y = (-np.sin(angle) * columns + np.cos(angle) * rows) * 0.5
    lesion = (x / 25) ** 2 + (y / 15) ** 2 + (slices * 2.0 / 20) ** 2 <= 1
    affine = np.diag([-0.5, -0.5, 2.0, 1.0])
    exact_ml = 4 / 3 * np.pi * 25 * 15 * 20 / 1000
    assert measure.measure(lesion.astype(np.uint8), affine)["EDH"].ml == pytest.approx(
        exact_ml, rel=0.02
    )
    assert measure.abc2_ml(lesion, affine) == pytest.approx(exact_ml * 3 / np.pi, rel=0.05)


def test_what_makes_a_prediction_doubtful() -> None:
    hu = np.full((4, 8, 8), -1000, np.int16)
    mask = np.zeros(hu.shape, np.uint8)
    found = measure.warnings(Volume(hu, AFFINE, "LPS"), mask)
    assert [text.split(":")[0] for text in found] == [
        "the scan covers 20 mm",
        "0.0% of the voxels are at 0 to 80 HU",
    ]
    mask[1, 0, 3] = 1
    assert (
        "blood touches the border of the scan"
        in measure.warnings(
            Volume(np.full((40, 8, 8), 30, np.int16), AFFINE, "LPS"), np.repeat(mask, 10, 0)
        )[0]
    )


def test_slices_of_different_thickness() -> None:
    """Each slice counts with its own; so does C of ABC/2, and the largest lesion is by volume."""
    mask = np.zeros((6, 40, 40), np.uint8)
    mask[0, :10, :10] = 2  # 100 voxels in a slice of 5 mm,
    mask[4:, 20:28, 20:30] = 2  # and 2 x 80 in slices of 2 mm: smaller.
    slice_mm = np.array([5.0, 5.0, 2.5, 2.0, 2.0, 2.0])
    found = measure.measure(mask, AFFINE, slice_mm)["IPH"]
    assert found.ml == pytest.approx((100 * 5 + 160 * 2) * 0.25 / 1000)
    assert found.largest_lesion_ml == pytest.approx(100 * 5 * 0.25 / 1000)
    lesion = np.zeros(mask.shape, bool)
    lesion[2:5, 4:8, 5:21] = True
    # A is the diagonal of 8 x 2 mm; C is 2.5 + 2 + 2 mm.
    ratio = measure.abc2_ml(lesion, AFFINE, slice_mm) / measure.abc2_ml(lesion, AFFINE)
    assert ratio == pytest.approx(6.5 / 15)
    tilted = AFFINE.copy()
    tilted[1, 2], tilted[2, 2] = 5 * np.sin(0.3), 5 * np.cos(0.3)
    ratio = measure.abc2_ml(lesion, tilted) / measure.abc2_ml(lesion, AFFINE)
    assert ratio == pytest.approx(np.cos(0.3))


def test_what_the_reader_doubts_comes_first() -> None:
    hu = np.full((20, 8, 8), 30, np.int16)
    volume = Volume(hu, AFFINE, "LPS", np.full(20, 3.0), ("slices are missing: somewhere",))
    found = measure.warnings(volume, np.zeros(hu.shape, np.uint8))
    assert found[0] == "slices are missing: somewhere" and "covers 60 mm" in found[1]
