"""Dice, IoU and millilitres of each class, on the host, from confusion counts.

Every number that is reported but `dice_coef_multiclass` follows from counts that were added up, so
nothing is averaged too early.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from mbh_jax.labels import FOREGROUND


@dataclasses.dataclass(frozen=True)
class Overlap:
    """How prediction and reference overlap, class by class; every array is (..., K).

    Attributes:
        tp, fp, fn, tn: int64 voxels: true and false positives, false and true negatives.
        dice: float64, 2 TP / (2 TP + FP + FN); NaN where prediction and reference both lack the
            class, 0 where only one of them has it.
        iou: float64, TP / (TP + FP + FN); NaN and 0 as for `dice`.
    """

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    tn: np.ndarray
    dice: np.ndarray
    iou: np.ndarray

    @property
    def n_pred(self) -> np.ndarray:
        """Voxels predicted as the class."""
        return self.tp + self.fp

    @property
    def n_ref(self) -> np.ndarray:
        """Voxels of the class in the reference."""
        return self.tp + self.fn


def class_overlap(confusion: np.ndarray) -> Overlap:
    """Overlap of each class from confusion counts (..., K, K), axes [..., true, predicted]."""
    confusion = np.asarray(confusion, np.int64)
    tp = np.diagonal(confusion, axis1=-2, axis2=-1)
    fp = confusion.sum(-2) - tp
    fn = confusion.sum(-1) - tp
    tn = confusion.sum((-2, -1))[..., None] - tp - fp - fn
    union = tp + fp + fn
    # 0 / 0, a class that neither has, is NaN.
    with np.errstate(invalid="ignore"):
        return Overlap(tp, fp, fn, tn, dice=2.0 * tp / (tp + union), iou=tp / union)


def mean_of_known(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Mean along `axis` of the values that are not NaN; NaN where there is none."""
    known = np.isfinite(values)
    count = known.sum(axis)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0.0).sum(axis) / count


class ForegroundMean(NamedTuple):
    """Mean Dice and IoU over the kinds of blood that have a value, and how many have one."""

    dice: float
    iou: float
    num_classes: int


@dataclasses.dataclass(frozen=True)
class ClassScores:
    """One way of counting: a value for each class and their mean over the kinds of blood.

    Attributes:
        dice, iou: (K,) float64; NaN for a class without a value.
        num_cases: (K,) int64, the cases that made each value.
    """

    dice: np.ndarray
    iou: np.ndarray
    num_cases: np.ndarray

    @property
    def foreground(self) -> ForegroundMean:
        """Means over the kinds of blood."""
        dice, iou = self.dice[list(FOREGROUND)], self.iou[list(FOREGROUND)]
        return ForegroundMean(
            float(mean_of_known(dice)), float(mean_of_known(iou)), int(np.isfinite(dice).sum())
        )


def per_case_scores(confusion: np.ndarray) -> ClassScores:
    """Means over cases, from counts (V,K,K); a case counts for the classes either side has."""
    cases = class_overlap(confusion)
    return ClassScores(
        mean_of_known(cases.dice), mean_of_known(cases.iou), np.isfinite(cases.dice).sum(0)
    )


def present_only_scores(confusion: np.ndarray) -> ClassScores:
    """Means over cases, from counts (V,K,K); a case counts for the classes of its reference."""
    cases = class_overlap(confusion)
    present = cases.n_ref > 0
    return ClassScores(
        mean_of_known(np.where(present, cases.dice, np.nan)),
        mean_of_known(np.where(present, cases.iou, np.nan)),
        present.sum(0),
    )


def pooled_scores(confusion: np.ndarray) -> ClassScores:
    """Scores of the counts (V,K,K) added over cases, as if the set were one volume."""
    confusion = np.asarray(confusion, np.int64)
    pooled = class_overlap(confusion.sum(0))
    return ClassScores(pooled.dice, pooled.iou, (class_overlap(confusion).n_ref > 0).sum(0))


class Volumes(NamedTuple):
    """Millilitres of each case and class, (V,K) float64; the background column is not blood.

    Attributes:
        predicted_ml: predicted as the class.
        reference_ml: of the class in the reference.
        false_blood_ml: predicted as the class where the reference has no blood of any kind. Blood
            given the wrong kind is not false blood, so the classes add up to a case's false blood.
    """

    predicted_ml: np.ndarray
    reference_ml: np.ndarray
    false_blood_ml: np.ndarray


def volumes_ml(confusion: np.ndarray, voxel_volume_ml: np.ndarray) -> Volumes:
    """Millilitres from confusion counts (V,K,K) and each case's voxel volume (V,) in mL."""
    confusion = np.asarray(confusion, np.int64)
    voxel = np.asarray(voxel_volume_ml, np.float64)[:, None]
    false = confusion[:, 0, :].copy()
    false[:, 0] = 0
    return Volumes(confusion.sum(1) * voxel, confusion.sum(2) * voxel, false * voxel)
