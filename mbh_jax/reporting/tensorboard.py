"""TensorBoard event files, written without TensorFlow."""

import time
from collections.abc import Mapping

import numpy as np
from etils import epath

# `tensorboard.summary.writer.event_file_writer` would import TensorFlow wherever it is installed:
# seconds of start-up, and a second owner of the GPU. Records and protos come without it.
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from mbh_jax import files


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
