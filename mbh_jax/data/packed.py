"""The packed cache of a dataset: its decoded slices as plain NumPy files, read without TensorFlow.

In the dataset's folder, for each image size that occurs:
    packed/image_<rows>x<columns>.npy   (n, rows, columns) int16 HU
    packed/label_<rows>x<columns>.npy   (n, rows, columns) uint8
and packed/packed.json with the dataset's fingerprint. Slices with voxel labels, in the order of
their example numbers. `data_prep.pack_dataset` makes it.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from mbh_jax.data import neighbours
from mbh_jax.data.batch import Batch, make_batch
from mbh_jax.data.index import SliceIndex
from mbh_jax.data.neighbours import Neighbours
from mbh_jax.data.order import host_examples
from mbh_jax.errors import UserError

PACKED_DIR = "packed"
PACKED_INFO = "packed.json"

PACKED_FORMAT = 1
"""Version of the cache's layout."""

DTYPES: dict[str, np.dtype] = {"image": np.dtype("<i2"), "label": np.dtype("u1")}
"""What is kept of a slice."""

InPlaneShape = tuple[int, int]
Kind = Literal["image", "label"]


def packed_dir(index: SliceIndex) -> Path:
    """Where the cache of a dataset is."""
    return Path(os.fspath(index.directory)) / PACKED_DIR


def packed_file(kind: str, shape: InPlaneShape) -> str:
    """Name of the file that holds "image" or "label" of the slices of one image size."""
    return f"{kind}_{shape[0]}x{shape[1]}.npy"


def packed_examples(index: SliceIndex) -> dict[InPlaneShape, np.ndarray]:
    """The examples that a cache holds, (n,) ascending, by the (rows, columns) of their slices."""
    has_label = np.array([volume.has_label for volume in index.volumes])[index.volume]
    examples = np.flatnonzero(has_label).astype(np.int32)
    parts = index.by_in_plane_shape(examples) if len(examples) else []
    return {index.volumes[index.volume[part[0]]].shape[1:]: part for part in parts}


class PackedSlices:
    """The slices of a packed cache, memory-mapped.

    Attributes:
        index: the dataset.
    """

    def __init__(self, index: SliceIndex):
        """Opens the cache of a dataset.

        Raises:
            UserError: there is none, or it is of other data or damaged.
        """
        self.index = index
        directory = packed_dir(index)
        command = f"python -m data_prep.pack_dataset --data_dir {index.directory}"
        try:
            info = json.loads((directory / PACKED_INFO).read_text())
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(
                f"data.resident: no packed cache in {directory}: make it with {command}"
            ) from None
        except ValueError:
            info = {}
        if info != packed_info(index):
            raise UserError(
                f"data.resident: the cache in {directory} is of other data: make it again with "
                f"{command}"
            )
        self._row = np.full(len(index), -1, np.int64)
        self._pixels: dict[InPlaneShape, Mapping[str, np.ndarray]] = {}
        for shape, examples in packed_examples(index).items():
            self._row[examples] = np.arange(len(examples))
            try:
                self._pixels[shape] = {
                    kind: _open(
                        directory / packed_file(kind, shape), dtype, (len(examples), *shape)
                    )
                    for kind, dtype in DTYPES.items()
                }
            except (FileNotFoundError, ValueError, EOFError):
                raise UserError(
                    f"data.resident: damaged cache in {directory}: make it again with {command}"
                ) from None

    def shape_of(self, examples: np.ndarray) -> InPlaneShape:
        """The (rows, columns) of examples of one image size."""
        return self.index.volumes[self.index.volume[examples[0]]].shape[1:]

    def read(self, kind: Kind, examples: np.ndarray) -> np.ndarray:
        """Images (n, H, W) int16 HU or labels (n, H, W) uint8 of examples (n,) of one size."""
        pixels = self._pixels[self.shape_of(examples)][kind]
        rows = self._row[examples]
        if np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
            return pixels[rows[0] : rows[0] + len(rows)]
        return pixels[rows]

    def eval_batches(
        self,
        examples: np.ndarray,
        *,
        global_batch: int,
        host: int = 0,
        num_hosts: int = 1,
        beside: Neighbours | None = None,
    ) -> Iterator[Batch]:
        """The batches of `mbh_jax.data.pipeline.batches`, of examples of one image size."""
        shape = self.shape_of(examples)
        beside = beside or neighbours.of_index(self.index, neighbours.Setting())
        for numbers in host_examples(examples, global_batch, 0, host, num_hosts):
            real = numbers[numbers >= 0]
            if len(real):
                slices = self.read("image", beside.row[real].ravel())
                slices = slices.reshape(len(real), -1, *shape)
                image = neighbours.gather(slices, beside.shift[real])
                yield make_batch(self.index, numbers, image, self.read("label", real))
            else:
                image = np.zeros((0, *shape, beside.num_slices), np.int16)
                yield make_batch(self.index, numbers, image, np.zeros((0, *shape), np.uint8))


def _open(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Maps a .npy file.

    Raises:
        FileNotFoundError, ValueError, EOFError: it is not there, cut off, or holds something else.
    """
    array = np.load(path, mmap_mode="r")
    if (array.dtype, array.shape) != (dtype, shape):
        raise ValueError(f"{path}: {array.dtype} {array.shape}")
    return np.asarray(array)


def packed_info(index: SliceIndex) -> dict[str, object]:
    """What packed.json says of the cache of a dataset."""
    return {"format": PACKED_FORMAT, "fingerprint": index.fingerprint}
