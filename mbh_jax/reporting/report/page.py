"""One file that shows an evaluation: tables, plots and cases, opened from the disk, no network."""

import contextlib
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from etils import epath

from mbh_jax import files
from mbh_jax.keys import flatten
from mbh_jax.labels import CLASS_NAMES, FOREGROUND, LABELS
from mbh_jax.reporting.report import plots
from mbh_jax.reporting.report.cases import RANKING, CaseImages, case_slices, choose_cases

REPORT_FILE = "report.html"
DISCLAIMER = "For research only: not a medical device."
RULES = {
    "per_case": "Per case: the mean of the cases' Dice. A case counts for a class if prediction or "
    "reference has it; false blood in a class that the case lacks scores 0 (nnU-Net's rule).",
    "present_only": "Present: the mean over the cases whose reference has the class.",
    "pooled": "Pooled: all voxels of all cases added up first, so large bleeds weigh most.",
}

_FOLDER = Path(__file__).parent


class ReportContents(NamedTuple):
    """What a report is made of.

    Attributes:
        title: its heading.
        summary: of `mbh_jax.evaluation.summary.summarize`.
        case_rows: of `mbh_jax.evaluation.case_table.case_rows`; NaN where a value does not exist.
        images: what is shown of a case, or None where its images are not at hand; called for the
            few cases that the report shows.
        history: a dict an epoch of the training, see `mbh_jax.reporting.run_files`; empty where
            there was none.
    """

    title: str
    summary: Mapping[str, Any]
    case_rows: Sequence[Mapping[str, Any]]
    images: Callable[[str], CaseImages | None]
    history: Sequence[Mapping[str, Any]] = ()


def write_report(path: epath.PathLike, contents: ReportContents) -> None:
    """Writes a report as one HTML file."""
    summary = contents.summary
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    environment.filters["distance"] = _distance
    shown = []
    for rank, case, dice in choose_cases(contents.case_rows):
        images = contents.images(case)
        if images is not None:
            shown.append({"rank": rank, "case": case, "dice": dice, **case_slices(images)})
    numbers = {one["case"]: number for number, one in enumerate(shown)}
    provenance = summary.get("provenance") or {}
    html = environment.get_template("report.html").render(
        title=contents.title,
        disclaimer=DISCLAIMER,
        summary=summary,
        rules=RULES,
        rows=[_headline(summary, name) for name in (*CLASS_NAMES[1:], "mean", "any")],
        plots=[
            ("Dice of each case", plots.dice_by_case(contents.case_rows)),
            ("Volumes", plots.volumes(contents.case_rows)),
            ("Agreement of volumes", plots.agreement(contents.case_rows)),
            ("Lesions found, by size", plots.lesions(summary["lesions"])),
            *(
                [("Calibration", plots.calibration(summary["calibration"]))]
                if "calibration" in summary
                else []
            ),
        ],
        confusion=_confusion(summary["confusion_of_types"]),
        curves=plots.training(contents.history) if contents.history else [],
        ranking=RANKING,
        cases=[
            {**row, "shown": numbers.get(row["case"])}
            for row in contents.case_rows
            if row["n_ref"] + row["n_pred"]
        ],
        shown=[{key: one[key] for key in ("rank", "case", "dice", "count")} for one in shown],
        scenes=shown,
        classes=[
            {"name": CLASS_NAMES[c], "colour": "#{:02x}{:02x}{:02x}".format(*LABELS[c].rgb)}
            for c in FOREGROUND
        ],
        facts={key: value for key, value in provenance.items() if key != "config"},
        environment=_environment(),
        config=list(flatten(provenance.get("config") or {})),
        style=(_FOLDER / "report.css").read_text(encoding="utf-8"),
        script=(_FOLDER / "report.js").read_text(encoding="utf-8"),
    )
    files.atomic_write_text(path, html)


def _environment() -> str:
    """The versions that the numbers were made with, of those packages that are installed."""
    found = [f"Python {platform.python_version()}"]
    for name in ("mbh_jax", "numpy", "scipy", "jax", "flax"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append(f"{name} {metadata.version(name)}")
    return ", ".join(found)


def _headline(summary: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A row of the headline table: a class, the mean of the classes, or all blood."""
    scores = {}
    for rule in RULES:
        block = summary["any"][rule] if name == "any" else summary[rule][name]
        interval = summary["intervals"][rule][name]
        scores[rule] = {"dice": block["Dice"], **interval}
    row = {"name": name, "scores": scores}
    if name != "mean":
        lesions = summary["lesions"][name]
        distances = summary["distances"][name]
        # Without a class there are no distances; with one there are none without a spacing.
        missing = "unknown" if scores["per_case"]["num_cases"] else "absent"
        row |= {
            "missing": missing,
            "none_found": "none found" if distances["num_cases"] else missing,
            "distances": distances,
            "surface_dice": summary["surface_dice"][name]["surface_dice_2mm"],
            "lesions": lesions,
            "false_ml": summary["volume_ml"]["all" if name == "any" else name]["false"],
        }
    return row


def _confusion(block: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    """A row for each true class, the background last: its name, and voxels and share of each cell.

    The share is None for the background, most of which is air, and where the class is absent.
    """
    rows = []
    for true in (*CLASS_NAMES[1:], CLASS_NAMES[0]):
        total = sum(block[true].values())
        has_share = total > 0 and true != CLASS_NAMES[0]
        cells = [
            {
                "voxels": block[true][predicted],
                "share": block[true][predicted] / total if has_share else None,
            }
            for predicted in (*CLASS_NAMES[1:], CLASS_NAMES[0])
        ]
        rows.append({"name": true, "is_absent": not total, "cells": cells})
    return rows


def _number(value: float | None, decimals: int = 3, missing: str = "absent") -> str:
    """A number of a table; the word `missing` where it does not exist."""
    if value is None or math.isnan(value):
        return missing
    return f"{value:.{decimals}f}"


def _distance(value: float | str | None, missing: str = "absent") -> str:
    """A distance in mm; an infinite one is that of a class that was missed, or is false."""
    if value in ("inf", math.inf):
        return "∞"
    return _number(value, 1, missing)  # type: ignore[arg-type]
