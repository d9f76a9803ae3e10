"""The tables of `benchmarks.learning`: Dice of held-out cases, and time until a quality is kept."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mbh_jax.evaluation.overlap import pooled_scores, present_only_scores
from mbh_jax.labels import CLASS_NAMES, FOREGROUND, NUM_CLASSES

HELD_OUT = ("validation", "test")
"""The splits that a fold's patients are divided into, because a dataset has to have both."""

QUALITIES = (0.5, 0.6)
"""Pooled Dice of any blood whose first time is reported."""

COLUMNS = (*(CLASS_NAMES[label] for label in FOREGROUND), "mean", "any")


def confusion_of(workdir: Path) -> dict[str, np.ndarray]:
    """Voxels by true and predicted class, (K, K), of each held-out case of a run."""
    number = {name: label for label, name in enumerate(CLASS_NAMES)}
    found: dict[str, np.ndarray] = {}
    for split in HELD_OUT:
        with (workdir / "evaluation" / f"{split}_last" / "confusion.csv").open() as file:
            for row in csv.DictReader(file):
                matrix = found.setdefault(row["case"], np.zeros((NUM_CLASSES,) * 2, np.int64))
                place = number[row["true_class"]], number[row["predicted_class"]]
                matrix[place] = int(row["voxels"])
    return found


def dice_table(cases: Sequence[np.ndarray]) -> dict[str, dict[str, float]]:
    """Dice by class, "mean" of the five and "any" blood: "pooled", and of cases that have it.

    Args:
        cases: voxels by true and predicted class, (K, K), of each case.
    """
    confusion = np.stack(cases)
    blood = (np.arange(NUM_CLASSES) > 0).astype(int)
    # Blood of any kind as one class: (cases, 2, 2).
    any_blood = np.zeros((len(cases), 2, 2), np.int64)
    np.add.at(any_blood, (slice(None), blood[:, None], blood[None, :]), confusion)
    found = {}
    for rule, score in (("pooled", pooled_scores), ("present", present_only_scores)):
        of_classes = score(confusion)
        dice = {CLASS_NAMES[label]: float(of_classes.dice[label]) for label in FOREGROUND}
        dice["mean"] = of_classes.foreground.dice
        found[rule] = dice | {"any": float(score(any_blood).dice[1])}
    return found


def seconds_to(quality: float, history: Sequence[Mapping[str, Any]]) -> float:
    """Seconds of training until the validation's Dice of any blood is `quality` for good."""
    values = [entry["val_dice_any"] or 0.0 for entry in history]  # None: nothing to find.
    kept = len(values)
    while kept and values[kept - 1] >= quality:
        kept -= 1
    if kept == len(values):
        return float("inf")
    return float(sum(entry["train_seconds"] for entry in history[: kept + 1]))


def row_of(
    name: str,
    seed: int,
    steps: Sequence[int],
    confusions: Mapping[str, np.ndarray],
    histories: Sequence[Sequence[Mapping[str, Any]]],
) -> dict[str, Any]:
    """What the runs of a variant with one seed make of all folds.

    Args:
        name: of the variant.
        seed: of the runs.
        steps: of each run.
        confusions: of each held-out case.
        histories: of each run; none for runs that were not validated while they trained.
    """
    times = {
        f"{quality:g}": [seconds_to(quality, history) for history in histories]
        for quality in QUALITIES
    }
    row = {"variant": name, "seed": seed, "steps": round(np.mean(steps)), "cases": len(confusions)}
    return row | dice_table(list(confusions.values())) | {"seconds_to": times}


def _shown_times(row: Mapping[str, Any]) -> list[str]:
    def text(values: Sequence[float]) -> str:
        if not values:
            return "-"
        return "never" if np.isinf(values).any() else f"{np.mean(values):.0f}"

    return [text(values) for values in row["seconds_to"].values()]


def print_table(results: Sequence[Mapping[str, Any]]) -> None:
    """A line for each variant, seed and way of counting; then their mean and range over seeds."""
    print(f"| variant | seed | steps | n | Dice | {' | '.join(COLUMNS)} | s to .5 | s to .6 |")
    print("|---" * (len(COLUMNS) + 7) + "|")
    for row in results:
        shown = " | ".join(_shown_times(row))
        for rule, seconds in (("pooled", shown), ("present", " | ")):
            numbers = " | ".join(f"{row[rule][name]:.3f}" for name in COLUMNS)
            print(
                f"| {row['variant']} | {row['seed']} | {row['steps']} | {row['cases']} | {rule} | "
                f"{numbers} | {seconds} |"
            )
    for variant in dict.fromkeys(row["variant"] for row in results):
        rows = [row for row in results if row["variant"] == variant]
        for rule in ("pooled", "present") if len(rows) > 1 else ():
            found = np.array([[row[rule][name] for name in COLUMNS] for row in rows])
            numbers = " | ".join(
                f"{mean:.3f} ({low:.3f}-{high:.3f})"
                for mean, low, high in zip(found.mean(0), found.min(0), found.max(0), strict=True)
            )
            print(
                f"| {variant} | {len(rows)} seeds | {rows[0]['steps']} | {rows[0]['cases']} | "
                f"{rule} | {numbers} |  |  |"
            )
