"""The summary of an evaluation as a table for a terminal."""

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from mbh_jax.errors import discard_output
from mbh_jax.labels import CLASS_NAMES, FOREGROUND, LABELS
from mbh_jax.log import log

Summary = Mapping[str, Any]


def _number(value: float | None, decimals: int = 3) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.{decimals}f}"


_HEAD = (
    ("", "cases", "", "Dice", "95 %", "Dice", "Dice", "true", "predicted", "false"),
    ("class", "with", "missed", "per case", "interval", "present", "pooled", "mL", "mL", "mL"),
)
_NAME_WIDTH = 21
_WIDTHS = (6, 7, 9, 10, 8, 7, 10, 10, 9)


def _line(cells: Sequence[str]) -> str:
    # A space stands before every column, so that large numbers do not run together.
    columns = (f" {cell:>{width - 1}}" for cell, width in zip(cells[1:], _WIDTHS, strict=False))
    return (cells[0].ljust(_NAME_WIDTH) + "".join(columns)).rstrip()


def _interval(block: Mapping[str, Any]) -> str:
    if block["low"] is None or not math.isfinite(block["low"]):
        return "-"
    return f"{block['low']:.2f}-{block['high']:.2f}"


def _false_blood_line(block: Mapping[str, Any]) -> str:
    all_cases, healthy = block["all_cases"], block["healthy_cases"]
    text = (
        f"false blood: mean {_number(all_cases['mean'], 2)} mL a case "
        f"(median {_number(all_cases['median'], 2)}, most {_number(all_cases['max'], 2)}); "
    )
    if not healthy["num_cases"]:
        return text + "no case without blood"
    heads = "head" if healthy["num_cases"] == 1 else "heads"
    return text + (
        f"mean {_number(healthy['mean'], 2)} mL in {healthy['num_cases']} {heads} without blood"
    )


def _dataset_line(provenance: Mapping[str, Any]) -> list[str]:
    if "dataset_dir" not in provenance:
        return []
    return [f"dataset: {provenance['dataset_dir']} ({provenance['dataset'][:8]})"]


def format_table(summary: Summary) -> str:
    """The summary as a text for a terminal, 97 columns wide.

    Dice per case leaves out cases where prediction and reference both lack the class and counts
    false blood in an absent class as 0; beside it stands its 95 % bootstrap interval over patients.
    Present is over the cases whose reference has the class; pooled adds the voxels of all cases
    before dividing. Missed are cases with the class in which nothing of it is predicted.
    """
    volume_ml, intervals = summary["volume_ml"], summary["intervals"]["per_case"]

    def row(name: str, title: str, ml: str, scores: Sequence[Mapping[str, Any]]) -> str:
        is_mean = name == "mean"
        counts = (
            ("", "")
            if is_mean
            else (
                str(scores[1]["num_cases"]),
                str(summary["distances"][name]["num_missed"]),
            )
        )
        per_case, present, pooled = (_number(one["Dice"]) for one in scores)
        millilitres = (
            _number(volume_ml[ml][kind], 1) for kind in ("reference", "predicted", "false")
        )
        cells = [title, *counts, per_case, _interval(intervals[name]), present, pooled]
        return _line(cells if is_mean else [*cells, *millilitres])

    blocks = [summary[rule] for rule in ("per_case", "present_only", "pooled")]
    of_any = [summary["any"][rule] for rule in ("per_case", "present_only", "pooled")]
    rule = "-" * (_NAME_WIDTH + sum(_WIDTHS))
    lines = [*(_line(cells) for cells in _HEAD), rule]
    for c in FOREGROUND:
        name = CLASS_NAMES[c]
        title = f"{name}  {LABELS[c].long_name.removesuffix(' haemorrhage')}"
        lines.append(row(name, title, name, [block[name] for block in blocks]))
    means = [block["mean"] for block in blocks]
    lines += [
        rule,
        row("mean", f"mean of {len(FOREGROUND)}", "", means),
        row("any", "any blood", "all", of_any),
    ]
    counts = [str(mean["num_classes"]) for mean in means]
    if any(count != str(len(FOREGROUND)) for count in counts):
        lines.append(_line(["classes with a value", "", "", counts[0], "", *counts[1:]]))
    return "\n".join(
        [
            _title(summary),
            *_dataset_line(summary.get("provenance", {})),
            "",
            *lines,
            "",
            _false_blood_line(summary["false_blood_ml"]),
            *_pixel_lines(summary),
            *_calibration_lines(summary),
            *(f"warning: {text}" for text in summary["warnings"]),
        ]
    )


def _title(summary: Summary) -> str:
    if "split" not in summary:
        return f"{summary['num_cases']} cases; mL are added over cases"
    which = {"all": "all slices", "blood": "slices with blood only"}[summary["slices"]]
    return (
        f"{summary['split']}: {summary['num_cases']} cases, {which}, "
        f"checkpoint of step {summary['checkpoint_step']}; mL are added over cases"
    )


def _pixel_lines(summary: Summary) -> list[str]:
    """What a network's own output says beyond its masks, where that is known."""
    if "cross_entropy" not in summary:
        return []
    comparison = summary["including_background"]["dice_coef_multiclass"]
    return [
        f"cross-entropy: {_number(summary['cross_entropy'], 5)}",
        f"dice_coef_multiclass: {_number(comparison, 4)} (counts background: for comparison only)",
    ]


def _calibration_lines(summary: Summary) -> list[str]:
    if "calibration" not in summary:
        return []
    block = summary["calibration"]
    return [
        f"expected calibration error of {block['num_cases']} cases: "
        f"{_number(block['foreground']['ece'])} where truth or prediction has blood, "
        f"{_number(block['whole']['ece'])} over whole scans"
    ]


def print_table(summary: Summary) -> None:
    """Prints the table to standard output; where that cannot be written to, it is a warning."""
    try:
        print(format_table(summary), flush=True)
    except OSError as error:
        log.warning("warning: the table could not be printed (%s)", error)
        discard_output(sys.stdout)
