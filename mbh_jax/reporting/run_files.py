"""What a training run writes into its workdir for people to look at, epoch by epoch.

The history is a list with one dict an epoch. Each of its files is rewritten from the whole list, in
one step, so a resumed run neither loses nor doubles an epoch. The CSVs hold nothing that two runs
of the same configuration differ in; times go to history.json and TensorBoard.
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from mbh_jax import files
from mbh_jax.labels import CLASS_NAMES, FOREGROUND
from mbh_jax.log import log, only_warn
from mbh_jax.reporting import curves
from mbh_jax.reporting.tensorboard import TensorBoardWriter

History = Sequence[Mapping[str, Any]]

TENSORBOARD_DIR = "tensorboard"

PLOT_INTERVAL_S = 20.0
"""Least time between two drawings of the curves; the last is drawn when the run ends."""

LOSS_COLUMNS = ("epoch", "loss", "val_loss")
METRIC_COLUMNS = (
    "epoch",
    "dice_coef_multiclass",
    "val_dice_coef_multiclass",
    "foreground_dice",
    "val_foreground_dice",
    *(f"val_dice_{CLASS_NAMES[c]}" for c in FOREGROUND),
)


def write_history(workdir: epath.PathLike, history: History) -> None:
    """Writes train_losses.csv, train_metrics.csv and history.json.

    Args:
        workdir: the run's folder.
        history: a dict an epoch, with at least `LOSS_COLUMNS` and `METRIC_COLUMNS`; NaN or None is
            a value that does not exist (a class that validation lacks). history.json keeps every
            key.
    """
    workdir = epath.Path(workdir)
    files.write_csv(workdir / "train_losses.csv", LOSS_COLUMNS, history)
    files.write_csv(workdir / "train_metrics.csv", METRIC_COLUMNS, history)
    files.write_json(workdir / files.HISTORY_FILE, history)


def read_history(workdir: epath.Path) -> list[dict[str, Any]]:
    """The history of a run; empty where there is none, as with imported weights.

    A history that is damaged is a warning: nothing but the curves is lost with it.
    """
    path = workdir / files.HISTORY_FILE
    if not path.is_file():
        return []
    try:
        history = json.loads(path.read_text())
        columns = {*LOSS_COLUMNS, *METRIC_COLUMNS, "learning_rate"}
        if not all(columns <= entry.keys() for entry in history):
            raise ValueError("an epoch lacks a value")
    except (ValueError, TypeError, AttributeError) as error:
        log.warning("warning: %s: damaged (%s): the report has no training curves", path, error)
        return []
    return history


class RunFiles:
    """Configuration, history, curves and TensorBoard events; use it in a `with` statement.

    Curves or events that cannot be written are a warning; of events, nothing more is written then,
    since TensorBoard reads a file up to what is damaged in it.

    Args:
        workdir: the run's folder.
        config: the run's configuration.
        steps_kept: training steps whose events stay, in a run that continues; those of later steps
            are to be written again.
        enabled: whether this process writes.

    Raises:
        OSError: configuration or history cannot be written.
    """

    def __init__(self, workdir: epath.Path, config: ConfigDict, steps_kept: int, *, enabled: bool):
        self._workdir = workdir
        self._enabled = enabled
        self._history: History = []
        self._plotted_s = -math.inf
        self._events: TensorBoardWriter | None = None
        if enabled:
            files.write_json(workdir / files.CONFIG_FILE, config.to_dict())
            with only_warn("TensorBoard's events"):
                self._events = TensorBoardWriter(workdir / TENSORBOARD_DIR, steps_kept)

    def __enter__(self) -> "RunFiles":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._events is not None:
            with only_warn("TensorBoard's events"):
                self._events.close()
        self._write_plots()

    def write_epoch(self, history: History, picture: np.ndarray | None) -> None:
        """Writes what an epoch added.

        Args:
            history: a dict an epoch, this one's last.
            picture: (H,W,3) uint8, the montage of predictions, or None.
        """
        if not self._enabled:
            return
        self._history = history
        write_history(self._workdir, history)
        self._write_events(history[-1], picture)
        if time.monotonic() - self._plotted_s > PLOT_INTERVAL_S:
            self._write_plots()
            self._plotted_s = time.monotonic()

    def _write_events(self, entry: Mapping[str, Any], picture: np.ndarray | None) -> None:
        # Kept only if all of it could be written.
        events, self._events = self._events, None
        if events is None:
            return
        scalars = {name: value for name, value in entry.items() if name not in ("epoch", "step")}
        with only_warn("TensorBoard's events"):
            events.scalars(entry["step"], scalars)
            if picture is not None:
                events.image(entry["step"], "validation slices: truth and prediction", picture)
            self._events = events

    def _write_plots(self) -> None:
        if self._history:
            with only_warn("the curves"):
                curves.write_plots(self._workdir, self._history)
