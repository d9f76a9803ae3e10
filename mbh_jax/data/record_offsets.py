"""Where each record lies in the TFRecord files of a dataset, without TensorFlow.

A TFRecord is 8 bytes of length, 4 of their checksum, the payload, and 4 of the payload's checksum.
"""

import os
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from mbh_jax.errors import UserError

_BEFORE_PAYLOAD = struct.Struct("<Q4x")
_AFTER_PAYLOAD_BYTES = 4


def locate_records(
    directory: epath.Path, info: Mapping[str, Any], split_names: Sequence[str]
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray, np.ndarray]:
    """Finds the records of a dataset.

    Args:
        directory: where its files are.
        info: its dataset_info.json.
        split_names: the order to take its splits in.

    Returns:
        The names of the files in the order of the splits; each record's file (n,) int32, an index
        into them; and its payload's offset and length (n,) int64, in bytes.

    Raises:
        UserError: if a file is missing or does not hold the records that it should.
    """
    shards_of = {split["name"]: [int(n) for n in split["shardLengths"]] for split in info["splits"]}
    files: list[str] = []
    file: list[int] = []
    offset: list[int] = []
    length: list[int] = []
    for split in split_names:
        shard_lengths = shards_of.get(split, [])
        for shard, num_records in enumerate(shard_lengths):
            name = f"{info['name']}-{split}.tfrecord-{shard:05d}-of-{len(shard_lengths):05d}"
            records = _scan_records(directory / name, num_records)
            file += [len(files)] * num_records
            offset += [start for start, _ in records]
            length += [size for _, size in records]
            files.append(name)
    return tuple(files), np.array(file, np.int32), np.array(offset), np.array(length)


def _scan_records(path: epath.Path, num_records: int) -> list[tuple[int, int]]:
    """Offset and length of each payload of a TFRecord file."""
    damaged = UserError(f"{path}: damaged: not {num_records} whole records: convert again")
    records = []
    position = 0
    try:
        with path.open("rb") as stream:
            file_bytes = stream.seek(0, os.SEEK_END)
            while position < file_bytes:
                stream.seek(position)
                header = stream.read(_BEFORE_PAYLOAD.size)
                if len(header) < _BEFORE_PAYLOAD.size:
                    raise damaged
                (size,) = _BEFORE_PAYLOAD.unpack(header)
                records.append((position + _BEFORE_PAYLOAD.size, size))
                position += _BEFORE_PAYLOAD.size + size + _AFTER_PAYLOAD_BYTES
                if position > file_bytes:
                    raise damaged
    except FileNotFoundError:
        raise UserError(f"{path}: missing: convert again") from None
    if len(records) != num_records:
        raise damaged
    return records
