"""The rows of an evaluation's tables: one case at a time, without its masks.

A number that does not exist is NaN (a Dice where both masks lack the class); the distance of a
missed class is infinite. The counts are enough to make every table again without the network.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mbh_jax.evaluation.calibration import VolumeCalibration
from mbh_jax.evaluation.case import ANY, RegionScores, score_case
from mbh_jax.evaluation.challenges import brats_lesion_wise, mbhseg25_scores
from mbh_jax.imageio.volume import voxel_volume_ml
from mbh_jax.labels import CLASS_NAMES, FOREGROUND, NUM_CLASSES

REGIONS = (*(CLASS_NAMES[label] for label in FOREGROUND), ANY)
"""The five kinds of blood and all blood together, in the order of every table."""

CASE_COLUMNS = (
    *("case", "class", "n_ref", "n_pred", "tp", "dice", "iou", "sensitivity", "precision"),
    *("hd95_mm", "surface_dice_1mm", "surface_dice_2mm"),
    *("surface_area_dice_1mm", "surface_area_dice_2mm", "ref_ml", "pred_ml"),
    *("lesions_ref", "lesions_found", "lesions_false"),
)
RULES = ("mbhseg25", "brats")
"""The challenges whose own scores can be added."""

RULE_COLUMNS = {"mbhseg25": ("mbhseg25_dice",), "brats": ("brats_dice", "brats_hd95_mm")}
"""The columns that each adds to the table of cases."""

LESION_COLUMNS = (
    *("case", "class", "mask", "lesion", "voxels", "ml", "abc2_ml", "covered_share"),
    *("matched", "first_slice", "last_slice"),
)
SLICE_COLUMNS = ("case", "slice", "class", "n_ref", "n_pred", "tp")
CONFUSION_COLUMNS = ("case", "true_class", "predicted_class", "voxels")

Row = dict[str, Any]


class Masks(NamedTuple):
    """A case to be scored.

    Attributes:
        case: its name.
        reference: (slices, rows, columns) uint8, true label values.
        prediction: likewise, predicted label values.
        affine: (4, 4), voxel (column, row, slice) to mm, or None where millimetres are not known.
        rules: challenges of `RULES` whose own scores are added.
    """

    case: str
    reference: np.ndarray
    prediction: np.ndarray
    affine: np.ndarray | None
    rules: tuple[str, ...] = ()


class ScoredCase(NamedTuple):
    """What was found in a case.

    Attributes:
        case: its name.
        regions: scores of each of `REGIONS`.
        confusion: (slices, K, K) int64 voxel counts, axes [slice, true, predicted].
        voxel_ml: volume of a voxel; NaN where it is not known.
        rules: for each of `REGIONS` the scores of challenges, by column.
        calibration: of the probabilities, where those were kept.
    """

    case: str
    regions: dict[str, RegionScores]
    confusion: np.ndarray
    voxel_ml: float
    rules: dict[str, dict[str, float]]
    calibration: VolumeCalibration | None = None


def score_masks(masks: Masks) -> ScoredCase:
    """Scores a case; it depends on nothing else, so cases can be shared out to processes.

    Raises:
        ValueError: as `mbh_jax.evaluation.case.score_case`.
    """
    confusion = slice_confusion(masks.reference, masks.prediction)
    return ScoredCase(
        masks.case,
        score_case(masks.reference, masks.prediction, masks.affine),
        confusion,
        float("nan") if masks.affine is None else voxel_volume_ml(masks.affine),
        _rule_scores(masks, confusion.sum(0)),
    )


def slice_confusion(reference: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Voxels of each pair of true and predicted class in each slice.

    Args:
        reference: (S, H, W) uint8 label values.
        prediction: likewise.

    Returns:
        (S, K, K) int64, axes [slice, true, predicted].
    """
    size = NUM_CLASSES**2
    pairs = reference.astype(np.uint8) * np.uint8(NUM_CLASSES) + prediction.astype(np.uint8)
    counts = [np.bincount(one.ravel(), minlength=size) for one in pairs]
    return np.array(counts, np.int64).reshape(-1, NUM_CLASSES, NUM_CLASSES)


def _rule_scores(masks: Masks, confusion: np.ndarray) -> dict[str, dict[str, float]]:
    scores: dict[str, dict[str, float]] = {region: {} for region in REGIONS}
    if "mbhseg25" in masks.rules:
        dice = float(mbhseg25_scores(confusion[np.newaxis])[0])
        for region in REGIONS:
            scores[region]["mbhseg25_dice"] = dice if region == ANY else float("nan")
    if "brats" in masks.rules:
        where = {CLASS_NAMES[label]: label for label in FOREGROUND}
        for region in REGIONS:
            found = [float("nan")] * 2
            if masks.affine is not None:
                of_region = [
                    mask == where[region] if region in where else mask > 0
                    for mask in (masks.reference, masks.prediction)
                ]
                found = [*brats_lesion_wise(of_region[0], of_region[1], masks.affine)]
            scores[region] |= dict(zip(RULE_COLUMNS["brats"], found, strict=True))
    return scores


def case_columns(rules: Sequence[str]) -> tuple[str, ...]:
    """The columns of the table of cases, with those of challenges."""
    return (*CASE_COLUMNS, *(column for rule in rules for column in RULE_COLUMNS[rule]))


def case_rows(scored: Iterable[ScoredCase]) -> list[Row]:
    """A row for each case and each of `REGIONS`, with `CASE_COLUMNS` and those of challenges."""
    rows = []
    for one in scored:
        for region, found in one.regions.items():
            row = {
                "case": one.case,
                "class": region,
                **{name: getattr(found, name) for name in CASE_COLUMNS[2:-3]},
                "lesions_ref": len(found.lesions.found),
                "lesions_found": int(found.lesions.found.sum()),
                "lesions_false": int(found.lesions.false.sum()),
            }
            rows.append(row | one.rules[region])
    return rows


def lesion_rows(scored: Iterable[ScoredCase]) -> list[Row]:
    """A row for each lesion of both masks, with `LESION_COLUMNS`; slices count from 0."""
    rows = []
    for one in scored:
        for region, found in one.regions.items():
            lesions = found.lesions
            for mask in ("reference", "prediction"):
                columns = zip(
                    getattr(lesions, f"{mask}_voxels").tolist(),
                    getattr(lesions, f"{mask}_ml").tolist(),
                    getattr(lesions, f"{mask}_abc2_ml").tolist(),
                    getattr(lesions, f"{mask}_covered").tolist(),
                    getattr(lesions, f"{mask}_slices").tolist(),
                    strict=True,
                )
                for number, (voxels, ml, abc2, covered, (first, last)) in enumerate(columns, 1):
                    values = (one.case, region, mask, number, voxels, ml, abc2, covered)
                    row = (*values, int(covered > 0), first, last)
                    rows.append(dict(zip(LESION_COLUMNS, row, strict=True)))
    return rows


def slice_rows(scored: Iterable[ScoredCase]) -> list[Row]:
    """A row for each slice and region where either mask has it, with `SLICE_COLUMNS`."""
    rows = []
    for one in scored:
        for number, counts in enumerate(one.confusion):
            if counts.sum() == counts[0, 0]:
                continue
            for region in REGIONS:
                n_ref, n_pred, tp = region_counts(counts, region)
                if n_ref + n_pred:
                    row = (one.case, number, region, n_ref, n_pred, tp)
                    rows.append(dict(zip(SLICE_COLUMNS, row, strict=True)))
    return rows


def region_counts(confusion: np.ndarray, region: str) -> tuple[int, int, int]:
    """n_ref, n_pred and tp of one of `REGIONS`, from counts (K, K)."""
    which = slice(1, None) if region == ANY else [CLASS_NAMES.index(region)]
    reference, both = confusion[which], confusion[which][:, which]
    return int(reference.sum()), int(confusion[:, which].sum()), int(both.sum())


def confusion_rows(scored: Iterable[ScoredCase]) -> list[Row]:
    """A row for each case and pair of classes, background included, with `CONFUSION_COLUMNS`."""
    return [
        dict(zip(CONFUSION_COLUMNS, (one.case, true, predicted, voxels), strict=True))
        for one in scored
        for true, row in zip(CLASS_NAMES, one.confusion.sum(0).tolist(), strict=True)
        for predicted, voxels in zip(CLASS_NAMES, row, strict=True)
    ]
