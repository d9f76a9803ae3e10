"""The curves of a run as PNG: losses, and Dice with the foreground in front."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mbh_jax import files
from mbh_jax.labels import CLASS_NAMES, FOREGROUND

History = Sequence[Mapping[str, Any]]

_TRAIN, _VALIDATION, _COMPARISON = "#4c78a8", "#d1495b", "#8a8f98"

LINE_COLOURS = {
    "EDH": "#d62728",
    "IPH": "#1f4fd6",
    "IVH": "#c9a400",
    "SAH": "#00a5b5",
    "SDH": "#2ca02c",
}
"""The class colours, darkened to where they show on white."""

_LOG_SCALE_FROM = 20.0
"""Ratio of largest to smallest loss from which the loss axis is logarithmic."""


def _column(history: History, name: str) -> np.ndarray:
    """A value of each epoch as float64; None is NaN."""
    return np.array([np.nan if row[name] is None else row[name] for row in history], np.float64)


def learning_rate_drops(history: History) -> list[int]:
    """Epochs that began with a lower learning rate after epochs of an equal one.

    A rate that a schedule lowers a little every epoch has none; the plateau rule's halvings are.
    """
    rate = _column(history, "learning_rate")
    return [
        int(history[i]["epoch"])
        for i in range(2, len(rate))
        if rate[i] < 0.9 * rate[i - 1] and rate[i - 1] == rate[i - 2]
    ]


def best_epoch(history: History) -> int | None:
    """The epoch with the lowest finite validation loss, or None."""
    loss = _column(history, "val_loss")
    if not np.isfinite(loss).any():
        return None
    return int(history[int(np.nanargmin(loss))]["epoch"])


def _line(axes: Axes, history: History, name: str, label: str, **style: Any) -> None:
    """A curve over epochs, with dots while there are few of them."""
    if len(history) <= 30:
        style = {"marker": "o", "markersize": 3.5} | style
    axes.plot(_column(history, "epoch"), _column(history, name), label=label, **style)


def _mark_epochs(axes: Axes, history: History) -> None:
    """Vertical lines: the best epoch, solid, and drops of the learning rate, dotted."""
    best = best_epoch(history)
    if best is not None:
        axes.axvline(
            best, color="#333333", linewidth=1, zorder=1, label=f"best epoch ({best}, val. loss)"
        )
    for i, epoch in enumerate(learning_rate_drops(history)):
        # The rate in force during `epoch` was set at the end of the epoch before.
        axes.axvline(
            epoch - 0.5,
            color="#999999",
            linewidth=1,
            linestyle=":",
            zorder=1,
            label="learning rate lowered" if i == 0 else None,
        )


def _finish(axes: Axes, history: History, title: str, ylabel: str) -> None:
    epochs = _column(history, "epoch")
    axes.set_xlim(epochs[0] - 0.5, max(epochs[-1], epochs[0] + 1) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel("epoch")
    axes.set_ylabel(ylabel)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    # Below the axes, so that no curve runs behind it.
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.15),
        ncols=2,
        frameon=False,
        fontsize=9,
    )


def _png(figure: Figure) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    return data.getvalue()


def draw_loss(axes: Axes, history: History) -> None:
    """Draws training and validation loss over epochs."""
    _line(axes, history, "loss", "training", color=_TRAIN, linewidth=1.6)
    _line(axes, history, "val_loss", "validation", color=_VALIDATION, linewidth=2.2)
    _mark_epochs(axes, history)
    losses = np.concatenate([_column(history, name) for name in ("loss", "val_loss")])
    losses = losses[np.isfinite(losses)]
    if len(losses) and losses.min() > 0 and losses.max() > _LOG_SCALE_FROM * losses.min():
        axes.set_yscale("log")
    _finish(axes, history, "Loss", "loss")


def draw_foreground_dice(axes: Axes, history: History) -> None:
    """Draws the foreground Dice, with dice_coef_multiclass dashed beside it."""
    dashed = {"color": _COMPARISON, "linestyle": "--", "linewidth": 1.1, "markersize": 2}
    counts_background = "dice_coef_multiclass (counts background)"
    _line(axes, history, "foreground_dice", "foreground, training", color=_TRAIN, linewidth=1.8)
    _line(
        axes,
        history,
        "val_foreground_dice",
        "foreground, validation",
        color=_VALIDATION,
        linewidth=2.6,
    )
    _mark_epochs(axes, history)
    _line(axes, history, "dice_coef_multiclass", f"{counts_background}, training", **dashed)
    _line(
        axes,
        history,
        "val_dice_coef_multiclass",
        f"{counts_background}, validation",
        **dashed | {"color": "#4d5157"},
    )
    axes.set_ylim(0, 1.02)
    _finish(axes, history, "Dice of blood (pooled voxels, mean of the five classes)", "Dice")


def draw_class_dice(axes: Axes, history: History) -> None:
    """Draws the validation Dice of each class, and their mean."""
    for c in FOREGROUND:
        name = CLASS_NAMES[c]
        _line(axes, history, f"val_dice_{name}", name, color=LINE_COLOURS[name], linewidth=1.5)
    _line(axes, history, "val_foreground_dice", "mean", color=_VALIDATION, linewidth=2.6)
    _mark_epochs(axes, history)
    _finish(axes, history, "Validation Dice by class (pooled voxels)", "")


def loss_figure(history: History) -> Figure:
    """The losses as a figure."""
    figure = Figure(figsize=(8, 5.2), layout="constrained")
    draw_loss(figure.add_subplot(), history)
    return figure


def metric_figure(history: History) -> Figure:
    """The foreground Dice, and the validation Dice by class, side by side."""
    figure = Figure(figsize=(13, 5.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    draw_foreground_dice(left, history)
    draw_class_dice(right, history)
    return figure


def write_plots(workdir: epath.PathLike, history: History) -> None:
    """Writes train_losses.png and train_metrics.png of a history with at least one epoch.

    They are drawn in matplotlib's default style, whatever the user's matplotlibrc asks for.
    """
    workdir = epath.Path(workdir)
    with style.context("default"):
        for name, draw in (("train_losses", loss_figure), ("train_metrics", metric_figure)):
            files.atomic_write_bytes(workdir / f"{name}.png", _png(draw(history)))
