"""What a training run leaves in its workdir for people, epoch by epoch."""

import time

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from mbh_jax.reporting import curves, writers
from mbh_jax.runtime import distributed

TENSORBOARD_DIR = "tensorboard"

PLOT_INTERVAL_S = 20.0
"""Least time between two drawings of the curves; the last is drawn when the run ends."""


class RunFiles:
    """Configuration, history, curves and TensorBoard events; use it in a `with` statement.

    Only process 0 writes.

    Args:
        workdir: the run's folder.
        config: the run's configuration.
        step: steps taken before, in a run that continues.
    """

    def __init__(self, workdir: epath.Path, config: ConfigDict, step: int):
        self._workdir = workdir
        self._history: writers.History = []
        self._plotted_s = 0.0
        self._events: writers.TensorBoardWriter | None = None
        if distributed.is_primary():
            writers.write_config(workdir, config)
            self._events = writers.TensorBoardWriter(workdir / TENSORBOARD_DIR, step)

    def __enter__(self) -> "RunFiles":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._events is not None:
            self._events.close()
            if self._history:
                curves.write_plots(self._workdir, self._history)

    def write_epoch(self, history: writers.History, picture: np.ndarray | None) -> None:
        """Writes what an epoch added.

        Args:
            history: a dict an epoch, this one's last.
            picture: (H,W,3) uint8, the montage of predictions, or None.
        """
        if self._events is None:
            return
        self._history = history
        writers.write_history(self._workdir, history)
        entry = history[-1]
        scalars = {name: value for name, value in entry.items() if name not in ("epoch", "step")}
        self._events.scalars(entry["step"], scalars)
        if picture is not None:
            self._events.image(entry["step"], "validation slices: truth and prediction", picture)
        if time.monotonic() - self._plotted_s > PLOT_INTERVAL_S:
            curves.write_plots(self._workdir, history)
            self._plotted_s = time.monotonic()
