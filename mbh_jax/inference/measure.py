"""What a mask says about a scan: millilitres, lesions, the ABC/2 estimate, and what to doubt."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from mbh_jax.data.spacing import TrainingSpacing, lengths
from mbh_jax.evaluation.abc2 import abc2_ml
from mbh_jax.imageio.volume import Volume, gantry_tilt_deg, pixel_area_mm2, voxel_volume_ml
from mbh_jax.labels import CLASS_NAMES, FOREGROUND

MIN_COVERAGE_MM = 80.0
"""A scan that covers less of the head may miss blood."""

HEAD_HU = (0, 80)
"""Where brain and blood lie; a head has many voxels there."""

CLIPPED_HU = (0, 255)
"""What pictures can hold of Hounsfield units."""

MIN_HEAD_FRACTION = 0.01
"""Least fraction of the voxels of a head scan in that range."""

MIN_TILT_DEG = 1.0
"""A gantry tilt from which the scan's affine counts as sheared."""

FAR_FACTOR = 1.5
"""Spacing this many times below the least or above the greatest of training is far from it."""

_NEIGHBOURS = np.ones((3, 3, 3), bool)
"""26-connectivity: voxels that share a face, an edge or a corner are one lesion."""


class Measurement(NamedTuple):
    """One class of a mask, or all blood together.

    Attributes:
        ml: volume; NaN, as every millilitre here, where spacing is not known.
        num_pixels: pixels of all slices together.
        num_slices: slices that hold it.
        num_lesions: connected components (26-connectivity).
        largest_lesion_pixels: pixels of the largest one; 0 without any.
        largest_lesion_ml: its volume; 0 without any.
        abc2_ml: the ABC/2 estimate of the largest lesion, see `mbh_jax.evaluation.abc2`; 0 without
            any.
    """

    ml: float
    num_pixels: int
    num_slices: int
    num_lesions: int
    largest_lesion_pixels: int
    largest_lesion_ml: float
    abc2_ml: float


def measure(
    mask: np.ndarray, affine: np.ndarray | None, slice_mm: np.ndarray | None = None
) -> dict[str, Measurement]:
    """Measures each kind of blood by its short name, and "any", all blood together.

    Args:
        mask: (slices, rows, columns) label values.
        affine: (4, 4), voxel (column, row, slice) to RAS+ mm; None where it is not known, as of
            pictures.
        slice_mm: (slices,), how much each slice stands for where they are not evenly spaced, see
            `Volume.slice_mm`.
    """
    found = {
        CLASS_NAMES[label]: _measure_one(mask == label, affine, slice_mm) for label in FOREGROUND
    }
    return found | {"any": _measure_one(mask > 0, affine, slice_mm)}


def _measure_one(
    where: np.ndarray, affine: np.ndarray | None, slice_mm: np.ndarray | None
) -> Measurement:
    if not where.any():
        ml = np.nan if affine is None else 0.0
        return Measurement(ml, 0, 0, 0, 0, ml, ml)
    ones = np.ones(len(where))
    voxel_ml = ones if affine is None else _voxel_ml(affine, slice_mm, len(where))
    where = where[:, *_bounds(where)]  # Blood fills little of a head.
    lesions, num_lesions = ndimage.label(where, _NEIGHBOURS)
    sizes = _lesion_ml(lesions, num_lesions, voxel_ml)
    largest = int(sizes.argmax())
    is_largest = lesions == largest + 1
    in_mm = affine is not None
    return Measurement(
        ml=float(where.sum(axis=(1, 2)) @ voxel_ml) if in_mm else np.nan,
        num_pixels=int(where.sum()),
        num_slices=int(where.any(axis=(1, 2)).sum()),
        num_lesions=num_lesions,
        largest_lesion_pixels=int(is_largest.sum()),
        largest_lesion_ml=float(sizes[largest]) if in_mm else np.nan,
        abc2_ml=np.nan if affine is None else abc2_ml(is_largest, affine, slice_mm),
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


def _voxel_ml(affine: np.ndarray, slice_mm: np.ndarray | None, num_slices: int) -> np.ndarray:
    """Volume of a voxel of each slice."""
    return pixel_area_mm2(affine) * _slice_mm(affine, slice_mm, num_slices) / 1000


def _slice_mm(affine: np.ndarray, slice_mm: np.ndarray | None, num_slices: int) -> np.ndarray:
    """How much each slice stands for along the normal; by the affine unless given."""
    if slice_mm is not None:
        return slice_mm
    return np.full(num_slices, voxel_volume_ml(affine) * 1000 / pixel_area_mm2(affine))


def warnings(
    volume: Volume, mask: np.ndarray, trained_on: Sequence[TrainingSpacing] = ()
) -> list[str]:
    """What makes a prediction doubtful, one sentence each.

    Args:
        volume: the scan.
        mask: (slices, rows, columns) label values.
        trained_on: the spacing of the training data of each network, where it is known.
    """
    found = [*volume.notes, *volume.mask_notes]
    if volume.spacing_known:
        found += _doubtful_geometry(volume, trained_on)
    low, high = HEAD_HU
    fraction = ((volume.hu >= low) & (volume.hu <= high)).mean()
    if fraction < MIN_HEAD_FRACTION:
        found.append(
            f"{100 * fraction:.2g} % of the voxels are at {low} to {high} HU: this may be no head "
            "CT in HU"
        )
    blood = mask > 0
    border = (
        # The only slice of a picture is no border.
        (volume.spacing_known or len(blood) > 1) and blood[[0, -1]].any(),
        blood[:, [0, -1]].any(),
        blood[:, :, [0, -1]].any(),
    )
    if any(border):
        found.append("blood touches the border of the scan: there may be more beyond it")
    return found


def _doubtful_geometry(volume: Volume, trained_on: Sequence[TrainingSpacing]) -> list[str]:
    """What its millimetres say against a scan."""
    found = []
    coverage_mm = _slice_mm(volume.affine, volume.slice_mm, len(volume.hu)).sum()
    if coverage_mm < MIN_COVERAGE_MM:
        found.append(f"the scan covers {coverage_mm:.0f} mm: blood elsewhere is not counted")
    found += dict.fromkeys(text for spacing in trained_on for text in _far(volume, spacing))
    tilt_deg = gantry_tilt_deg(volume.affine)
    if tilt_deg >= MIN_TILT_DEG:
        found.append(
            f"the gantry is tilted by {tilt_deg:.1f} degrees: the NIfTI mask has a sheared affine, "
            "which ITK and SimpleITK refuse"
        )
    return found


def clipped_warnings(hu: np.ndarray, shown: Sequence[tuple[float, float]]) -> list[str]:
    """Says that a scan lacks HU that a network is shown, where it was clipped as pictures are.

    Args:
        hu: of the scan.
        shown: lowest and highest HU that each network is shown.
    """
    low, high = CLIPPED_HU
    if hu.min() < low or hu.max() > high:
        return []
    return [
        f"its values are clipped to {low} to {high} HU, and the network sees {least:.0f} to "
        f"{greatest:.0f} HU: it may do much worse here"
        for least, greatest in dict.fromkeys(shown)
        if least < low or greatest > high
    ]


def _far(volume: Volume, trained_on: TrainingSpacing) -> Iterator[str]:
    """Says in what a scan's spacing is far from that of a network's training data."""
    names = "pixels of", "slices every", "a field of view of"
    found = lengths(volume.affine, volume.shape)
    for name, value_mm, known in zip(names, found, trained_on, strict=True):
        if not known.least / FAR_FACTOR <= value_mm <= known.greatest * FAR_FACTOR:
            yield (
                f"{name} {value_mm:.3g} mm, and the network was trained on {known.least:.3g} to "
                f"{known.greatest:.3g} mm: it may do worse here"
            )
