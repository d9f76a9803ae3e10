"""ABC/2 of bodies that a ruler measures: by hand, and against the volume of an ellipsoid."""

import numpy as np
import pytest

from mbh_jax.evaluation.abc2 import abc2_ml

AFFINE = np.diag([-0.5, -0.5, 5.0, 1.0])


def body(*columns: int) -> np.ndarray:
    """One row of so many columns in each slice, so that areas are their numbers."""
    lesion = np.zeros((len(columns), 3, max(columns)), bool)
    for index, number in enumerate(columns):
        lesion[index, 1, :number] = True
    return lesion


def ratio(*columns: int) -> float:
    """C in slices, from a body whose largest slice has 100 pixels in a row."""
    return abc2_ml(body(*columns), AFFINE) / abc2_ml(body(100), AFFINE)


def test_an_ellipse_of_40_by_30_mm_in_six_slices() -> None:
    """A 40 mm, B 30 mm, C 30 mm: 18 mL."""
    row, column = np.indices((200, 200)) - 99.5
    ellipse = (column * 0.25 / 20) ** 2 + (row * 0.25 / 15) ** 2 <= 1
    lesion = np.repeat(ellipse[None], 6, 0)
    affine = np.diag([-0.25, -0.25, 5.0, 1.0])
    assert abc2_ml(lesion, affine) == pytest.approx(18, rel=0.02)


@pytest.mark.parametrize(
    ("columns", "slices"),
    [
        ((100, 100), 2),
        ((76, 100), 2),
        ((75, 100), 1.5),
        ((25, 100), 1.5),
        ((24, 100), 1),
        ((100, 80, 50, 10), 2.5),
        ((30, 60, 100, 90, 20), 3),
    ],
)
def test_slices_at_the_ends_count_half_or_not_at_all(
    columns: tuple[int, ...], slices: float
) -> None:
    """Kothari: more than 75 % of the largest area counts whole, 25 to 75 % half, less not."""
    assert ratio(*columns) == pytest.approx(slices)


def test_an_ellipsoid_is_near_its_volume() -> None:
    """ABC/2 replaces pi/6 by 1/2, and of a ball the part with over a quarter of the area counts."""
    slices, rows, columns = (
        np.indices((60, 120, 120)) - np.array([29.5, 59.5, 59.5])[:, None, None, None]
    )
    angle = np.deg2rad(30)
    x = (np.cos(angle) * columns + np.sin(angle) * rows) * 0.5
    y = (-np.sin(angle) * columns + np.cos(angle) * rows) * 0.5
    height = abs(slices * 1.0 / 20)
    lesion = (x / 25) ** 2 + (y / 15) ** 2 + height**2 <= 1
    exact_ml = 4 / 3 * np.pi * 25 * 15 * 20 / 1000
    # The area at a height h is 1 - h^2 of the largest: whole up to 1/2, half up to sqrt(3)/2.
    counted = (0.5 + np.sqrt(0.75)) / 2
    assert abc2_ml(lesion, np.diag([-0.5, -0.5, 1.0, 1.0])) == pytest.approx(
        exact_ml * 3 / np.pi * counted, rel=0.03
    )


def test_each_slice_counts_with_its_thickness_and_tilt_shortens_it() -> None:
    lesion = np.zeros((6, 40, 40), bool)
    lesion[2:5, 4:8, 5:21] = True
    slice_mm = np.array([5.0, 5.0, 2.5, 2.0, 2.0, 2.0])
    assert abc2_ml(lesion, AFFINE, slice_mm) / abc2_ml(lesion, AFFINE) == pytest.approx(6.5 / 15)
    tilted = AFFINE.copy()
    tilted[1, 2], tilted[2, 2] = 5 * np.sin(0.3), 5 * np.cos(0.3)
    assert abc2_ml(lesion, tilted) / abc2_ml(lesion, AFFINE) == pytest.approx(np.cos(0.3))
