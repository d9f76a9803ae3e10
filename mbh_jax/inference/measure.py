"""What a mask says about a scan: millilitres, lesions, the ABC/2 estimate, and what to doubt."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from mbh_jax.imageio.volume import Volume, affine_spacing_mm, voxel_volume_ml
from mbh_jax.labels import CLASS_NAMES, FOREGROUND

MIN_COVERAGE_MM = 80.0
"""A scan that covers less of the head may miss blood."""

HEAD_HU = (0, 80)
"""Where brain and blood lie; a head has many voxels there."""

MIN_HEAD_FRACTION = 0.01
"""Least fraction of the voxels of a head scan in that range."""

_NEIGHBOURS = np.ones((3, 3, 3), bool)
"""26-connectivity: voxels that share a face, an edge or a corner are one lesion."""


class Measurement(NamedTuple):
    """One class of a mask, or all blood together.

    Attributes:
        ml: volume.
        num_slices: slices that hold it.
        num_lesions: connected components (26-connectivity).
        largest_lesion_ml: volume of the largest one; 0 without any.
        abc2_ml: the ABC/2 estimate of the largest lesion: A its largest diameter in a slice, B the
            largest width at right angles to it, C the sum of its slices' thicknesses (Kothari et
            al., Stroke 1996, 27:1304), all in centimetres; 0 without any.
    """

    ml: float
    num_slices: int
    num_lesions: int
    largest_lesion_ml: float
    abc2_ml: float


def measure(
    mask: np.ndarray, affine: np.ndarray, slice_mm: np.ndarray | None = None
) -> dict[str, Measurement]:
    """Measures each kind of blood by its short name, and "any", all blood together.

    Args:
        mask: (slices, rows, columns) label values.
        affine: (4, 4), voxel (column, row, slice) to RAS+ mm.
        slice_mm: (slices,), how much each slice stands for where they are not evenly spaced, see
            `Volume.slice_mm`.
    """
    found = {
        CLASS_NAMES[label]: _measure_one(mask == label, affine, slice_mm) for label in FOREGROUND
    }
    return found | {"any": _measure_one(mask > 0, affine, slice_mm)}


def _measure_one(where: np.ndarray, affine: np.ndarray, slice_mm: np.ndarray | None) -> Measurement:
    if not where.any():
        return Measurement(0.0, 0, 0, 0.0, 0.0)
    voxel_ml = _voxel_ml(affine, slice_mm, len(where))
    where = where[:, *_bounds(where)]  # Blood fills little of a head.
    lesions, num_lesions = ndimage.label(where, _NEIGHBOURS)
    lesion_ml = _lesion_ml(lesions, num_lesions, voxel_ml)
    largest = int(lesion_ml.argmax())
    return Measurement(
        ml=float(where.sum(axis=(1, 2)) @ voxel_ml),
        num_slices=int(where.any(axis=(1, 2)).sum()),
        num_lesions=num_lesions,
        largest_lesion_ml=float(lesion_ml[largest]),
        abc2_ml=abc2_ml(lesions == largest + 1, affine, slice_mm),
    )


def remove_small_lesions(
    mask: np.ndarray, min_ml: float, affine: np.ndarray, slice_mm: np.ndarray | None = None
) -> None:
    """Turns lesions of a class that are smaller than `min_ml` into background, in place.

    Args:
        mask: (slices, rows, columns) label values.
        min_ml: volume of the smallest lesion that stays. A lesion is a connected component
            (26-connectivity) of one class.
        affine, slice_mm: see `measure`.
    """
    voxel_ml = _voxel_ml(affine, slice_mm, len(mask))
    for label in FOREGROUND:
        lesions, num_lesions = ndimage.label(mask == label, _NEIGHBOURS)
        # A rounding error must not remove a lesion of exactly the smallest volume.
        is_small = _lesion_ml(lesions, num_lesions, voxel_ml) < min_ml * (1 - 1e-9)
        mask[np.append(False, is_small)[lesions]] = 0


def _bounds(where: np.ndarray) -> tuple[slice, slice]:
    """The rows and columns of a volume (slices, rows, columns) that hold all that is true in it."""
    rows, columns = np.nonzero(where.any(axis=(0, 2)))[0], np.nonzero(where.any(axis=(0, 1)))[0]
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _lesion_ml(lesions: np.ndarray, num_lesions: int, voxel_ml: np.ndarray) -> np.ndarray:
    """Volumes of the lesions 1 to `num_lesions` of a label array, given those of each slice."""
    return sum(
        (
            ml * np.bincount(in_slice.ravel(), minlength=num_lesions + 1)[1:]
            for ml, in_slice in zip(voxel_ml, lesions, strict=True)
        ),
        np.zeros(num_lesions),
    )


def abc2_ml(lesion: np.ndarray, affine: np.ndarray, slice_mm: np.ndarray | None = None) -> float:
    """The ABC/2 estimate of one lesion in mL, see `Measurement`.

    Args:
        lesion: (slices, rows, columns) bool.
        affine: (4, 4), voxel (column, row, slice) to RAS+ mm.
        slice_mm: see `measure`.
    """
    column_mm, row_mm, _ = affine_spacing_mm(affine)
    areas = lesion.sum(axis=(1, 2))
    rows, columns = np.nonzero(lesion[int(areas.argmax())])
    # Corners of the pixels, so that a lesion of one pixel has a diameter.
    corners = np.concatenate(
        [
            np.stack([(columns + x) * column_mm, (rows + y) * row_mm], 1)
            for x in (0, 1)
            for y in (0, 1)
        ]
    )
    angles = np.deg2rad(np.arange(0, 180, 3))
    directions = np.stack([np.cos(angles), np.sin(angles)])
    along = corners @ directions
    widths = along.max(0) - along.min(0)
    longest = int(widths.argmax())
    a_mm = widths[longest]
    b_mm = widths[(longest + len(angles) // 2) % len(angles)]
    c_mm = _slice_mm(affine, slice_mm, len(lesion))[areas > 0].sum()
    return float(a_mm * b_mm * c_mm / 2 / 1000)


def _pixel_mm2(affine: np.ndarray) -> float:
    return float(np.linalg.norm(np.cross(affine[:3, 0], affine[:3, 1])))


def _voxel_ml(affine: np.ndarray, slice_mm: np.ndarray | None, num_slices: int) -> np.ndarray:
    """Volume of a voxel of each slice."""
    return _pixel_mm2(affine) * _slice_mm(affine, slice_mm, num_slices) / 1000


def _slice_mm(affine: np.ndarray, slice_mm: np.ndarray | None, num_slices: int) -> np.ndarray:
    """How much each slice stands for along the normal; by the affine unless given."""
    if slice_mm is not None:
        return slice_mm
    return np.full(num_slices, voxel_volume_ml(affine) * 1000 / _pixel_mm2(affine))


def warnings(volume: Volume, mask: np.ndarray) -> list[str]:
    """What makes a prediction doubtful, one sentence each."""
    found = list(volume.notes)
    coverage_mm = _slice_mm(volume.affine, volume.slice_mm, len(volume.hu)).sum()
    if coverage_mm < MIN_COVERAGE_MM:
        found.append(f"the scan covers {coverage_mm:.0f} mm: blood elsewhere is not counted")
    low, high = HEAD_HU
    fraction = ((volume.hu >= low) & (volume.hu <= high)).mean()
    if fraction < MIN_HEAD_FRACTION:
        found.append(
            f"{fraction:.1%} of the voxels are at {low} to {high} HU: this may be no head CT in HU"
        )
    blood = mask > 0
    border = (blood[[0, -1]].any(), blood[:, [0, -1]].any(), blood[:, :, [0, -1]].any())
    if any(border):
        found.append("blood touches the border of the scan: there may be more beyond it")
    return found
