"""Puts evaluations of BHSD beside published ones, each with the rule that it was counted by.

    python -m benchmarks.published runs/bhsd/evaluation/test/summary.json [of other folds ...]

Cases of several summaries, such as those of five folds, are counted together.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mbh_jax.errors import UserError, one_line_errors
from mbh_jax.evaluation.overlap import per_case_scores, pooled_scores, present_only_scores
from mbh_jax.labels import CLASS_NAMES, FOREGROUND

RULES = {
    "pooled": "all voxels together",
    "case": "mean over cases; false blood of an absent class is 0, absent in both is left out",
    "present": "mean over the cases that have the class",
}
"""How a Dice may be counted; docs/metrics.md has each in full."""

NAMES = tuple(CLASS_NAMES[label] for label in FOREGROUND)


class Published(NamedTuple):
    """A published result: who, on what data, by which of `RULES`, and the Dice of each class."""

    work: str
    data: str
    rule: str
    dice: tuple[float, ...]


PUBLISHED = (
    Published(
        "nnU-Net 3D, three windows, ensemble",
        "official split, 96 cases",
        "pooled",
        (0.058, 0.785, 0.691, 0.434, 0.451),
    ),
    Published(
        "nnU-Net 3D, three windows, ensemble",
        "official split, 96 cases",
        "case",
        (0.076, 0.572, 0.511, 0.214, 0.165),
    ),
    Published(
        "nnU-Net 3d_fullres", "own split, 29 cases", "pooled", (0.207, 0.725, 0.578, 0.438, 0.327)
    ),
    Published(
        "nnU-Net 3D (Kandasorat/bhsd-nnunet)",
        "five folds, 192 cases",
        "case",
        (0.106, 0.555, 0.490, 0.217, 0.165),
    ),
    Published(
        "nnU-Net 2D (Kandasorat/bhsd-nnunet)",
        "five folds, 192 cases",
        "case",
        (0.064, 0.504, 0.468, 0.182, 0.136),
    ),
)
"""Honest numbers on BHSD, from public repositories; checkpoints of folds were chosen on them."""


def class_counts(cases: Sequence[dict[str, Any]]) -> np.ndarray:
    """Voxels without and with each class, by reference and prediction: (5, cases, 2, 2) int64."""
    fields = ("TN", "FP", "FN", "TP")
    counts = [
        [[case["metrics"][str(label)][name] for name in fields] for case in cases]
        for label in FOREGROUND
    ]
    return np.array(counts, np.int64).reshape(len(FOREGROUND), len(cases), 2, 2)


def dice_by_rule(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Dice of each class (5,) by each of `RULES`; NaN where there is no case to count.

    Args:
        counts: (5, cases, 2, 2), see `class_counts`.
    """
    scores = {"pooled": pooled_scores, "case": per_case_scores, "present": present_only_scores}
    return {
        rule: np.array([score(of_class).dice[1] for of_class in counts])
        for rule, score in scores.items()
    }


def read_cases(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The cases of summaries of evaluations, each of which may be in one of them only.

    Raises:
        UserError: a file is not such a summary, or a case is in two of them.
    """
    cases: list[dict[str, Any]] = []
    for path in paths:
        try:
            cases += json.loads(path.read_text())["metric_per_case"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not the summary.json of an evaluation ({error})") from None
    names = [Path(case["reference_file"]).name for case in cases]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{twice[0]} is in two of the summaries: give each case once")
    return cases


def table(counts: np.ndarray) -> str:
    """Ours and published results in Markdown, those of one rule together."""
    lines = [
        f"| Dice | counted | data | {' | '.join(NAMES)} | mean |",
        "|---" * (len(NAMES) + 4) + "|",
    ]

    def line(work: str, rule: str, data: str, dice: Sequence[float]) -> str:
        numbers = " | ".join(
            "absent" if np.isnan(d) else f"{d:.3f}" for d in (*dice, np.mean(dice))
        )
        return f"| {work} | {rule} | {data} | {numbers} |"

    for rule, ours in dice_by_rule(counts).items():
        lines.append(line("**this run**", rule, f"{counts.shape[1]} cases", ours))
        lines += [line(p.work, rule, p.data, p.dice) for p in PUBLISHED if p.rule == rule]
    lines += ["", *(f"{rule}: {meaning}" for rule, meaning in RULES.items())]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("summaries", nargs="+", type=Path, metavar="summary.json")
    args = parser.parse_args(arguments)
    print(table(class_counts(read_cases(args.summaries))))


if __name__ == "__main__":
    with one_line_errors():
        main()
