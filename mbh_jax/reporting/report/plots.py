"""The plots of a report as inline SVG. No plot rests on colour alone: classes stand in words."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mbh_jax.labels import CLASS_NAMES, FOREGROUND
from mbh_jax.reporting.curves import LINE_COLOURS

Rows = Sequence[Mapping[str, Any]]

COLOURS = LINE_COLOURS | {"any": "#555b66"}
MARKERS = dict(zip((*(CLASS_NAMES[c] for c in FOREGROUND), "any"), "os^Dv*", strict=True))

SMALL_ML = 0.1
"""Below this the axes of volumes are linear, so that zero has a place on them."""

_SIZE_INCH = (5.6, 3.7)

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.size": 10,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
}


def _svg(draw: Callable[[Axes], None], title: str) -> str:
    """A figure as SVG that scales with the page."""
    with rc_context(_STYLE):
        figure = Figure(_SIZE_INCH, layout="constrained")
        draw(figure.add_subplot())
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()[text.getvalue().index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (width|height)="[^"]*pt"', "", svg, count=2)
    # Numbers of a figure's parts must be its own on a page with several.
    prefix = re.sub(r"\W+", "-", title.lower())
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'(xlink:href="|url\()#', rf"\1#{prefix}-", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)


def dice_by_case(rows: Rows) -> str:
    """Dice of each case and class as a strip of points, with the mean and its number of cases."""

    def draw(axes: Axes) -> None:
        for place, name in enumerate(MARKERS):
            dice = np.array([row["dice"] for row in rows if row["class"] == name], np.float64)
            known = np.sort(dice[np.isfinite(dice)])
            aside = (np.arange(len(known)) * 0.61803 % 1 - 0.5) * 0.5
            axes.plot(
                place + aside, known, MARKERS[name], color=COLOURS[name], alpha=0.6, markersize=5
            )
            if len(known):
                axes.plot([place - 0.33, place + 0.33], [known.mean()] * 2, "k-", linewidth=1.5)
            axes.annotate(
                f"n = {len(known)}", (place, 1.04), ha="center", fontsize=9, color="#555b66"
            )
        axes.set_xticks(range(len(MARKERS)), list(MARKERS))
        axes.set_ylim(-0.04, 1.12)
        axes.set_ylabel("Dice of a case")
        axes.grid(visible=False, axis="x")

    return _svg(draw, "Dice of each case by class")


def volumes(rows: Rows) -> str:
    """Predicted against true millilitres of each case and class, and the line where they agree."""
    known = [row for row in rows if row["class"] != "any" and np.isfinite(row["ref_ml"])]

    def draw(axes: Axes) -> None:
        largest = max((max(row["ref_ml"], row["pred_ml"]) for row in known), default=1) * 1.5 + 1
        axes.plot([0, largest], [0, largest], color="#8a8f98", linewidth=1)
        for name in list(MARKERS)[:-1]:
            points = [
                (row["ref_ml"], row["pred_ml"])
                for row in known
                if row["class"] == name and row["ref_ml"] + row["pred_ml"] > 0
            ]
            if points:
                true, predicted = np.array(points).T
                axes.plot(
                    true, predicted, MARKERS[name], color=COLOURS[name], alpha=0.7, label=name,
                    markersize=5,
                )  # fmt: skip
        axes.set_xscale("symlog", linthresh=SMALL_ML)
        axes.set_yscale("symlog", linthresh=SMALL_ML)
        axes.set_xlim(-0.02, largest)
        axes.set_ylim(-0.02, largest)
        axes.set_xlabel("true mL")
        axes.set_ylabel("predicted mL")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=9)

    return _svg(draw, "Predicted against true volume")


def agreement(rows: Rows) -> str:
    """Bland and Altman's plot of all blood: error against the mean of both volumes."""
    pairs = [
        (row["ref_ml"], row["pred_ml"])
        for row in rows
        if row["class"] == "any" and row["ref_ml"] + row["pred_ml"] > 0
    ]

    def draw(axes: Axes) -> None:
        axes.set_xlabel("mean of true and predicted mL, all blood")
        axes.set_ylabel("predicted minus true mL")
        if not pairs:
            return
        true, predicted = np.array(pairs).T
        error = predicted - true
        axes.plot((true + predicted) / 2, error, "o", color=COLOURS["any"], alpha=0.7, markersize=5)
        lines = [("bias", error.mean(), "-")]
        if len(error) > 1:
            spread = 1.96 * error.std(ddof=1)
            lines += [
                ("upper limit", error.mean() + spread, "--"),
                ("lower limit", error.mean() - spread, "--"),
            ]
        for text, value, line in lines:
            axes.axhline(value, color="#8a8f98", linestyle=line, linewidth=1)
            axes.annotate(
                f"{text} {value:+.1f}", (0.99, value), xycoords=("axes fraction", "data"),
                ha="right", va="bottom", fontsize=9,
            )  # fmt: skip

    return _svg(draw, "Error of the volume of all blood")


def lesions(block: Mapping[str, Any]) -> str:
    """Share of the reference's lesions that were found, by size, all kinds of blood."""
    sizes = list(next(iter(block.values()))["by_size"])
    found, total = (
        [
            sum(block[name]["by_size"][size][kind] for name in CLASS_NAMES[1:] for kind in kinds)
            for size in sizes
        ]
        for kinds in (("found",), ("found", "missed"))
    )

    def draw(axes: Axes) -> None:
        share = [f / t if t else 0 for f, t in zip(found, total, strict=True)]
        axes.bar(range(len(sizes)), share, color="#4c78a8", width=0.6)
        for place, (f, t, height) in enumerate(zip(found, total, share, strict=True)):
            axes.annotate(f"{f} of {t}", (place, height + 0.03), ha="center", fontsize=10)
        axes.set_xticks(range(len(sizes)), [f"{size}" for size in sizes])
        axes.set_ylim(0, 1.15)
        axes.set_ylabel("share of lesions found")
        axes.set_xlabel("size of the lesion")
        axes.grid(visible=False, axis="x")

    return _svg(draw, "Lesions found by size")


def confusion(block: Mapping[str, Mapping[str, int]]) -> str:
    """Where the voxels of each true class went, in percent."""
    counts = np.array([[block[t][p] for p in CLASS_NAMES] for t in CLASS_NAMES[1:]], np.float64)
    total = counts.sum(1, keepdims=True)
    share = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)

    def draw(axes: Axes) -> None:
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1.3, aspect="auto")
        for (row, column), value in np.ndenumerate(share):
            text = f"{100 * value:.0f} %" if total[row, 0] else "-"
            axes.annotate(text, (column, row), ha="center", va="center", fontsize=10)
        names = ["not found", *CLASS_NAMES[1:]]
        axes.set_xticks(range(len(names)), names)
        axes.set_yticks(range(len(FOREGROUND)), CLASS_NAMES[1:])
        axes.set_xlabel("predicted as")
        axes.set_ylabel("true class")
        axes.grid(visible=False)

    return _svg(draw, "What became of the voxels of each class")
