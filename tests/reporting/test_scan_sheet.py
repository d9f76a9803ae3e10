"""The picture of a scan: which slices it shows, and the colours of what was found there."""

import numpy as np

from mbh_jax.labels import LABELS
from mbh_jax.reporting.scan_sheet import choose_slices, scan_sheet

NAMES = ("EDH", "IPH", "IVH", "SAH", "SDH")


def sheet_of(mask: np.ndarray, **millilitres: float) -> np.ndarray:
    hu = np.full(mask.shape, 30, np.int16)
    ml = dict.fromkeys((*NAMES, "any"), 0.0) | millilitres
    return scan_sheet(hu, mask, name="a", millilitres=ml)


def count(sheet: np.ndarray, label: int) -> int:
    """Pixels in the pure colour of a class, below the line of millilitres."""
    return int((sheet[80:] == LABELS[label].rgb).all(axis=-1).sum())


def test_slices_with_blood_are_shown_evenly_and_the_middle_one_without() -> None:
    mask = np.zeros((40, 4, 4), np.uint8)
    assert choose_slices(mask) == [20]
    mask[[3, 30], 1, 1] = 2
    assert choose_slices(mask) == [3, 30]
    mask[5:36, 1, 1] = 2
    chosen = choose_slices(mask, 12)
    assert (len(chosen), chosen[0], chosen[-1]) == (12, 3, 35) and mask[chosen].any((1, 2)).all()


def test_a_lesion_has_an_outline_in_its_colour_and_its_size() -> None:
    """Outlines are opaque, insides are not: 10 x 20 pixels have 4 x (10 + 20) - 4 on the outline
    of a picture enlarged twice."""
    mask = np.zeros((3, 160, 160), np.uint8)
    mask[1, 50:60, 70:90] = 4
    sheet = sheet_of(mask, SAH=2.5, any=2.5)
    assert count(sheet, 4) == 4 * (10 + 20) - 4
    assert count(sheet, 2) == 0
    assert count(sheet_of(np.zeros_like(mask)), 4) == 0
