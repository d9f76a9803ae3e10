"""The results of an evaluation: a table of cases and classes, a summary with nnU-Net's names."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from mbh_jax import files
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

EVALUATION_COLUMNS = (
    *("case", "class", "Dice", "IoU", "TP", "FP", "FN", "TN", "n_pred", "n_ref"),
    *("pred_ml", "ref_ml", "false_ml"),
)

NNUNET_BLOCKS = ("metric_per_case", "mean", "foreground_mean")
"""The parts of a summary that nnU-Net's `summary.json` has."""

_BLOOD = list(FOREGROUND)


def _fields(overlap: Overlap, volumes: Volumes) -> dict[str, np.ndarray]:
    """Arrays (V,K) under nnU-Net's field names, and millilitres."""
    return {
        "Dice": overlap.dice,
        "IoU": overlap.iou,
        "TP": overlap.tp,
        "FP": overlap.fp,
        "FN": overlap.fn,
        "TN": overlap.tn,
        "n_pred": overlap.n_pred,
        "n_ref": overlap.n_ref,
        "pred_ml": volumes.predicted_ml,
        "ref_ml": volumes.reference_ml,
        "false_ml": volumes.false_blood_ml,
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
    """Millilitres added over cases, by class name and for all blood."""

    def total(classes: Any) -> dict[str, float]:
        return {
            "reference": volumes.reference_ml[:, classes].sum(),
            "predicted": volumes.predicted_ml[:, classes].sum(),
            "false": volumes.false_blood_ml[:, classes].sum(),
        }

    return {CLASS_NAMES[c]: total([c]) for c in FOREGROUND} | {"all": total(_BLOOD)}


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
    cases: Sequence[str],
    confusion: np.ndarray,
    *,
    voxel_volume_ml: np.ndarray,
    cross_entropy: float,
    dice_coef_multiclass: float,
    split: str,
    step: int,
    slices: str = "all",
    provenance: Mapping[str, Any] | None = None,
) -> Summary:
    """All results of an evaluation, ready for strict JSON (a value that does not exist is None).

    `metric_per_case`, `mean` and `foreground_mean` have nnU-Net's names and meaning, and mL beside
    them, with one difference: `foreground_mean` is over the classes that have a value, where
    nnU-Net's becomes NaN if one has none. `reference_file` and `prediction_file` of a case, from
    whose last parts nnU-Net's readers take its name, are the file names that nnU-Net would give
    to both masks; the masks that were scored were in memory.

    `per_case`, `present_only` and `pooled` hold the three ways of counting by class name, and the
    number of cases or classes behind each mean. `including_background` holds what counts
    background, for comparison with other projects only.

    Args:
        cases: V names.
        confusion: (V,K,K) integer counts of voxels, axes [case, true, predicted].
        voxel_volume_ml: (V,) mL of a voxel of each case; NaN where the spacing is not known, whose
            millilitres, and sums with them, then do not exist.
        cross_entropy: mean over pixels, in nats.
        dice_coef_multiclass: mean over slices of the Keras FlexUNet's metric.
        split: which split was evaluated.
        step: training step of the checkpoint.
        slices: "all" or "blood": which slices of each case were evaluated.
        provenance: what else distinguishes this evaluation (checkpoint, dataset, ...).
    """
    confusion = np.asarray(confusion, np.int64)
    volumes = volumes_ml(confusion, voxel_volume_ml)
    fields = _fields(class_overlap(confusion), volumes)
    mean = {
        str(c): {name: mean_of_known(values[:, c]) for name, values in fields.items()}
        for c in FOREGROUND
    }
    summary = {
        "split": split,
        "slices": slices,
        "checkpoint_step": step,
        "provenance": dict(provenance or {}),
        "num_cases": len(cases),
        "metric_per_case": [
            {
                "case": case,
                "reference_file": f"{case}.nii.gz",
                "prediction_file": f"{case}.nii.gz",
                "metrics": {
                    str(c): {name: values[v, c] for name, values in fields.items()}
                    for c in FOREGROUND
                },
            }
            for v, case in enumerate(cases)
        ],
        "mean": mean,
        "foreground_mean": {
            name: mean_of_known(np.array([mean[str(c)][name] for c in FOREGROUND]))
            for name in fields
        },
        "per_case": _scores_block(per_case_scores(confusion)),
        "present_only": _scores_block(present_only_scores(confusion)),
        "pooled": _scores_block(pooled_scores(confusion)),
        "volume_ml": _volume_block(volumes),
        "false_blood_ml": _false_blood_block(volumes, confusion),
        "cross_entropy": cross_entropy,
        "including_background": {"dice_coef_multiclass": dice_coef_multiclass},
    }
    return files.json_ready(summary)


def write_evaluation(directory: epath.PathLike, summary: Summary) -> None:
    """Writes evaluation.csv, a row for each case and class, and twice the summary.

    A value that does not exist, such as the Dice of a class that neither mask of a case has:

    * In summary.json it is NaN within `NNUNET_BLOCKS`, as nnU-Net writes it: readers of nnU-Net's
      file average such values with `numpy.nanmean`, which does not take null. NaN is no JSON in the
      strict sense; Python reads it, a browser does not.
    * evaluation.json holds the same in strict JSON, with null.
    * In evaluation.csv it is empty. `false_ml` is there the class's share of the case's false blood
      (`evaluation.overlap.Volumes`).
    """
    directory = epath.Path(directory)
    rows = (
        {"case": case["case"], "class": CLASS_NAMES[c], **case["metrics"][str(c)]}
        for case in summary["metric_per_case"]
        for c in FOREGROUND
    )
    files.write_csv(directory / "evaluation.csv", EVALUATION_COLUMNS, rows)
    files.write_json(directory / "evaluation.json", summary)
    with_nan = summary | {name: _none_as_nan(summary[name]) for name in NNUNET_BLOCKS}
    files.atomic_write_text(directory / "summary.json", json.dumps(with_nan, indent=1) + "\n")


def _none_as_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _none_as_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_none_as_nan(item) for item in value]
    return math.nan if value is None else value
