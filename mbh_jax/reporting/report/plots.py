"""The plots of a report as inline SVG. No plot rests on colour alone: classes stand in words.

Each SVG has a title, and a description that says in words what the plot shows.
"""

import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mbh_jax.evaluation.volumes import volume_agreement
from mbh_jax.labels import CLASS_NAMES, FOREGROUND
from mbh_jax.reporting import curves

Rows = Sequence[Mapping[str, Any]]

COLOURS = curves.LINE_COLOURS | {"any": "#555b66"}
MARKERS = dict(zip((*(CLASS_NAMES[c] for c in FOREGROUND), "any"), "os^Dv*", strict=True))

SMALL_ML = 0.1
"""Below this the axes of volumes are linear, so that zero has a place on them."""

_SIZE_INCH = (5.6, 3.7)
_CURVES_INCH = (5.6, 4.6)

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


def _svg(
    draw: Callable[[Axes], None],
    title: str,
    description: str,
    size_inch: tuple[float, float] = _SIZE_INCH,
) -> str:
    """A figure as SVG that scales with the page; it is the same whatever matplotlibrc says."""
    with style.context("default"), rc_context(_STYLE):
        figure = Figure(size_inch, layout="constrained")
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
    svg = svg.replace("<svg ", f'<svg role="img" aria-labelledby="{prefix}-t {prefix}-d" ', 1)
    end = svg.index(">") + 1
    texts = (
        f'<title id="{prefix}-t">{html.escape(title)}</title>'
        f'<desc id="{prefix}-d">{html.escape(description)}</desc>'
    )
    return svg[:end] + texts + svg[end:]


def _note(axes: Axes, text: str) -> None:
    """A text in the middle of axes that have nothing else to show."""
    axes.annotate(text, (0.5, 0.5), xycoords="axes fraction", ha="center", color="#555b66")
    axes.set_xticks([])
    axes.set_yticks([])


def dice_by_case(rows: Rows) -> str:
    """Dice of each case and class as a strip of points, with the mean and its number of cases."""
    of_class = {}
    for name in MARKERS:
        dice = np.array([row["dice"] for row in rows if row["class"] == name], np.float64)
        of_class[name] = np.sort(dice[np.isfinite(dice)])

    def draw(axes: Axes) -> None:
        for place, (name, known) in enumerate(of_class.items()):
            aside = (np.arange(len(known)) * 0.61803 % 1 - 0.5) * 0.5
            axes.plot(
                place + aside, known, MARKERS[name], color=COLOURS[name], alpha=0.6, markersize=5
            )
            if len(known):
                axes.plot([place - 0.33, place + 0.33], [known.mean()] * 2, "k-", linewidth=1.5)
            number = f"n = {len(known)}" if len(known) else "absent"
            axes.annotate(number, (place, 1.04), ha="center", fontsize=9, color="#555b66")
        axes.set_xticks(range(len(MARKERS)), list(MARKERS))
        axes.set_xlim(-0.5, len(MARKERS) - 0.5)
        axes.set_ylim(-0.04, 1.12)
        axes.set_ylabel("Dice of a case")
        axes.grid(visible=False, axis="x")

    means = [
        f"{name} {known.mean():.3f} (n = {len(known)})" if len(known) else f"{name} absent"
        for name, known in of_class.items()
    ]
    description = f"A point for each case in a column for each class. Means: {', '.join(means)}."
    return _svg(draw, "Dice of each case by class", description)


def volumes(rows: Rows) -> str:
    """Predicted against true millilitres of each case and class, and the line where they agree."""
    known = [row for row in rows if row["class"] != "any" and np.isfinite(row["ref_ml"])]

    def draw(axes: Axes) -> None:
        largest = max((max(row["ref_ml"], row["pred_ml"]) for row in known), default=1) * 1.5 + 1
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
            axes.plot([0, largest], [0, largest], color="#8a8f98", linewidth=1, zorder=1)
            axes.legend(frameon=False, fontsize=9)
        else:
            _note(axes, "no volumes" if known else "unknown: the masks have no spacing")

    number = sum(row["ref_ml"] + row["pred_ml"] > 0 for row in known)
    description = (
        f"{number} points, one for each case and class: true mL along x, predicted mL along y. "
        "Points on the line agree, those above it are predicted too large."
    )
    return _svg(draw, "Predicted against true volume", description)


def agreement(rows: Rows) -> str:
    """Bland and Altman's plot of all blood: error against the mean of both volumes."""
    pairs = [
        (row["ref_ml"], row["pred_ml"])
        for row in rows
        if row["class"] == "any" and row["ref_ml"] + row["pred_ml"] > 0
    ]
    without = "no volumes"
    if any(np.isnan(row["ref_ml"]) for row in rows):
        without = "unknown: the masks have no spacing"
    true, predicted = np.array(pairs, np.float64).reshape(-1, 2).T
    found = volume_agreement(predicted, true)
    lines = [
        (text, value, line)
        for text, value, line in (
            ("bias", found.bias_ml, "-"),
            ("upper limit", found.upper_ml, "--"),
            ("lower limit", found.lower_ml, "--"),
        )
        if np.isfinite(value)
    ]

    def draw(axes: Axes) -> None:
        axes.set_xlabel("mean of true and predicted mL, all blood")
        axes.set_ylabel("predicted minus true mL")
        if not pairs:
            _note(axes, without)
        axes.plot(
            (true + predicted) / 2, predicted - true, "o", color=COLOURS["any"], alpha=0.7,
            markersize=5,
        )  # fmt: skip
        for text, value, line in lines:
            axes.axhline(value, color="#8a8f98", linestyle=line, linewidth=1)
            axes.annotate(
                f"{text} {value:+.1f}", (0.99, value), xycoords=("axes fraction", "data"),
                ha="right", va="bottom", fontsize=9,
            )  # fmt: skip

    said = ", ".join(f"{text} {value:+.1f} mL" for text, value, _ in lines)
    description = f"A point for each of {len(pairs)} cases. {said[:1].upper()}{said[1:]}."
    if not pairs:
        description = f"{without.capitalize()}."
    return _svg(draw, "Error of the volume of all blood", description)


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

    is_known = sum(total) or not any(one["found"] + one["missed"] for one in block.values())

    def draw(axes: Axes) -> None:
        share = [f / t if t else 0 for f, t in zip(found, total, strict=True)]
        axes.bar(range(len(sizes)), share, color="#4c78a8", width=0.6)
        for place, (f, t, height) in enumerate(zip(found, total, share, strict=True)):
            text = f"{f} of {t}" if t else ("none" if is_known else "unknown")
            axes.annotate(text, (place, height + 0.03), ha="center", fontsize=10)
        axes.set_xticks(range(len(sizes)), sizes)
        axes.set_ylim(0, 1.15)
        axes.set_ylabel("share of lesions found")
        axes.set_xlabel("size of the lesion")
        axes.grid(visible=False, axis="x")

    said = [f"{size}: {f} of {t}" for size, f, t in zip(sizes, found, total, strict=True)]
    description = f"Lesions of the reference that were found. {', '.join(said)}."
    if not is_known:
        description = "The sizes of the lesions are not known, since the masks have no spacing."
    return _svg(draw, "Lesions found by size", description)


def calibration(block: Mapping[str, Any]) -> str:
    """How often predictions are right against how sure they are, bin by bin.

    Args:
        block: "calibration" of a summary.
    """
    lines = []
    for name, text, style_of in (
        ("foreground", "truth or prediction has blood", "o-"),
        ("whole", "whole scans", "s--"),
    ):
        voxels, confidence, correct = (
            np.array(block[name][key], np.float64) for key in ("voxels", "confidence", "correct")
        )
        used = voxels > 0
        label = f"{text}: ECE {block[name]['ece']:.3f}" if used.any() else f"{text}: absent"
        lines.append(
            (confidence[used] / voxels[used], correct[used] / voxels[used], style_of, label)
        )

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color="#8a8f98", linewidth=1)
        for sure, right, style_of, label in lines:
            axes.plot(sure, right, style_of, label=label, markersize=4, linewidth=1.2)
        axes.set_xlabel("probability given to the predicted class, mean of a bin")
        axes.set_ylabel("share of voxels that are right")
        axes.legend(frameon=False, fontsize=9)

    said = ". ".join(label for *_, label in lines)
    description = f"Of {block['num_cases']} cases with probabilities. {said}."
    return _svg(draw, "Calibration of the probabilities", description)


def training(history: curves.History) -> list[tuple[str, str]]:
    """The curves of a training with at least one epoch: titles and SVGs."""
    best = curves.best_epoch(history)
    said = f"Over {len(history)} epochs. "
    if best is not None:
        said += f"The validation loss is lowest in epoch {best}."
    found = []
    for title, draw in (
        ("Loss in training", curves.draw_loss),
        ("Dice of blood in training", curves.draw_foreground_dice),
        ("Validation Dice by class in training", curves.draw_class_dice),
    ):

        def without_title(axes: Axes, draw: Callable[..., None] = draw) -> None:
            draw(axes, history)
            axes.set_title("", loc="left")

        found.append((title, _svg(without_title, title, said, _CURVES_INCH)))
    return found
