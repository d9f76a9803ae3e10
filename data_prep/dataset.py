"""Reads converted datasets back: record by record, and volume by volume."""

import functools
import os
import zlib
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
from etils import epath
from tqdm import tqdm

from mbh_jax.data.index import SliceIndex
from mbh_jax.data.schema import LabelledVolume
from mbh_jax.errors import UserError

Record = dict[str, Any]
"""A decoded record: the features of `mbh_jax.data.records` as NumPy arrays, ints and bytes."""


def read_bytes(index: SliceIndex, example: int) -> bytes:
    """The serialised record of an example."""
    with epath.Path(index.paths[index.file[example]]).open("rb") as stream:
        stream.seek(int(index.offset[example]))
        return stream.read(int(index.length[example]))


def read_record(index: SliceIndex, example: int) -> Record:
    """Decodes the record of an example.

    Raises:
        UserError: if it is damaged.
    """
    # Not below, where a module that cannot be imported would be taken for damage.
    features, errors = _features(), decoding_errors()
    try:
        record = features.deserialize_example_np(read_bytes(index, example))
        if any(value is None for value in record.values()):
            raise ValueError("a feature is missing")
        return record
    except errors:
        raise UserError(
            f"{index.paths[index.file[example]]}: damaged record of example {example} "
            f"({index.describe(example)}): convert again"
        ) from None


def read_volume(index: SliceIndex, number: int) -> LabelledVolume:
    """Puts volume `number` of the index together.

    Raises:
        UserError: if a record is damaged, or not the one that the index says.
    """
    slices = [read_record(index, int(row)) for row in np.flatnonzero(index.volume == number)]
    try:
        return _records().volume_of(slices)
    except ValueError as error:
        volume_id = index.volumes[number].volume_id
        raise UserError(
            f"{index.directory}: volume {volume_id} is not whole ({error}): convert again"
        ) from None


def read_volumes(
    index: SliceIndex, what: str, numbers: Iterable[int] | None = None
) -> Iterator[tuple[int, LabelledVolume]]:
    """Yields volumes (all unless `numbers` are given) under a progress bar named `what`."""
    chosen = list(range(len(index.volumes)) if numbers is None else numbers)
    for number in progress(chosen, what):
        yield number, read_volume(index, number)


def progress(numbers: Iterable[int], what: str) -> tqdm:
    """A progress bar over volumes, on a terminal only."""
    return tqdm(numbers, desc=what, unit="volume", leave=False, disable=None)


def opens_in_tfds(index: SliceIndex) -> bool:
    """Whether tensorflow-datasets finds the same files by itself, and our features in them."""
    features = _features()
    import tensorflow_datasets as tfds
    from google.protobuf.json_format import ParseError

    errors = (ParseError, ValueError, KeyError, TypeError, AttributeError, ImportError, OSError)
    try:
        info = tfds.builder_from_directory(os.fspath(index.directory)).info
        files = [name for split in index.split_names for name in info.splits[split].filenames]
    except errors:
        return False
    return repr(info.features) == repr(features) and files == list(index.files)


@functools.cache
def decoding_errors() -> tuple[type[Exception], ...]:
    """What decoding a damaged record can raise."""
    _records()
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    return (tf.errors.OpError, DecodeError, zlib.error, ValueError, KeyError, TypeError)


def _records() -> ModuleType:
    # Here and not above, so that a wrong path is reported without waiting for TensorFlow.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    from mbh_jax.data import records

    return records


@functools.cache
def _features() -> Any:
    return _records().features()
