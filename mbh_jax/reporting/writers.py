"""The files of a training run: configuration, history, curves and TensorBoard events.

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

# `tensorboard.summary.writer.event_file_writer` would import TensorFlow wherever it is installed,
# seconds of start-up and a second owner of the GPU; records and protos come without it.
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from mbh_jax import files
from mbh_jax.labels import CLASS_NAMES, FOREGROUND

History = Sequence[Mapping[str, Any]]

LOSS_COLUMNS = ("epoch", "loss", "val_loss")
METRIC_COLUMNS = (
    "epoch",
    "dice_coef_multiclass",
    "val_dice_coef_multiclass",
    "foreground_dice",
    "val_foreground_dice",
    *(f"val_dice_{CLASS_NAMES[c]}" for c in FOREGROUND),
)


def write_config(workdir: epath.PathLike, config: ConfigDict) -> None:
    """Writes config.json, the whole configuration."""
    files.write_json(epath.Path(workdir) / "config.json", config.to_dict())


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
    files.write_json(workdir / "history.json", history)


class TensorBoardWriter:
    """Appends scalars and images to an event file of its own.

    TensorBoard joins the event files of a folder. Each begins with the order to forget what earlier
    files say of steps after `steps_taken`, so nothing shows twice after a run was killed.

    Args:
        directory: folder of the event files.
        steps_taken: training steps taken when writing begins; 0 for a new run.
    """

    def __init__(self, directory: epath.PathLike, steps_taken: int = 0):
        directory = epath.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        # Nanoseconds keep the name unique and in order when a run is restarted within a second.
        seconds, nanoseconds = divmod(time.time_ns(), 10**9)
        path = directory / f"events.out.tfevents.{seconds:010d}.{nanoseconds:09d}.mbh_jax"
        self._records = RecordWriter(path.open("wb"))
        self._write(event_pb2.Event(file_version="brain.Event:2"))
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(event_pb2.Event(step=steps_taken + 1, session_log=start))

    def _write(self, event: event_pb2.Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
        self._records.flush()

    def scalars(self, step: int, values: Mapping[str, float | None]) -> None:
        """Writes `{tag: value}` at `step`; values that are None or NaN are left out."""
        summary = summary_pb2.Summary(
            value=[
                summary_pb2.Summary.Value(tag=tag, simple_value=float(value))
                for tag, value in values.items()
                if value is not None and not np.isnan(value)
            ]
        )
        self._write(event_pb2.Event(step=step, summary=summary))

    def image(self, step: int, tag: str, rgb: np.ndarray) -> None:
        """Writes a picture (H,W,3) uint8 at `step`."""
        height, width, channels = rgb.shape
        picture = summary_pb2.Summary.Image(
            height=height,
            width=width,
            colorspace=channels,
            encoded_image_string=files.png_bytes(rgb),
        )
        summary = summary_pb2.Summary(value=[summary_pb2.Summary.Value(tag=tag, image=picture)])
        self._write(event_pb2.Event(step=step, summary=summary))

    def close(self) -> None:
        """Closes the event file."""
        self._records.close()

    def __enter__(self) -> "TensorBoardWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
