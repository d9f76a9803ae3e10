"""The scores of two challenges, by their own rules, for comparison with their tables.

Both count absent classes by other rules (docs/metrics.md); the headline never uses them.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from mbh_jax.evaluation.lesions import CONNECTIVITY
from mbh_jax.evaluation.overlap import class_overlap, mean_of_known
from mbh_jax.evaluation.surface import SurfaceDistances, box_of_masks, element_distances
from mbh_jax.labels import FOREGROUND

MBHSEG_HEALTHY_VOXELS = 100
"""From so many voxels of false blood on, a healthy head scores 0 in MBH-Seg."""

BRATS_WORST_MM = 374.0
"""Distance of a missed or false lesion in BraTS: the diagonal of its images, rounded."""

BRATS_DILATIONS = 3
BRATS_MIN_MM3 = 50.0
"""In BraTS, lesions of the reference up to this volume are left out, found or not."""

_EDGES = ndimage.generate_binary_structure(3, 2)


def mbhseg25_scores(confusion: np.ndarray) -> np.ndarray:
    """The Dice of each case in the MBH-Seg challenge of 2025.

    The mean over the classes of the reference: false blood of another class is free. In a healthy
    head with x voxels of false blood 2 (100 - x) / (200 - x), and 0 from x = 100 on. Source:
    https://github.com/mbhseg/metrics-mbhseg2025, `compute_multiclass_dice`.

    Args:
        confusion: (V, K, K) integer voxel counts, axes [case, true, predicted].

    Returns:
        (V,) float64.
    """
    overlap = class_overlap(confusion)
    blood = list(FOREGROUND)
    dice = np.where(overlap.n_ref > 0, overlap.dice, np.nan)[:, blood]
    false_voxels = np.asarray(confusion)[:, 0, blood].sum(-1)
    left = np.maximum(MBHSEG_HEALTHY_VOXELS - false_voxels, 0)
    healthy = 2 * left / (MBHSEG_HEALTHY_VOXELS + left)
    is_healthy = (overlap.n_ref[:, blood] == 0).all(1)
    return np.where(is_healthy, healthy, mean_of_known(dice, 1))


class LesionWise(NamedTuple):
    """BraTS' scores of a class in a case: Dice, and HD95 in mm, each a mean over lesions."""

    dice: float
    hd95_mm: float


def brats_lesion_wise(
    reference: np.ndarray, prediction: np.ndarray, affine: np.ndarray
) -> LesionWise:
    """The lesion-wise scores of BraTS 2023 (adult glioma).

    Lesions of the reference whose dilations by three voxels meet are one. It is compared with all
    predicted lesions that its dilation touches. A missed or a false lesion scores a Dice of 0 and
    374 mm. Lesions of up to 50 mm^3 in the reference are left out. Source:
    https://github.com/rachitsaluja/BraTS-2023-Metrics, `metrics.py`.

    Args:
        reference: (slices, rows, columns) bool.
        prediction: likewise.
        affine: (4, 4), voxel (column, row, slice) to mm.

    Returns:
        Dice 1 and 0 mm where no lesion counts, as in a case without the class.
    """
    voxel_mm3 = abs(np.linalg.det(np.asarray(affine, np.float64)[:3, :3]))
    # Dilations reach no further than this box.
    box = tuple(
        slice(max(0, one.start - BRATS_DILATIONS), one.stop + BRATS_DILATIONS)
        for one in box_of_masks(reference, prediction)
    )
    reference, prediction = reference[box], prediction[box]
    merged, number = ndimage.label(_dilate(reference), CONNECTIVITY)
    predicted, num_predicted = ndimage.label(prediction, CONNECTIVITY)
    touched = np.zeros(num_predicted + 1, bool)
    dice, distances_mm = [], []
    for lesion_number in range(1, number + 1):
        lesion = reference & (merged == lesion_number)
        near = np.unique(predicted[_dilate(lesion) & prediction])
        touched[near] = True
        if np.count_nonzero(lesion) * voxel_mm3 <= BRATS_MIN_MM3:
            continue
        matched = np.isin(predicted, near) & prediction
        total = np.count_nonzero(lesion) + np.count_nonzero(matched)
        dice.append(2 * np.count_nonzero(lesion & matched) / total)
        distances_mm.append(
            _area_hd95_mm(element_distances(lesion, matched, affine))
            if len(near)
            else BRATS_WORST_MM
        )
    num_false = int(np.count_nonzero(~touched[1:]))
    if not dice and not num_false:
        return LesionWise(1.0, 0.0)
    scored = len(dice) + num_false
    total_mm = sum(distances_mm) + num_false * BRATS_WORST_MM
    return LesionWise(float(sum(dice) / scored), total_mm / scored)


def _dilate(mask: np.ndarray) -> np.ndarray:
    return ndimage.binary_dilation(mask, _EDGES, BRATS_DILATIONS)


def _area_hd95_mm(found: SurfaceDistances) -> float:
    """The larger of the two distances within which 95 % of a surface's area lies.

    As surface-distance has it: the first distance at which the areas reach 95 %.
    """
    directed = []
    for distances_mm, areas in (
        (found.from_reference_mm, found.reference_weights),
        (found.from_prediction_mm, found.prediction_weights),
    ):
        order = np.lexsort((areas, distances_mm))
        reached = np.cumsum(areas[order]) / areas.sum()
        first = min(int(np.searchsorted(reached, 0.95)), len(order) - 1)
        directed.append(float(distances_mm[order[first]]))
    return max(directed)
