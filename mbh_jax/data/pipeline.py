"""tf.data from the records to batches of NumPy arrays; beside `records` all that needs TensorFlow.

Batch k of an epoch is made of `order[k * global_batch : (k + 1) * global_batch]`. Records are read
one by one at their offsets, so that any batch of any epoch can be reached at once, and a host reads
only its own part. `mbh_jax.data.batch` says what a batch holds.
"""

import os
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from etils import epath

from mbh_jax.data import neighbours, records
from mbh_jax.data.batch import Batch, make_batch
from mbh_jax.data.index import SliceIndex
from mbh_jax.data.neighbours import Neighbours
from mbh_jax.data.order import host_examples
from mbh_jax.errors import UserError

_PREFETCHED_BATCHES = 4
_MAX_READERS = 16
_DECODING_ERRORS = (tf.errors.OpError, ValueError)
"""TensorFlow's message on a damaged record quotes its bytes, which may not even be text."""


def hide_accelerators_from_tensorflow() -> None:
    """Keeps TensorFlow from taking the memory of GPUs and TPUs; call before any other use of it."""
    tf.config.set_visible_devices([], "GPU")
    tf.config.set_visible_devices([], "TPU")


# At import, before anything can have started TensorFlow's devices.
hide_accelerators_from_tensorflow()


def batches(
    index: SliceIndex,
    order: np.ndarray,
    *,
    global_batch: int,
    start_batch: int = 0,
    host: int = 0,
    num_hosts: int = 1,
    beside: Neighbours | None = None,
    resize_to: tuple[int, int] | None = None,
) -> Iterator[Batch]:
    """This host's share of the batches of an order, from batch `start_batch` on.

    Every host gets the same number of batches.

    Args:
        index: the dataset.
        order: (m,) int32, the examples of all hosts.
        global_batch: examples in a batch over all hosts.
        start_batch: batch to start with.
        host: number of this host.
        num_hosts: how many there are; divides `global_batch`.
        beside: of every example, the slices that are the channels of its image; None: it alone.
        resize_to: (H, W) to bring slices to on the host; needed if their sizes differ.

    Raises:
        UserError: if a record is damaged, or sizes differ and `resize_to` is not given.
    """
    shapes = {index.volumes[volume].shape[1:] for volume in np.unique(index.volume[order])}
    if resize_to is None and len(shapes) > 1:
        listed = ", ".join(f"{rows}x{columns}" for rows, columns in sorted(shapes))
        raise UserError(f"{index.directory}: slices of several sizes ({listed}): resize them")
    height, width = resize_to or next(iter(shapes))
    rows = host_examples(order, global_batch, start_batch, host, num_hosts)
    beside = beside or neighbours.of_index(index, neighbours.Setting())
    return _read_batches(index, rows, beside, (height, width), resize=resize_to is not None)


def _read_batches(
    index: SliceIndex,
    rows: np.ndarray,
    beside: Neighbours,
    size: tuple[int, int],
    *,
    resize: bool,
) -> Iterator[Batch]:
    """Yields a batch for each of `rows` (batches, B); only the last ones have padding."""
    real = rows[rows >= 0]
    local_batch = rows.shape[1]
    places = _places(index, beside.row[real])
    shift = beside.shift[real]
    is_shifted = shift.any()
    dataset = tf.data.Dataset.from_tensor_slices((places, shift))
    dataset = dataset.map(
        lambda place, shift: _read_slices(
            index, place, shift if is_shifted else None, size if resize else None
        ),
        num_parallel_calls=_num_readers(),
        deterministic=True,
    )
    dataset = dataset.batch(local_batch).prefetch(_PREFETCHED_BATCHES)
    # The thread that tunes would keep the end of an epoch waiting, for seconds while a CPU trains.
    options = tf.data.Options()
    options.autotune.enabled = False
    pixels = dataset.with_options(options).as_numpy_iterator()
    for examples in rows:
        if examples[0] < 0:
            image = np.zeros((0, *size, beside.num_slices), np.int16)
            label = np.zeros((0, *size), np.uint8)
        else:
            try:
                image, label = next(pixels)
            except _DECODING_ERRORS as error:
                raise _damaged_record(index, beside, examples, error) from None
        yield make_batch(index, examples, image, label)


def _num_readers() -> int:
    """Records that are read and decoded at the same time: one a core, at most 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores or 1, _MAX_READERS)


def _places(index: SliceIndex, examples: np.ndarray) -> tuple[np.ndarray, ...]:
    """File, offset and length of the records of examples, each of their shape."""
    return index.file[examples], index.offset[examples], index.length[examples]


def _read_slices(
    index: SliceIndex,
    places: tuple[tf.Tensor, ...],
    shift: tf.Tensor | None,
    resize_to: tuple[int, int] | None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Image (H, W, S) int16 of the records at (file, offset, length), each (S,).

    Args:
        index: the dataset.
        places: of the records.
        shift: (S, 2), see `Neighbours`; None: all are 0.
        resize_to: (H, W); None: as they are stored.

    Returns:
        The image, and the label (H, W) uint8 of the slice in the middle.
    """
    found = [
        _read_record(index, tuple(column[number] for column in places))
        for number in range(places[0].shape[0])
    ]
    slices = [image for image, _ in found]
    if shift is not None:
        slices = [_shifted(one, shift[number]) for number, one in enumerate(slices)]
    image, label = tf.stack(slices, axis=-1), found[len(found) // 2][1]
    if resize_to is not None:
        smooth = tf.image.resize(image, resize_to, antialias=True)
        image = tf.cast(tf.round(smooth), tf.int16)
        label = tf.image.resize(label[..., tf.newaxis], resize_to, method="nearest")[..., 0]
    return image, label


def _shifted(image: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
    """As `neighbours.gather` shifts one slice (H, W) by (2,) pixels."""
    for axis in range(2):
        size = tf.shape(image)[axis]
        places = tf.clip_by_value(tf.range(size) + shift[axis], 0, size - 1)
        image = tf.gather(image, places, axis=axis)
    return image


def _read_record(index: SliceIndex, place: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, tf.Tensor]:
    """Image (H, W) int16 and label (H, W) uint8 of the record at (file, offset, length)."""

    def read(file: np.ndarray, offset: np.ndarray, length: np.ndarray) -> bytes:
        return _read_bytes(index.paths[int(file)], int(offset), int(length))

    serialised = tf.numpy_function(read, place, tf.string, stateful=False)
    return records.decode_pixels(serialised)


def _read_bytes(path: str, offset: int, length: int) -> bytes:
    with epath.Path(path).open("rb") as stream:
        stream.seek(offset)
        return stream.read(length)


def _damaged_record(
    index: SliceIndex, beside: Neighbours, examples: np.ndarray, error: Exception
) -> UserError:
    """Finds the record of a failed batch that cannot be read."""
    for example in np.unique(beside.row[examples[examples >= 0]]):
        place = tuple(tf.constant(column) for column in _places(index, example))
        try:
            _read_record(index, place)
        except _DECODING_ERRORS:
            return UserError(
                f"{index.paths[index.file[example]]}: damaged record of example {example} "
                f"({index.describe(example)}): convert again"
            )
    return UserError(f"{index.directory}: cannot be read ({type(error).__name__})")
