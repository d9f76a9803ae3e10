"""TensorBoard event files, written without TensorFlow."""

import re
import time
from collections.abc import Iterable, Mapping

import numpy as np
from etils import epath

# `tensorboard.summary.writer.event_file_writer` would import TensorFlow wherever it is installed:
# seconds of start-up, and a second owner of the GPU. Records and protos come without it.
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from mbh_jax import files

_NAME = re.compile(r"events\.out\.tfevents\.(\d+)\.(\d+)")
"""The time in an event file's name: seconds, and nanoseconds."""


def _next_name(names: Iterable[str]) -> str:
    """The name of a new event file beside others: of this moment, but after the newest of them.

    TensorBoard reads the files of a folder in the order of their names. Without the second rule, a
    host whose clock was set back would begin a file that is read before those it continues.
    """
    found = [(int(match[1]), int(match[2])) for match in map(_NAME.match, names) if match]
    seconds, nanoseconds = max(found, default=(0, 0))
    # Nanoseconds keep names apart when a run is started again within a second.
    later = max(time.time_ns(), seconds * 10**9 + nanoseconds + 1)
    return "events.out.tfevents.{:010d}.{:09d}.mbh_jax".format(*divmod(later, 10**9))


class TensorBoardWriter:
    """Writes scalars and images to a new event file.

    TensorBoard joins the event files of a folder. Each begins with the order to forget what earlier
    files hold of steps after `steps_taken`, so nothing shows twice after a run was killed.

    Args:
        directory: folder of the event files.
        steps_taken: training steps taken when writing begins; 0 for a new run.
    """

    def __init__(self, directory: epath.PathLike, steps_taken: int = 0):
        directory = epath.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / _next_name([path.name for path in directory.iterdir()])
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
