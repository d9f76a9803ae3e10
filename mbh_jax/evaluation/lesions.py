"""Lesions that were found, missed or predicted falsely, by size.

A lesion is a connected component of a class in 26-connectivity: voxels that share a face, an edge
or a corner belong to one lesion. Any overlap finds a lesion: a lesion of the reference is found if
the prediction has the class in one of its voxels at least, and a predicted lesion is false if none
of its voxels has the class in the reference. No lesion is too small to count.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from mbh_jax.evaluation.abc2 import abc2_ml
from mbh_jax.imageio.volume import voxel_volume_ml

SIZE_LIMITS_ML = (1.0, 5.0, 30.0)
"""Limits of the size groups in mL. An EDH above 30 mL is to be evacuated (Bullock et al.,
Neurosurgery 58 (2006) S2-7)."""

SIZE_NAMES = ("<1 mL", "1-5 mL", "5-30 mL", ">30 mL")
"""Size groups; a lesion of exactly 1 or 5 mL is in the larger group, one of 30 mL in "5-30 mL"."""

CONNECTIVITY = np.ones((3, 3, 3), bool)
"""26-connectivity, as the structure that `scipy.ndimage.label` takes."""


class Lesions(NamedTuple):
    """The lesions of one class in a case.

    Attributes:
        reference_ml: (R,) float64, volume of each lesion of the reference.
        reference_covered: (R,) float64, the share of its voxels that the prediction gives the
            class; 0 if it is missed.
        prediction_ml: (P,) float64, volume of each predicted lesion.
        prediction_covered: (P,) float64, the share of its voxels that have the class in the
            reference; 0 if it is false.
        reference_voxels: (R,) int64, voxels of each lesion of the reference.
        prediction_voxels: (P,) int64, voxels of each predicted lesion.
        reference_slices: (R, 2) int64, first and last slice of each lesion of the reference.
        prediction_slices: (P, 2) int64, likewise.
        reference_abc2_ml: (R,) float64, `mbh_jax.evaluation.abc2` of each lesion of the reference.
        prediction_abc2_ml: (P,) float64, likewise.
    """

    reference_ml: np.ndarray
    reference_covered: np.ndarray
    prediction_ml: np.ndarray
    prediction_covered: np.ndarray
    reference_voxels: np.ndarray
    prediction_voxels: np.ndarray
    reference_slices: np.ndarray
    prediction_slices: np.ndarray
    reference_abc2_ml: np.ndarray
    prediction_abc2_ml: np.ndarray

    @property
    def found(self) -> np.ndarray:
        """(R,) bool: the prediction overlaps the lesion."""
        return self.reference_covered > 0

    @property
    def false(self) -> np.ndarray:
        """(P,) bool: the predicted lesion overlaps none of the reference."""
        return self.prediction_covered == 0


class LesionCounts(NamedTuple):
    """Numbers of lesions by size group, (4,) int64 each; they add up over cases.

    Attributes:
        found: lesions of the reference that were found, by their own size.
        missed: those that were not.
        true: predicted lesions that overlap a lesion of the reference, by their own size.
        false: those that do not.
    """

    found: np.ndarray
    missed: np.ndarray
    true: np.ndarray
    false: np.ndarray


def match_lesions(
    reference: np.ndarray, prediction: np.ndarray, affine: np.ndarray | None
) -> Lesions:
    """Finds the lesions of two masks of a class and how much of each the other mask covers.

    Args:
        reference: (slices, rows, columns) bool.
        prediction: likewise.
        affine: (4, 4), voxel (column, row, slice) to RAS+ mm; None: millilitres are NaN.
    """
    voxel_ml = np.nan if affine is None else voxel_volume_ml(affine)
    true = _components(reference, prediction, affine)
    predicted = _components(prediction, reference, affine)
    return Lesions(
        reference_ml=true.voxels * voxel_ml,
        reference_covered=true.covered,
        prediction_ml=predicted.voxels * voxel_ml,
        prediction_covered=predicted.covered,
        reference_voxels=true.voxels,
        prediction_voxels=predicted.voxels,
        reference_slices=true.slices,
        prediction_slices=predicted.slices,
        reference_abc2_ml=true.abc2_ml,
        prediction_abc2_ml=predicted.abc2_ml,
    )


def count_by_size(lesions: Lesions) -> LesionCounts:
    """Counts lesions by size group.

    Raises:
        ValueError: the volume of a lesion is not known.
    """

    def count(sizes_ml: np.ndarray) -> np.ndarray:
        return np.bincount(_size_groups(sizes_ml), minlength=len(SIZE_NAMES))

    found, false = lesions.found, lesions.false
    return LesionCounts(
        found=count(lesions.reference_ml[found]),
        missed=count(lesions.reference_ml[~found]),
        true=count(lesions.prediction_ml[~false]),
        false=count(lesions.prediction_ml[false]),
    )


def sensitivity(counts: LesionCounts) -> float:
    """The share of the reference's lesions that were found; NaN where it has none."""
    return _share(counts.found.sum(), counts.missed.sum())


def precision(counts: LesionCounts) -> float:
    """The share of predicted lesions that are not false; NaN where none is predicted."""
    return _share(counts.true.sum(), counts.false.sum())


def _share(yes: float, no: float) -> float:
    return float(yes / (yes + no)) if yes + no else float("nan")


def _size_groups(sizes_ml: np.ndarray) -> np.ndarray:
    if np.isnan(sizes_ml).any():
        raise ValueError("lesions cannot be grouped by size: the volume of a voxel is not known")
    *small_ml, large_ml = SIZE_LIMITS_ML
    return np.digitize(sizes_ml, small_ml) + (sizes_ml > large_ml)


class _Components(NamedTuple):
    """The lesions of a mask: voxels, share covered, first and last slice (L, 2), ABC/2."""

    voxels: np.ndarray
    covered: np.ndarray
    slices: np.ndarray
    abc2_ml: np.ndarray


def _components(mask: np.ndarray, other: np.ndarray, affine: np.ndarray | None) -> _Components:
    """The lesions of a mask, and the share of each that another mask has too."""
    labels, number = ndimage.label(mask, CONNECTIVITY)
    # Where `other` lies outside the mask it falls on label 0, which is left out.
    voxels = np.bincount(labels[mask], minlength=number + 1)[1:]
    covered = np.bincount(labels[other], minlength=number + 1)[1:]
    boxes = ndimage.find_objects(labels) if number else []
    slices = [(box[0].start, box[0].stop - 1) for box in boxes]
    abc2 = [
        np.nan if affine is None else abc2_ml(labels[box] == lesion, affine)
        for lesion, box in enumerate(boxes, 1)
    ]
    return _Components(
        voxels, covered / voxels, np.array(slices, np.int64).reshape(-1, 2), np.array(abc2, float)
    )
