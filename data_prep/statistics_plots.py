"""The pictures of `data_prep.statistics`."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from data_prep import dataset
from data_prep.measurements import BLOOD, HU_BINS, NUM_HEIGHTS, VolumeRow
from mbh_jax.data.index import SPLIT_NAMES, SliceIndex
from mbh_jax.imageio.volume import voxel_volume_ml
from mbh_jax.labels import CLASS_NAMES, FOREGROUND, LABELS
from mbh_jax.reporting.curves import LINE_COLOURS
from mbh_jax.reporting.overlays import overlay

_SPLIT_COLOURS = ("#4c78a8", "#72b7b2", "#d1495b")
_BRAIN_COLOUR = "#8a8f98"
_BAR_COLOUR = "#4c78a8"
_DARK, _LIGHT = "#101114", "#ebebeb"
_SHOWN_HU = (-20, 120)
_MONTAGE_COLUMNS = 4
_MARKS_ML = (30, 60)
"""Volumes that clinicians decide by."""


def png(figure: Figure) -> bytes:
    """A figure as PNG."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110, facecolor=figure.get_facecolor())
    return data.getvalue()


def _ml_text(ml: float) -> str:
    """Two digits, and all before the point."""
    return f"{ml:.0f}" if ml >= 10 else f"{ml:.2g}"


def _finish(axes: Axes, title: str, xlabel: str, ylabel: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def classes_figure(counts: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Slices and volumes that hold each kind of blood, by split.

    Args:
        counts: of `data_prep.measurements.split_counts`.
    """
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    for axes, unit in zip(figure.subplots(1, 2), ("slices", "volumes"), strict=True):
        names = (*BLOOD, "any blood", "none")
        for number, split in enumerate(SPLIT_NAMES):
            of_split = counts[split]
            bleeding = of_split[f"{unit}_with_blood"]
            heights = [
                *of_split[f"{unit}_with"].values(),
                bleeding,
                of_split[unit] - bleeding,
            ]
            bars = axes.bar(
                np.arange(len(names)) + 0.27 * (number - 1),
                heights,
                width=0.25,
                color=_SPLIT_COLOURS[number],
                label=f"{split} ({of_split[unit]})",
            )
            axes.bar_label(bars, fontsize=7, color="#4d5157", padding=1)
        axes.set_xticks(range(len(names)), names)
        axes.axvline(len(BLOOD) - 0.5, color="#cccccc", linewidth=1)
        # Below the axes, so that no bar runs behind it.
        axes.legend(
            frameon=False, fontsize=9, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.07)
        )
        _finish(axes, f"{unit.capitalize()} with each kind of blood", "", unit)
    return figure


def blood_figure(rows: Sequence[VolumeRow]) -> Figure:
    """Volume of each kind of blood in mL: a dot a scan on a logarithmic axis, and the median."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    axes.set_yscale("log")
    names = (*BLOOD, "blood")
    ticks = []
    for position, name in enumerate(names):
        ml = np.array([row[f"ml_{name}"] for row in rows])
        ml = np.sort(ml[ml > 0])
        colour = LINE_COLOURS.get(name, "#4d5157")
        # Neighbours in size get places that lie far apart: multiples of the golden ratio.
        offset = (np.arange(len(ml)) * 0.618034) % 1 - 0.5
        axes.scatter(position + 0.5 * offset, ml, s=20, color=colour, alpha=0.6, linewidths=0)
        tick = "all blood" if name == "blood" else name
        if len(ml):
            median = float(np.median(ml))
            axes.hlines(median, position - 0.36, position + 0.36, color=colour, linewidth=2.4)
            axes.annotate(
                _ml_text(median),
                (position + 0.38, median),
                va="center",
                fontsize=9,
                color=colour,
                fontweight="bold",
            )
        ticks.append(f"{tick}\n{len(ml)} scans")
    for mark in _MARKS_ML:
        axes.axhline(mark, color="#333333", linewidth=0.9, linestyle=":", zorder=1)
        axes.annotate(f"{mark} mL", (-0.62, mark), va="bottom", fontsize=8, color="#333333")
    axes.set_xlim(-0.65, len(names) - 0.3)
    axes.set_xticks(range(len(names)), ticks)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    _finish(axes, "Volume of blood, where there is any (bar: median)", "", "mL")
    return figure


def hu_figure(histograms: Mapping[str, np.ndarray]) -> Figure:
    """Density of the HU of each kind of blood, and of brain without it.

    Args:
        histograms: of `data_prep.measurements.hu_histograms`.
    """
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    shown = np.searchsorted(HU_BINS, np.arange(_SHOWN_HU[0], _SHOWN_HU[1] + 1))
    for name, histogram in histograms.items():
        if not histogram.sum():
            continue
        share = 100 * histogram / histogram.sum()
        median = HU_BINS[np.searchsorted(np.cumsum(histogram), histogram.sum() / 2)]
        label = f"{name}, median {median} HU"
        if name == "brain":
            axes.fill_between(
                HU_BINS[shown], share[shown], color=_BRAIN_COLOUR, alpha=0.25, linewidth=0
            )
            axes.plot(HU_BINS[shown], share[shown], color=_BRAIN_COLOUR, label=label)
        else:
            axes.plot(
                HU_BINS[shown], share[shown], color=LINE_COLOURS[name], linewidth=1.8, label=label
            )
    axes.set_xlim(*_SHOWN_HU)
    axes.set_ylim(0)
    if axes.lines:
        axes.legend(frameon=False, fontsize=9)
    _finish(axes, "Density of blood and of brain", "HU", "% of the voxels per HU")
    return figure


def heights_figure(shares: np.ndarray) -> Figure:
    """Share of the slices at each height of a scan that hold each kind of blood.

    Args:
        shares: of `data_prep.measurements.height_shares`.
    """
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    axes = figure.subplots()
    height = 100 * (np.arange(NUM_HEIGHTS) + 0.5) / NUM_HEIGHTS
    for name, share in zip(BLOOD, 100 * shares, strict=True):
        known = ~np.isnan(share)
        axes.plot(height[known], share[known], color=LINE_COLOURS[name], linewidth=1.8, label=name)
    axes.set_xlim(0, 100)
    axes.set_ylim(0)
    # Below the axes, so that no curve runs behind it.
    axes.legend(frameon=False, fontsize=9, ncols=5, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    _finish(
        axes,
        "Where in a scan each kind of blood lies",
        "height in the scan, % of its slices from inferior to superior",
        "% of the slices at that height",
    )
    return figure


def geometry_figure(rows: Sequence[VolumeRow]) -> Figure:
    """Histograms of spacing, slices, coverage and tilt, volumes on the vertical axis."""
    figure = Figure(figsize=(12, 6), layout="constrained")
    panels = (
        ("spacing_column_mm", "Spacing in plane", "mm"),
        ("spacing_slice_mm", "Spacing between slices", "mm"),
        ("slices", "Slices", "slices of a volume"),
        ("coverage_mm", "Coverage at right angles to the slices", "mm"),
        ("tilt_deg", "Tilt of the slices", "degrees"),
        ("voxel_ul", "Volume of a voxel", "µL"),
    )
    for axes, (key, title, unit) in zip(figure.subplots(2, 3).flat, panels, strict=True):
        values = np.array([row[key] for row in rows], np.float64)
        known = values[~np.isnan(values)]
        bins = np.arange(known.min(), known.max() + 2) - 0.5 if key == "slices" else 24
        axes.hist(known, bins=bins, color=_BAR_COLOUR, edgecolor="white")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=key == "slices"))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        _finish(axes, title, unit, "volumes")
    return figure


def montage_figure(index: SliceIndex) -> Figure:
    """Large, middling and small examples of each kind of blood, in the class colours.

    The dataset must hold blood.
    """
    columns = _MONTAGE_COLUMNS
    shown = {value: montage_examples(index, value, columns) for value in FOREGROUND}
    shown = {value: examples for value, examples in shown.items() if examples}
    figure = Figure(figsize=(2.6 * columns, 2.75 * len(shown)), layout="constrained")
    figure.set_facecolor(_DARK)
    grid = figure.subplots(len(shown), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes_row, (value, examples) in zip(grid, shown.items(), strict=True):
        for axes, example in zip(axes_row, examples, strict=False):
            record = dataset.read_record(index, example)
            info = index.volumes[index.volume[example]]
            spacing_column_mm, spacing_row_mm, _ = info.spacing_mm
            axes.imshow(
                overlay(record["image"], record["label"], alpha=0.25),
                aspect=spacing_row_mm / spacing_column_mm,
                interpolation="antialiased",
            )
            pixels = index.pixels_per_class[index.volume == index.volume[example], value].sum()
            size = f"{pixels} px"
            if info.spacing_known:
                size = f"{_ml_text(pixels * voxel_volume_ml(info.affine))} mL"
            axes.set_title(
                f"{CLASS_NAMES[value]} {size}",
                color=0.4 + 0.6 * np.array(LABELS[value].rgb) / 255,
                fontsize=9,
                pad=3,
            )
            axes.text(
                0.5,
                -0.035,
                f"{info.volume_id}, slice {index.slice_index[example]}",
                transform=axes.transAxes,
                ha="center",
                fontsize=6,
                color=_LIGHT,
            )
    return figure


def montage_examples(index: SliceIndex, value: int, number: int) -> list[int]:
    """The slice with most of a class in each of `number` scans, largest to smallest bleed."""
    pixels = index.pixels_per_class[:, value]
    voxel_ml = [voxel_volume_ml(info.affine) for info in index.volumes]
    ml = np.bincount(index.volume, pixels, minlength=len(index.volumes)) * voxel_ml
    by_size = np.argsort(-ml, kind="stable")[: np.count_nonzero(ml)]
    ranks = np.unique(np.linspace(0, max(len(by_size) - 1, 0), number).astype(int))
    return [
        int(np.flatnonzero(index.volume == volume)[np.argmax(pixels[index.volume == volume])])
        for volume in by_size[ranks[: len(by_size)]]
    ]
