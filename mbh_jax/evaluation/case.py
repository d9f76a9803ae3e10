"""All that is measured on the masks of one case, class by class."""

import math
from typing import NamedTuple

import numpy as np

from mbh_jax.evaluation.lesions import Lesions, match_lesions
from mbh_jax.evaluation.surface import (
    box_of_masks,
    element_distances,
    hd95_mm,
    surface_dice,
    voxel_distances,
)
from mbh_jax.imageio.volume import voxel_volume_ml
from mbh_jax.labels import CLASS_NAMES, FOREGROUND

ANY = "any"
"""Name of all blood together."""


class RegionScores(NamedTuple):
    """One class of a case, or all blood together.

    Attributes:
        n_ref: voxels of the class in the reference.
        n_pred: voxels predicted as the class.
        tp: voxels in both.
        ref_ml, pred_ml: the volumes of `n_ref` and `n_pred`.
        hd95_mm: see `mbh_jax.evaluation.surface.hd95_mm`.
        surface_dice_1mm, surface_dice_2mm: by surface voxels.
        surface_area_dice_1mm, surface_area_dice_2mm: by area elements.
        lesions: of both masks, and how much of each was covered.
    """

    n_ref: int
    n_pred: int
    tp: int
    ref_ml: float
    pred_ml: float
    hd95_mm: float
    surface_dice_1mm: float
    surface_dice_2mm: float
    surface_area_dice_1mm: float
    surface_area_dice_2mm: float
    lesions: Lesions

    @property
    def dice(self) -> float:
        """2 TP / (n_ref + n_pred); NaN where both are 0."""
        total = self.n_ref + self.n_pred
        return 2 * self.tp / total if total else float("nan")

    @property
    def iou(self) -> float:
        """TP / (n_ref + n_pred - TP); NaN where both are 0."""
        union = self.n_ref + self.n_pred - self.tp
        return self.tp / union if union else float("nan")

    @property
    def sensitivity(self) -> float:
        """TP / n_ref, of voxels; NaN where the reference lacks the class."""
        return self.tp / self.n_ref if self.n_ref else float("nan")

    @property
    def precision(self) -> float:
        """TP / n_pred, of voxels; NaN where the prediction lacks the class."""
        return self.tp / self.n_pred if self.n_pred else float("nan")


def score_case(
    reference: np.ndarray, prediction: np.ndarray, affine: np.ndarray | None
) -> dict[str, RegionScores]:
    """Scores each kind of blood by its short name, and "any", all blood together.

    It depends on nothing but the case, so many cases can be shared out to processes.

    Args:
        reference: (slices, rows, columns) integer, true label values.
        prediction: likewise, predicted label values.
        affine: (4, 4), voxel (column, row, slice) to RAS+ mm, or None where millimetres are not
            known: then volumes, distances and surface Dice are NaN.

    Raises:
        ValueError: the shapes differ or are not 3D, or the affine is not finite or is singular.
    """
    box = box_of_masks(reference, prediction)
    reference, prediction = reference[box], prediction[box]
    first_slice = box[0].start
    scores = {
        CLASS_NAMES[label]: _score(reference == label, prediction == label, affine, first_slice)
        for label in FOREGROUND
    }
    return scores | {ANY: _score(reference > 0, prediction > 0, affine, first_slice)}


def _score(
    reference: np.ndarray, prediction: np.ndarray, affine: np.ndarray | None, first_slice: int
) -> RegionScores:
    box = box_of_masks(reference, prediction)
    reference, prediction = reference[box], prediction[box]
    first_slice += box[0].start
    voxel_ml = math.nan if affine is None else voxel_volume_ml(affine)
    lesions = match_lesions(reference, prediction, affine)
    n_ref, n_pred = int(np.count_nonzero(reference)), int(np.count_nonzero(prediction))
    distance_mm, dice = float("nan"), [float("nan")] * 4
    if affine is not None:
        by_voxel = voxel_distances(reference, prediction, affine)
        by_area = element_distances(reference, prediction, affine)
        distance_mm = hd95_mm(by_voxel)
        dice = [surface_dice(by, tolerance) for by in (by_voxel, by_area) for tolerance in (1, 2)]
    return RegionScores(
        n_ref,
        n_pred,
        int(np.count_nonzero(reference & prediction)),
        n_ref * voxel_ml,
        n_pred * voxel_ml,
        distance_mm,
        dice[0],
        dice[1],
        dice[2],
        dice[3],
        lesions._replace(
            reference_slices=lesions.reference_slices + first_slice,
            prediction_slices=lesions.prediction_slices + first_slice,
        ),
    )
