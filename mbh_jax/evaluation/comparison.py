"""Two evaluations of the same cases against each other, from their tables alone."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mbh_jax.errors import UserError
from mbh_jax.evaluation.case_table import REGIONS
from mbh_jax.evaluation.overlap import mean_of_known
from mbh_jax.evaluation.statistics import MIN_TEST_PATIENTS, compare_paired

METRICS = ("dice", "iou", "surface_dice_1mm", "surface_dice_2mm", "hd95_mm")
"""The columns of per_case.csv that can be compared."""

COLUMNS = (
    *("class", "num_patients", "num_infinite", "a", "b", "difference", "low", "high"),
    *("p", "p_holm"),
)
MEAN = "mean"
"""Name of the mean over the kinds of blood that have a value."""

_KINDS = len(REGIONS) - 1


class Evaluation(NamedTuple):
    """One evaluation.

    Attributes:
        directory: where its tables are.
        cases: names of the cases.
        patients: whose they are.
        values: (V, 6) float64 of a metric, regions in the order of `REGIONS`; NaN where none.
        dataset: fingerprint of the dataset, or "" where that is not known.
    """

    directory: Path
    cases: tuple[str, ...]
    patients: tuple[str, ...]
    values: np.ndarray
    dataset: str


def read_evaluation(run: Path, split: str, metric: str) -> Evaluation:
    """Reads the tables of an evaluation.

    Args:
        run: a folder with per_case.csv, or a workdir.
        split: of a workdir, the folder below `evaluation`.
        metric: one of `METRICS`.

    Raises:
        UserError: there are none, or they are damaged.
    """
    below = run / "evaluation" / split
    directory = run if (run / "per_case.csv").is_file() else below
    path = directory / "per_case.csv"
    if not path.is_file():
        raise UserError(
            f"{run}: holds no per_case.csv, nor evaluation/{split}/per_case.csv: evaluate it first"
        )
    by_case: dict[str, dict[str, float]] = {}
    try:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                by_case.setdefault(row["case"], {})[row["class"]] = float(row[metric] or "nan")
        values = np.array([[row[name] for name in REGIONS] for row in by_case.values()])
    except (KeyError, ValueError, TypeError, csv.Error, OSError) as error:
        raise UserError(f"{path}: damaged ({error!r}): evaluate again") from None
    if not by_case:
        raise UserError(f"{path}: holds no cases: evaluate again")
    facts = _facts(directory / "evaluation.json")
    patients = facts.get("patients") or {}
    return Evaluation(
        directory,
        tuple(by_case),
        tuple(patients.get(case, case) for case in by_case),
        values,
        (facts.get("provenance") or {}).get("dataset", ""),
    )


def _facts(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}): evaluate again") from None
    return content if isinstance(content, dict) else {}


def compare(a: Evaluation, b: Evaluation, *, seed: int = 0) -> list[dict[str, Any]]:
    """Differences A minus B, paired by patient: a row for each class, their mean and all blood.

    A patient's value is the mean over its cases. p-values of the classes are adjusted among each
    other (Holm); those of the mean and of all blood are single tests. With fewer than six patients
    there is no p: it could not be below 0.05.

    Args:
        a, b: evaluations of the same cases.
        seed: of the bootstrap.

    Returns:
        Rows with `COLUMNS`; "a" and "b" are means over the patients who have a finite value in
        both.

    Raises:
        UserError: the cases or the datasets differ.
    """
    _check_same_cases(a, b)
    order = [b.cases.index(case) for case in a.cases]
    # An evaluation of a folder does not know whose a case is: each counts as a patient there.
    patients = min(a.patients, tuple(b.patients[i] for i in order), key=lambda p: len(set(p)))
    values = [_by_patient(a.values, patients), _by_patient(b.values[order], patients)]
    means = [mean_of_known(np.where(np.isfinite(v), v, np.nan)[:, :_KINDS], 1) for v in values]
    families = [
        (REGIONS[:_KINDS], [v[:, :_KINDS] for v in values]),
        ((MEAN,), [mean[:, None] for mean in means]),
        (REGIONS[_KINDS:], [v[:, _KINDS:] for v in values]),
    ]
    rows = []
    for names, (of_a, of_b) in families:
        found = compare_paired(of_a, of_b, seed=seed)
        both = np.isfinite(of_a) & np.isfinite(of_b)
        for i, name in enumerate(names):
            has_test = found.num_pairs[i] >= MIN_TEST_PATIENTS
            rows.append(
                {
                    "class": name,
                    "num_patients": int(found.num_pairs[i]),
                    "num_infinite": int(found.num_infinite[i]),
                    "a": float(mean_of_known(np.where(both, of_a, np.nan))[i]),
                    "b": float(mean_of_known(np.where(both, of_b, np.nan))[i]),
                    "difference": float(found.difference[i]),
                    "low": float(found.interval.low[i]),
                    "high": float(found.interval.high[i]),
                    "p": float(found.p[i]) if has_test else float("nan"),
                    "p_holm": float(found.p_holm[i]) if has_test else float("nan"),
                }
            )
    return rows


def _check_same_cases(a: Evaluation, b: Evaluation) -> None:
    if a.dataset and b.dataset and a.dataset != b.dataset:
        raise UserError(
            f"{a.directory} and {b.directory} are of different datasets ({a.dataset[:8]} and "
            f"{b.dataset[:8]}): evaluate both on one"
        )
    for one, other in ((a, b), (b, a)):
        if alone := sorted(set(one.cases) - set(other.cases)):
            more = f" and {len(alone) - 3} more" if len(alone) > 3 else ""
            raise UserError(
                f"{', '.join(alone[:3])}{more}: in {one.directory} and not in {other.directory}: "
                "evaluate the same cases"
            )


def _by_patient(values: np.ndarray, patients: Sequence[str]) -> np.ndarray:
    """(P, K): the mean over the cases of each patient that have a value; infinite if one is."""
    names = sorted(set(patients))
    owner = np.array(patients)
    rows = []
    for name in names:
        own = values[owner == name]
        mean = mean_of_known(own)
        rows.append(np.where(np.isinf(own).any(0), np.inf, mean))
    return np.array(rows)
