"""What an absent class does to every number: each cell of the table in docs/metrics.md.

The set of each column, of heads in which a class is found, absent, false or missed:

- found: 8 voxels in a row, of which the prediction has 4. Dice 2/3, HD95 3.65 mm, error -4 mm^3.
- false: the prediction has 3 voxels; missed: the truth has 5.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from mbh_jax.evaluation import calibration, challenges, lesions, overlap, surface, volumes
from mbh_jax.evaluation.case import RegionScores, score_case
from mbh_jax.evaluation.case_table import slice_confusion
from mbh_jax.labels import NUM_CLASSES

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
NAN, INF = float("nan"), float("inf")
CLASS, OTHER = 2, 5
MM3_ML = 1e-3


class Case(NamedTuple):
    """Label volumes of a head whose other class is segmented without error."""

    reference: np.ndarray
    prediction: np.ndarray


def _case(true: int, predicted: int) -> Case:
    labels = np.zeros((2, 3, 5, 12), np.uint8)
    labels[:, 2, 4, 8:] = OTHER
    labels[0, 1, 2, :true] = labels[1, 1, 2, :predicted] = CLASS
    return Case(*labels)


FOUND, ABSENT, FALSE, MISSED = _case(8, 4), _case(0, 0), _case(0, 3), _case(5, 0)
COLUMNS = ((FOUND, ABSENT), (FOUND, FALSE), (FOUND, MISSED), (ABSENT,), (ABSENT, FALSE))
"""The set of each column of the table."""


def _confusion(cases: Sequence[Case]) -> np.ndarray:
    return np.stack([slice_confusion(*case).sum(0) for case in cases])


def _scores(cases: Sequence[Case]) -> list[RegionScores]:
    return [score_case(*case, np.eye(4))["IPH"] for case in cases]


def _per_case(cases: Sequence[Case]) -> tuple[float, ...]:
    found = overlap.per_case_scores(_confusion(cases))
    return found.dice[CLASS], found.iou[CLASS]


def _present(cases: Sequence[Case]) -> tuple[float, ...]:
    found = overlap.present_only_scores(_confusion(cases))
    return found.dice[CLASS], found.iou[CLASS]


def _pooled(cases: Sequence[Case]) -> tuple[float, ...]:
    found = overlap.pooled_scores(_confusion(cases))
    return found.dice[CLASS], found.iou[CLASS]


def _distances(cases: Sequence[Case]) -> surface.DistanceSummary:
    scores = _scores(cases)
    return surface.summarize_distances(
        np.array([one.hd95_mm for one in scores]),
        np.array([one.n_ref > 0 for one in scores]),
        np.array([one.n_pred > 0 for one in scores]),
    )


def _found_distances(cases: Sequence[Case]) -> tuple[float, ...]:
    found = _distances(cases)
    return found.found_mean_mm, found.num_false, found.num_missed


def _surface_dice(cases: Sequence[Case]) -> list[float]:
    """Means of the four kinds, divided by what the found head scores."""
    kinds = slice(
        RegionScores._fields.index("surface_dice_1mm"), RegionScores._fields.index("lesions")
    )
    values = np.array([one[kinds] for one in _scores(cases)], float)
    return (overlap.mean_of_known(values) / np.array(_scores([FOUND])[0][kinds], float)).tolist()


def _lesion_counts(cases: Sequence[Case]) -> lesions.LesionCounts:
    counts = [lesions.count_by_size(one.lesions) for one in _scores(cases)]
    return lesions.LesionCounts(*np.sum(counts, 0))


def _lesions(cases: Sequence[Case]) -> list[int]:
    """Found, missed and false ones."""
    counts = _lesion_counts(cases)
    return [int(one.sum()) for one in (counts.found, counts.missed, counts.false)]


def _volumes_ml(cases: Sequence[Case]) -> np.ndarray:
    return np.array([(one.pred_ml, one.ref_ml) for one in _scores(cases)]).T


def _bias(cases: Sequence[Case]) -> tuple[float, ...]:
    found = volumes.volume_agreement(*_volumes_ml(cases))
    return found.bias_ml / MM3_ML, found.num_cases


def _false_blood(cases: Sequence[Case]) -> tuple[float, ...]:
    found = volumes.false_blood(*_volumes_ml(cases))
    return found.mean_ml / MM3_ML, found.num_with_false, found.num_cases


def _calibration(cases: Sequence[Case]) -> tuple[float, ...]:
    """Error and number of foreground voxels, without the other class, at a confidence of 1."""
    bins = [
        calibration.volume_calibration(
            np.eye(NUM_CLASSES)[case.prediction % OTHER], case.reference % OTHER
        ).foreground
        for case in cases
    ]
    total = calibration.CalibrationBins(*(np.sum(one, 0) for one in zip(*bins, strict=True)))
    return calibration.expected_calibration_error(total), total.voxels.sum()


def _mbhseg(cases: Sequence[Case]) -> float:
    """Of the last head: the mean with the other class, which scores 1."""
    return challenges.mbhseg25_scores(_confusion(cases))[-1]


def _brats(cases: Sequence[Case]) -> challenges.LesionWise:
    """Of the last head, with voxels large enough to count."""
    reference, prediction = (labels == CLASS for labels in cases[-1])
    return challenges.brats_lesion_wise(reference, prediction, np.diag([4.0, 4.0, 4.0, 1.0]))


ROWS: dict[str, tuple[Callable, tuple]] = {
    "Dice and IoU, per case": (
        _per_case,
        ((2 / 3, 1 / 2), (1 / 3, 1 / 4), (1 / 3, 1 / 4), (NAN, NAN), (0, 0)),
    ),
    "Dice and IoU, present": (
        _present,
        ((2 / 3, 1 / 2), (2 / 3, 1 / 2), (1 / 3, 1 / 4), (NAN, NAN), (NAN, NAN)),
    ),
    "Dice and IoU, pooled": (
        _pooled,
        ((8 / 12, 4 / 8), (8 / 15, 4 / 11), (8 / 17, 4 / 13), (NAN, NAN), (0, 0)),
    ),
    "HD95, median over cases": (
        lambda cases: _distances(cases).median_mm,
        (3.65, INF, INF, NAN, INF),
    ),
    "HD95, mean over found cases": (
        _found_distances,
        ((3.65, 0, 0), (3.65, 1, 0), (3.65, 0, 1), (NAN, 0, 0), (NAN, 1, 0)),
    ),
    "surface Dice, by voxels and by area": (
        _surface_dice,
        ([1.0] * 4, [0.5] * 4, [0.5] * 4, [NAN] * 4, [0.0] * 4),
    ),
    "lesions": (_lesions, ((1, 0, 0), (1, 0, 1), (1, 1, 0), (0, 0, 0), (0, 0, 1))),
    "lesions, sensitivity": (
        lambda cases: lesions.sensitivity(_lesion_counts(cases)),
        (1, 1, 0.5, NAN, NAN),
    ),
    "lesions, precision": (
        lambda cases: lesions.precision(_lesion_counts(cases)),
        (1, 0.5, 1, NAN, 0),
    ),
    "volume error and limits": (_bias, ((-4, 1), (-0.5, 2), (-4.5, 2), (NAN, 0), (3, 1))),
    "false blood of the class": (
        _false_blood,
        ((0, 0, 1), (3, 1, 1), (NAN, 0, 0), (0, 0, 1), (1.5, 1, 2)),
    ),
    "calibration, foreground": (
        _calibration,
        ((4 / 8, 8), (7 / 11, 11), (9 / 13, 13), (NAN, 0), (1, 3)),
    ),
    "MBH-Seg 2025 (not a healthy head)": (_mbhseg, (1, 1, 0.5, 1, 1)),
    "BraTS 2023, lesion-wise": (_brats, ((1, 0), (0, 374), (0, 374), (1, 0), (0, 374))),
}
"""By row: how the numbers of a set are computed, and by hand their values in each column."""

TEXTS = {
    "Dice and IoU, per case": "left out | **0** | **0** | no value | 0",
    "Dice and IoU, present": "left out | left out | **0** | no value | no value",
    "Dice and IoU, pooled": "adds nothing | adds its FP | adds its FN | no value | 0",
    "HD95, median over cases": "left out | **infinite** | **infinite** | no value | infinite",
    "HD95, mean over found cases": (
        "left out | left out, counted as false | left out, counted as missed | no value | no value"
    ),
    "surface Dice, by voxels and by area": "left out | **0** | **0** | no value | 0",
    "lesions": (
        "none | predicted ones are false | true ones are missed | none | predicted ones are false"
    ),
    "lesions, sensitivity": (
        "adds nothing | adds nothing | adds its missed lesions | no value | no value"
    ),
    "lesions, precision": "adds nothing | adds its false lesions | adds nothing | no value | 0",
    "volume error and limits": (
        "left out | plus the predicted mL | minus the true mL | no value | plus the predicted mL"
    ),
    "false blood of the class": (
        "counts as 0 mL | counts its mL | left out | 0 mL | counts its mL"
    ),
    "calibration, foreground": (
        "adds nothing | adds its voxels | adds its voxels | no value | adds its voxels"
    ),
    "MBH-Seg 2025 (not a healthy head)": "left out | free | 0 | left out | free",
    "BraTS 2023, lesion-wise": (
        "Dice 1, 0 mm | Dice 0, 374 mm | Dice 0, 374 mm | Dice 1, 0 mm | Dice 0, 374 mm"
    ),
}
"""The cells as docs/metrics.md has them."""


@pytest.mark.parametrize("column", range(len(COLUMNS)))
@pytest.mark.parametrize("row", ROWS)
def test_cell(row: str, column: int) -> None:
    compute, expected = ROWS[row]
    np.testing.assert_allclose(compute(COLUMNS[column]), expected[column], atol=1e-12)


def test_the_table_of_the_docs_has_these_rows() -> None:
    table = DOCS.read_text().split("\n## Absent classes\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ", 1) for line in table.splitlines() if line[:2] == "| "]
    assert dict(rows[1:]) == TEXTS
    assert len(rows[0][1].split(" | ")) == len(COLUMNS)
    assert set(ROWS) == set(TEXTS)


def test_four_heads_counted_three_ways() -> None:
    """T6: (TP, FP, FN) of (10, 0, 0), (0, 5, 0), (0, 0, 5) and (0, 0, 0)."""
    confusion = np.zeros((4, NUM_CLASSES, NUM_CLASSES), np.int64)
    confusion[0, CLASS, CLASS] = 10
    confusion[1, 0, CLASS] = confusion[2, CLASS, 0] = 5
    confusion[:, 0, 0] = 100
    for scores, dice in (
        (overlap.per_case_scores, 1 / 3),
        (overlap.present_only_scores, 1 / 2),
        (overlap.pooled_scores, 2 / 3),
    ):
        assert scores(confusion).dice[CLASS] == pytest.approx(dice)
    assert overlap.pooled_scores(confusion).iou[CLASS] == pytest.approx(1 / 2)
    assert overlap.per_case_scores(confusion).num_cases[CLASS] == 3
