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
    ("", "cases", "Dice", "Dice", "Dice", "IoU", "true", "predicted", "false"),
    ("class", "with it", "per case", "present", "pooled", "pooled", "mL", "mL", "mL"),
)
_NAME_WIDTH = 23
_WIDTHS = (9, 10, 9, 9, 9, 9, 11, 8)


def _line(cells: Sequence[str]) -> str:
    columns = (f"{cell:>{width}}" for cell, width in zip(cells[1:], _WIDTHS, strict=False))
    return cells[0].ljust(_NAME_WIDTH) + "".join(columns)


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
    false blood in an absent class as 0; present is over the cases whose reference has the class;
    pooled adds the voxels of all cases before dividing. The last line is for comparison only.
    """
    per_case, present, pooled = summary["per_case"], summary["present_only"], summary["pooled"]
    volume_ml = summary["volume_ml"]

    def millilitres(name: str) -> tuple[str, ...]:
        return tuple(_number(volume_ml[name][k], 1) for k in ("reference", "predicted", "false"))

    lines = [_line(cells) for cells in _HEAD]
    rule = "-" * (_NAME_WIDTH + sum(_WIDTHS))
    lines.append(rule)
    for c in FOREGROUND:
        name = CLASS_NAMES[c]
        scores = (per_case[name]["Dice"], present[name]["Dice"], pooled[name]["Dice"])
        lines.append(
            _line(
                [
                    f"{name}  {LABELS[c].long_name.removesuffix(' haemorrhage')}",
                    str(present[name]["num_cases"]),
                    *(_number(score) for score in scores),
                    _number(pooled[name]["IoU"]),
                    *millilitres(name),
                ]
            )
        )
    lines.append(rule)
    means = (per_case["mean"], present["mean"], pooled["mean"])
    lines.append(
        _line(
            [
                f"mean of {len(FOREGROUND)}; all blood",
                "",
                *(_number(mean["Dice"]) for mean in means),
                _number(pooled["mean"]["IoU"]),
                *millilitres("all"),
            ]
        )
    )
    counts = [mean["num_classes"] for mean in (*means, pooled["mean"])]
    if any(count < len(FOREGROUND) for count in counts):
        lines.append(_line(["  classes with a value", "", *map(str, counts)]))
    which = {"all": "all slices", "blood": "slices with blood only"}[summary["slices"]]
    comparison = summary["including_background"]["dice_coef_multiclass"]
    return "\n".join(
        [
            f"{summary['split']}: {summary['num_cases']} cases, {which}, "
            f"checkpoint of step {summary['checkpoint_step']}; mL are added over cases",
            *_dataset_line(summary["provenance"]),
            "",
            *lines,
            "",
            _false_blood_line(summary["false_blood_ml"]),
            f"cross-entropy: {_number(summary['cross_entropy'], 5)}",
            f"dice_coef_multiclass: {_number(comparison, 4)} "
            "(counts background: for comparison only)",
        ]
    )


def print_table(summary: Summary) -> None:
    """Prints the table to standard output; where that cannot be written to, it is a warning."""
    try:
        print(format_table(summary), flush=True)
    except OSError as error:
        log.warning("warning: the table could not be printed (%s)", error)
        discard_output(sys.stdout)
