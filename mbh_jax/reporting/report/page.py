"""One file that shows an evaluation: tables, plots and cases, opened from the disk, no network."""

import base64
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
from mbh_jax.reporting.report.cases import CaseImages, case_slices, choose_cases

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
        curves: pictures of the training (title, PNG).
    """

    title: str
    summary: Mapping[str, Any]
    case_rows: Sequence[Mapping[str, Any]]
    images: Callable[[str], CaseImages | None]
    curves: Sequence[tuple[str, bytes]] = ()


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
            (
                "What became of the voxels of each class",
                plots.confusion(summary["confusion_of_types"]),
            ),
        ],
        curves=[(title, base64.b64encode(png).decode()) for title, png in contents.curves],
        cases=[row for row in contents.case_rows if row["n_ref"] + row["n_pred"]],
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
        row |= {
            "distances": summary["distances"][name],
            "surface_dice": summary["surface_dice"][name]["surface_dice_2mm"],
            "lesions": lesions,
            "false_ml": summary["volume_ml"]["all" if name == "any" else name]["false"],
        }
    return row


def _number(value: float | None, decimals: int = 3) -> str:
    """A number of a table; what does not exist is a dash."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.{decimals}f}"


def _distance(value: float | str | None) -> str:
    """A distance in mm; an infinite one is that of a class that was missed, or is false."""
    if value in ("inf", math.inf):
        return "∞"
    return _number(value, 1)  # type: ignore[arg-type]
