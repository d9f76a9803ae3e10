"""The results of an evaluation: a table of cases and classes, a summary with nnU-Net's names."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from mbh_jax import files
from mbh_jax.evaluation.aggregate import aggregate
from mbh_jax.evaluation.case_table import (
    CONFUSION_COLUMNS,
    LESION_COLUMNS,
    SLICE_COLUMNS,
    ScoredCase,
    case_columns,
    case_rows,
    confusion_rows,
    lesion_rows,
    slice_rows,
)
from mbh_jax.evaluation.overlap import (
    ClassScores,
    Overlap,
    Volumes,
    class_overlap,
    mean_of_known,
    per_case_scores,
    pooled_scores,
    present_only_scores,
    volumes_ml,
)
from mbh_jax.labels import CLASS_NAMES, FOREGROUND

Summary = dict[str, Any]

NNUNET_BLOCKS = ("foreground_mean", "mean", "metric_per_case")
"""The parts of a summary that nnU-Net's `summary.json` has."""

_BLOOD = list(FOREGROUND)


def _nnunet_blocks(overlap: Overlap, named: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The blocks of nnU-Net's `summary.json`, with its keys and nothing else.

    Source: nnU-Net 2.8.1, `nnunetv2.evaluation.evaluate_predictions.compute_metrics_on_folder`.

    Args:
        overlap: arrays (V, K).
        named: reference and prediction file of each case.
    """
    fields = {
        "Dice": overlap.dice,
        "FN": overlap.fn,
        "FP": overlap.fp,
        "IoU": overlap.iou,
        "TN": overlap.tn,
        "TP": overlap.tp,
        "n_pred": overlap.n_pred,
        "n_ref": overlap.n_ref,
    }
    mean = {
        str(c): {name: mean_of_known(values[:, c]) for name, values in fields.items()}
        for c in FOREGROUND
    }
    return {
        # NaN if a class has no value, unlike the means of the other blocks.
        "foreground_mean": {
            name: np.mean([of_class[name] for of_class in mean.values()]) for name in fields
        },
        "mean": mean,
        "metric_per_case": [
            {
                "metrics": {
                    str(c): {name: values[v, c] for name, values in fields.items()}
                    for c in FOREGROUND
                },
                "prediction_file": prediction,
                "reference_file": reference,
            }
            for v, (reference, prediction) in enumerate(named)
        ],
    }


def _scores_block(scores: ClassScores) -> dict[str, Any]:
    """Scores by class name, and "mean" over the kinds of blood that have a value."""
    block: dict[str, Any] = {
        CLASS_NAMES[c]: {
            "Dice": scores.dice[c],
            "IoU": scores.iou[c],
            "num_cases": scores.num_cases[c],
        }
        for c in FOREGROUND
    }
    mean = scores.foreground
    block["mean"] = {"Dice": mean.dice, "IoU": mean.iou, "num_classes": mean.num_classes}
    return block


def _volume_block(volumes: Volumes) -> dict[str, Any]:
    """Millilitres added over cases (V, K), by class name and for all blood."""

    def total(classes: Any) -> dict[str, float]:
        return {
            "reference": volumes.reference_ml[:, classes].sum(),
            "predicted": volumes.predicted_ml[:, classes].sum(),
            "false": volumes.false_blood_ml[:, classes].sum(),
        }

    return {CLASS_NAMES[c]: total([c]) for c in FOREGROUND} | {"all": total(_BLOOD)}


def _volumes_by_case(volumes: Volumes, cases: Sequence[str]) -> dict[str, Any]:
    """`_volume_block` of each case, by its name."""
    return {
        case: _volume_block(Volumes(*(ml[v : v + 1] for ml in volumes)))
        for v, case in enumerate(cases)
    }


def _false_blood_block(volumes: Volumes, confusion: np.ndarray) -> dict[str, Any]:
    """False blood of a case: over all cases, and over those whose reference has no blood."""
    false_ml = volumes.false_blood_ml.sum(1)
    healthy = confusion[:, _BLOOD].sum((1, 2)) == 0

    def describe(values: np.ndarray) -> dict[str, Any]:
        if not len(values):
            return {"num_cases": 0, "mean": None, "median": None, "max": None}
        return {
            "num_cases": len(values),
            "mean": values.mean(),
            "median": np.median(values),
            "max": values.max(),
        }

    return {"all_cases": describe(false_ml), "healthy_cases": describe(false_ml[healthy])}


def summarize(
    scored: Sequence[ScoredCase],
    *,
    patients: Sequence[str] | None = None,
    mask_files: Sequence[tuple[str, str]] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Summary:
    """All results of an evaluation, ready for strict JSON (a value that does not exist is None).

    `metric_per_case`, `mean` and `foreground_mean` are those of nnU-Net, whose `foreground_mean`
    has no value if a class is in no case.

    `per_case`, `present_only` and `pooled` hold the three ways of counting by class name, and the
    number of cases or classes behind each mean. The other keys are those of
    `mbh_jax.evaluation.aggregate.aggregate`.

    Args:
        scored: the cases, at least one. Of a case whose spacing is not known, millilitres, and sums
            with them, do not exist.
        patients: whose they are; None: each is of another patient.
        mask_files: reference and prediction of each case as files; None: `<case>.nii.gz`, from
            which nnU-Net's readers take the case's name.
        facts: what else is known of this evaluation, under other keys than these.
    """
    cases = [one.case for one in scored]
    confusion = np.stack([one.confusion.sum(0) for one in scored])
    volumes = volumes_ml(confusion, np.array([one.voxel_ml for one in scored]))
    named = mask_files or [(f"{case}.nii.gz", f"{case}.nii.gz") for case in cases]
    summary = {
        **(facts or {}),
        "num_cases": len(cases),
        "patients": dict(zip(cases, patients or cases, strict=True)),
        "patients_known": patients is not None,
        **_nnunet_blocks(class_overlap(confusion), named),
        "per_case": _scores_block(per_case_scores(confusion)),
        "present_only": _scores_block(present_only_scores(confusion)),
        "pooled": _scores_block(pooled_scores(confusion)),
        "volume_ml": _volume_block(volumes),
        "volume_ml_per_case": _volumes_by_case(volumes, cases),
        "false_blood_ml": _false_blood_block(volumes, confusion),
        **aggregate(scored, patients or cases),
    }
    summary["warnings"] = [*(facts or {}).get("warnings", ()), *summary["warnings"]]
    return files.json_ready(summary)


TABLES = (
    *("per_case.csv", "per_lesion.csv", "per_slice.csv", "confusion.csv"),
    *("evaluation.json", "summary.json"),
)
"""The files that `write_evaluation` writes."""


def discard_evaluation(directory: epath.PathLike) -> None:
    """Deletes the tables of an earlier evaluation, whose masks are about to be replaced."""
    for name in TABLES:
        (epath.Path(directory) / name).unlink(missing_ok=True)


def write_evaluation(
    directory: epath.PathLike,
    summary: Summary,
    scored: Sequence[ScoredCase],
    rules: Sequence[str] = (),
) -> None:
    """Writes the tables of cases, lesions, slices and confusion, and twice the summary.

    A value that does not exist, such as the Dice of a class that neither mask of a case has:

    * In summary.json it is NaN within `NNUNET_BLOCKS`, as nnU-Net writes it: readers of nnU-Net's
      file average such values with `numpy.nanmean`, which does not take null. NaN is no JSON in the
      strict sense; Python reads it, a browser does not.
    * evaluation.json holds the same in strict JSON, with null.
    * In the tables it is empty.

    Args:
        directory: where to.
        summary: of `summarize`.
        scored: the cases that it is of.
        rules: the challenges whose own scores the cases have (`case_table.RULES`).
    """
    directory = epath.Path(directory)
    files.write_csv(directory / "per_case.csv", case_columns(rules), case_rows(scored))
    files.write_csv(directory / "per_lesion.csv", LESION_COLUMNS, lesion_rows(scored))
    files.write_csv(directory / "per_slice.csv", SLICE_COLUMNS, slice_rows(scored))
    files.write_csv(directory / "confusion.csv", CONFUSION_COLUMNS, confusion_rows(scored))
    files.write_json(directory / "evaluation.json", summary)
    with_nan = summary | {name: _none_as_nan(summary[name]) for name in NNUNET_BLOCKS}
    files.atomic_write_text(directory / "summary.json", json.dumps(with_nan, indent=1) + "\n")


def _none_as_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _none_as_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_none_as_nan(item) for item in value]
    return math.nan if value is None else value
