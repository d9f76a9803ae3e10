"""What a training run leaves in its workdir for people, epoch by epoch.

The history is a list with one dict an epoch. Its files are rewritten from the whole list, each at
once, so a resumed run neither loses nor doubles an epoch. The CSVs hold nothing that two runs of
the same configuration differ in; times go to history.json and TensorBoard.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from mbh_jax import files
from mbh_jax.labels import CLASS_NAMES, FOREGROUND
from mbh_jax.reporting import curves
from mbh_jax.reporting.tensorboard import TensorBoardWriter

History = Sequence[Mapping[str, Any]]

CONFIG_FILE = "config.json"
HISTORY_FILE = "history.json"
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
    files.write_json(workdir / HISTORY_FILE, history)


class RunFiles:
    """Configuration, history, curves and TensorBoard events; use it in a `with` statement.

    Args:
        workdir: the run's folder.
        config: the run's configuration.
        step: steps taken before, in a run that continues.
        enabled: whether this process writes.
    """

    def __init__(self, workdir: epath.Path, config: ConfigDict, step: int, *, enabled: bool):
        self._workdir = workdir
        self._history: History = []
        self._plotted_s = 0.0
        self._events: TensorBoardWriter | None = None
        if enabled:
            files.write_json(workdir / CONFIG_FILE, config.to_dict())
            self._events = TensorBoardWriter(workdir / TENSORBOARD_DIR, step)

    def __enter__(self) -> "RunFiles":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._events is not None:
            self._events.close()
            if self._history:
                curves.write_plots(self._workdir, self._history)

    def write_epoch(self, history: History, picture: np.ndarray | None) -> None:
        """Writes what an epoch added.

        Args:
            history: a dict an epoch, this one's last.
            picture: (H,W,3) uint8, the montage of predictions, or None.
        """
        if self._events is None:
            return
        self._history = history
        write_history(self._workdir, history)
        entry = history[-1]
        scalars = {name: value for name, value in entry.items() if name not in ("epoch", "step")}
        self._events.scalars(entry["step"], scalars)
        if picture is not None:
            self._events.image(entry["step"], "validation slices: truth and prediction", picture)
        if time.monotonic() - self._plotted_s > PLOT_INTERVAL_S:
            curves.write_plots(self._workdir, history)
            self._plotted_s = time.monotonic()
