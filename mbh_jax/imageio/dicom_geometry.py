"""Slices of a CT series in space: their order, one affine, and how thick each of them is."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mbh_jax.imageio.dicom_header import Slice

SAME_POSITION_MM = 0.01
"""Slices closer than this along the normal are at one position."""

EVEN_FRACTION = 0.05
"""Slices are evenly spaced if none is further than this part of a step from where the affine puts
it, or than `EVEN_MM`."""

EVEN_MM = 0.1

HOLE_FACTOR = 1.5
"""Slices are missing where a gap is wider than the usual one by this factor."""

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class Stack(NamedTuple):
    """Slices at different positions, from the feet's side to the head's.

    Attributes:
        slices: in this order.
        affine: (4, 4), stored voxel (column, row, slice) to RAS+ mm. Its last step is the
            difference of positions, so that a gantry tilt is a shear.
        slice_mm: (slices,), how much of the patient each slice stands for along the normal; None
            where slices are evenly spaced.
        notes: what is doubtful, one sentence each.
        mask_notes: what follows from it for masks and millilitres, one sentence each.
    """

    slices: tuple[Slice, ...]
    affine: np.ndarray
    slice_mm: np.ndarray | None
    notes: tuple[str, ...]
    mask_notes: tuple[str, ...]


def is_axial(orientation: np.ndarray) -> bool:
    """Whether slices lie nearer to the axial plane than to another one.

    Args:
        orientation: (2, 3), unit vectors along a row and along a column, LPS+.
    """
    return int(np.abs(np.cross(*orientation)).argmax()) == 2


def stack(slices: Sequence[Slice]) -> Stack | None:
    """Puts slices of one orientation, size and pixel spacing in order.

    Of slices at one position the first by instance number is kept.

    Returns:
        None for a single slice of unknown thickness.
    """
    normal = np.cross(*slices[0].orientation)
    normal *= np.sign(normal[2])
    along_mm = {id(one): float(one.position_mm @ normal) for one in slices}
    by_number = sorted(slices, key=lambda one: (one.instance_number, one.sop_uid, one.frame))
    ordered: list[Slice] = []
    copies: list[Slice] = []
    for one in sorted(by_number, key=lambda one: round(along_mm[id(one)] / SAME_POSITION_MM)):
        near = ordered and along_mm[id(one)] - along_mm[id(ordered[-1])] < SAME_POSITION_MM
        (copies if near else ordered).append(one)
    kept_uids = {(one.sop_uid, one.frame) for one in ordered if one.sop_uid}
    others = [one for one in copies if (one.sop_uid, one.frame) not in kept_uids]
    notes: list[str] = []
    mask_notes: list[str] = []
    if others:
        notes.append(
            f"{len(others)} images lie where another image of the series lies, and were left out: "
            "the series may hold several scans"
        )

    positions_mm = np.array([one.position_mm for one in ordered])
    if len(ordered) == 1:
        if ordered[0].thickness_mm is None:
            return None
        step_mm, slice_mm = ordered[0].thickness_mm * normal, None
    else:
        step_mm, slice_mm, uneven, mask_notes = _spacing(ordered, positions_mm, normal)
        notes += uneven
    first = ordered[0]
    lps = np.eye(4)
    lps[:3, 0] = first.orientation[0] * first.pixel_mm[0]
    lps[:3, 1] = first.orientation[1] * first.pixel_mm[1]
    lps[:3, 2] = step_mm
    lps[:3, 3] = first.position_mm
    return Stack(tuple(ordered), _LPS_TO_RAS @ lps, slice_mm, tuple(notes), tuple(mask_notes))


def _spacing(
    slices: Sequence[Slice], positions_mm: np.ndarray, normal: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None, list[str], list[str]]:
    """The affine's step (3,), millimetres of each slice if uneven, `notes` and `mask_notes`."""
    numbers = np.arange(len(slices))
    mean_step_mm = (positions_mm[-1] - positions_mm[0]) / numbers[-1]
    tolerance_mm = max(EVEN_MM, EVEN_FRACTION * float(mean_step_mm @ normal))
    if _deviations_mm(positions_mm, mean_step_mm).max() <= tolerance_mm:
        return mean_step_mm, None, [], []

    steps_mm = np.diff(positions_mm, axis=0)
    gaps_mm = steps_mm @ normal
    middle_mm = float(np.median(gaps_mm))
    usual_mm = steps_mm[int(np.abs(gaps_mm - middle_mm).argmin())]
    slice_mm, expected_mm = slice_thicknesses_mm(gaps_mm, [one.thickness_mm for one in slices])
    off_mm = _deviations_mm(positions_mm, usual_mm).max()
    notes, mask_notes = [], []
    holes = np.flatnonzero(gaps_mm > HOLE_FACTOR * expected_mm)
    if len(holes):
        notes.append(
            f"slices are missing: {_where(holes, gaps_mm)}, {_short(middle_mm)} mm is usual"
        )
        mask_notes.append("blood where slices are missing is not counted")
    uneven = np.flatnonzero(np.abs(gaps_mm - middle_mm) > tolerance_mm)
    uneven = np.setdiff1d(uneven, holes)
    if len(uneven):
        notes.append(
            f"slices are unevenly spaced: {_where(uneven, gaps_mm)}, {_short(middle_mm)} mm is "
            "usual"
        )
        mask_notes.append("millilitres count each slice with its own thickness")
    if not notes:
        notes.append("slices are shifted sideways against each other")
    mask_notes.append(
        f"the NIfTI mask shows slices up to {off_mm:.1f} mm from their place; DICOM SEG is exact"
    )
    return usual_mm, slice_mm, notes, mask_notes


def slice_thicknesses_mm(
    gaps_mm: np.ndarray, thicknesses_mm: Sequence[float | None]
) -> tuple[np.ndarray, np.ndarray]:
    """How much of the patient each of several slices stands for.

    The space between two neighbours is divided in proportion to their thicknesses, and the outer
    slices stand for as much outwards as their thickness says. Where slices are missing, the
    neighbours get what they would have without the hole.

    Args:
        gaps_mm: (slices - 1,), distances of neighbours along the normal.
        thicknesses_mm: of each slice; if one is None, all count as equally thick.

    Returns:
        (slices,) millimetres, and (slices - 1,) the distances that the thicknesses let expect.
    """
    known = [thickness for thickness in thicknesses_mm if thickness is not None]
    thick = np.array(known) if len(known) == len(thicknesses_mm) else np.ones(len(thicknesses_mm))
    touching_mm = (thick[:-1] + thick[1:]) / 2
    spread = float(np.median(gaps_mm / touching_mm))  # Below 1 slices overlap.
    expected_mm = spread * touching_mm
    shared_mm = np.where(gaps_mm > HOLE_FACTOR * expected_mm, expected_mm, gaps_mm)
    below = shared_mm * thick[1:] / (2 * touching_mm)
    above = shared_mm * thick[:-1] / (2 * touching_mm)
    ends = spread * thick[[0, -1]] / 2
    return np.concatenate([above, ends[1:]]) + np.concatenate([ends[:1], below]), expected_mm


def _deviations_mm(positions_mm: np.ndarray, step_mm: np.ndarray) -> np.ndarray:
    """How far each slice is from where the first one and a constant step put it."""
    placed = positions_mm[0] + np.arange(len(positions_mm))[:, None] * step_mm
    return np.linalg.norm(positions_mm - placed, axis=1)


def _where(gaps: np.ndarray, gaps_mm: np.ndarray) -> str:
    """Names up to three gaps by the numbers of the slices, counted from 1."""
    named = [f"{_short(gaps_mm[i])} mm between slices {i + 1} and {i + 2}" for i in gaps[:3]]
    more = f" and {len(gaps) - 3} more places" if len(gaps) > 3 else ""
    return ", ".join(named) + more


def _short(value_mm: float) -> str:
    return f"{round(float(value_mm), 2):g}"
