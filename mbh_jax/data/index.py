"""What a dataset holds and where each record lies, without TensorFlow and without reading pixels.

Reads `metadata.json` (what the conversion wrote about each volume and slice) and
`dataset_info.json` (tensorflow-datasets' own). Paths may be remote (`gs://...`), as etils' epath
opens them.
"""

import dataclasses
import json
import os
from functools import cached_property
from typing import Any, Literal

import numpy as np
from etils import epath

from mbh_jax import files
from mbh_jax.data.record_offsets import locate_records
from mbh_jax.data.schema import METADATA_FORMAT, VolumeInfo, fingerprint
from mbh_jax.errors import UserError
from mbh_jax.labels import CLASS_NAMES

SPLIT_NAMES = ("train", "validation", "test")
"""The splits, in the order of the example numbers."""

_NO_SPLIT = -1
"""In the place of a number of `SPLIT_NAMES`."""

DATASET_NAME = "head_ct"
"""Name of the dataset to tensorflow-datasets."""

DATASET_INFO = "dataset_info.json"
"""File of tensorflow-datasets that marks the folder of a dataset."""

_CONVERT = "python -m data_prep.build_tfrecords --source SCANS --output"


@dataclasses.dataclass(frozen=True, eq=False)
class SliceIndex:
    """Every slice of a dataset, in stored order; an "example" is a row number here.

    Attributes:
        directory: the one that holds dataset_info.json.
        volumes: the volume table.
        split: (N,) int32, index into `SPLIT_NAMES`.
        volume: (N,) int32, index into `volumes`.
        slice_index: (N,) int32, 0 is the most inferior slice of its volume.
        pixels_per_class: (N, 6) int64.
        files: names of the TFRecord files; empty, as are the next three, if loaded without
            records.
        file: (N,) int32, index into `paths`.
        offset: (N,) int64, first byte of the record's payload in its file.
        length: (N,) int64, bytes of the payload.
        split_method: how the splits were made, as metadata.json has it.
        fingerprint: SHA-256 (hex) of the pixels, geometry and splits.
        is_extra: (N,) bool, slices of another dataset that are mixed into training.
        extra_paths: paths of its TFRecord files.
        extra_fingerprint: that dataset's fingerprint, or None.
    """

    directory: epath.Path
    volumes: tuple[VolumeInfo, ...]
    split: np.ndarray
    volume: np.ndarray
    slice_index: np.ndarray
    pixels_per_class: np.ndarray
    files: tuple[str, ...]
    file: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    split_method: dict[str, Any]
    fingerprint: str
    is_extra: np.ndarray
    extra_paths: tuple[str, ...] = ()
    extra_fingerprint: str | None = None

    split_names = SPLIT_NAMES

    def __len__(self) -> int:
        return len(self.split)

    @classmethod
    def load(cls, path: epath.PathLike, *, with_records: bool = True) -> "SliceIndex":
        """Opens the dataset at or below `path`.

        Args:
            path: a folder.
            with_records: whether to find the records; pixels may come from a packed cache instead.

        Raises:
            UserError: if there is none, or its files are damaged.
        """
        directory = resolve_dataset_dir(path)
        metadata = _read_json(directory / "metadata.json")
        if metadata.get("format") != METADATA_FORMAT or metadata.get("classes") != [*CLASS_NAMES]:
            raise UserError(
                f"{directory}: written by another version: convert again: {_CONVERT} ... "
                "--overwrite"
            )
        try:
            volumes = tuple(map(VolumeInfo.from_row, metadata["volumes"]))
            split_of_volume = [SPLIT_NAMES.index(volume.split) for volume in volumes]
            split_method, digest = metadata["split"], fingerprint(metadata["volumes"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{directory / 'metadata.json'}: damaged ({error}): convert again with {_CONVERT} "
                "... --overwrite"
            ) from None
        slices_in = [volume.num_slices for volume in volumes]
        files, file, offset, length = locate_records(
            directory,
            _read_json(directory / DATASET_INFO),
            SPLIT_NAMES if with_records else (),
        )
        if with_records and len(file) != sum(slices_in):
            raise UserError(
                f"{directory}: {len(file)} records of {sum(slices_in)} slices: damaged, convert "
                "again"
            )
        return cls(
            directory=directory,
            volumes=volumes,
            split=np.repeat(np.asarray(split_of_volume, np.int32), slices_in),
            volume=np.repeat(np.arange(len(volumes), dtype=np.int32), slices_in),
            slice_index=np.concatenate([np.arange(size, dtype=np.int32) for size in slices_in]),
            pixels_per_class=np.concatenate([volume.pixels_per_class for volume in volumes]),
            files=files,
            file=file,
            offset=offset,
            length=length,
            split_method=split_method,
            fingerprint=digest,
            is_extra=np.zeros(sum(slices_in), bool),
        )

    def with_extra(self, other: "SliceIndex") -> "SliceIndex":
        """This dataset with the training slices of another one, whose numbers follow its own.

        The other one's validation and test slices are in no split here.
        """
        train = SPLIT_NAMES.index("train")
        return dataclasses.replace(
            self,
            volumes=self.volumes + other.volumes,
            split=np.concatenate([self.split, np.where(other.split == train, train, _NO_SPLIT)]),
            volume=np.concatenate([self.volume, other.volume + np.int32(len(self.volumes))]),
            slice_index=np.concatenate([self.slice_index, other.slice_index]),
            pixels_per_class=np.concatenate([self.pixels_per_class, other.pixels_per_class]),
            file=np.concatenate([self.file, other.file + np.int32(len(self.files))]),
            offset=np.concatenate([self.offset, other.offset]),
            length=np.concatenate([self.length, other.length]),
            is_extra=np.concatenate([self.is_extra, np.ones(len(other), bool)]),
            extra_paths=other.paths,
            extra_fingerprint=other.fingerprint,
        )

    @property
    def fingerprints(self) -> dict[str, str | None]:
        """What identifies all that a run is trained on."""
        return {"dataset": self.fingerprint, "extra_dataset": self.extra_fingerprint}

    def examples(
        self, split: str, slices: Literal["all", "blood"] = "all", *, unlabelled: bool = False
    ) -> np.ndarray:
        """Example numbers of a split, or of its slices that hold blood: (n,) int32, ascending.

        Args:
            split: one of `split_names`.
            slices: which of the slices with voxel labels.
            unlabelled: whether to add all slices without voxel labels.

        Raises:
            UserError: if there are none.
        """
        chosen = self._selected(split, slices, unlabelled)
        if not chosen.any():
            kind = "slices with blood" if slices == "blood" else "slices with voxel labels"
            raise UserError(f"{self.directory}: no {kind} in split {split}")
        return np.flatnonzero(chosen).astype(np.int32)

    def num_examples(self, split: str, slices: Literal["all", "blood"] = "all") -> int:
        """How many slices `examples` would give; may be 0."""
        return int(self._selected(split, slices).sum())

    def _selected(
        self, split: str, slices: Literal["all", "blood"], unlabelled: bool = False
    ) -> np.ndarray:
        if split not in SPLIT_NAMES:
            raise UserError(f"split {split!r}: give one of {', '.join(SPLIT_NAMES)}")
        has_label = np.array([volume.has_label for volume in self.volumes])[self.volume]
        selected = has_label.copy()
        if slices == "blood":
            selected &= self.pixels_per_class[:, 1:].any(axis=1)
        if unlabelled:
            selected |= ~has_label
        return selected & (self.split == SPLIT_NAMES.index(split))

    def by_in_plane_shape(self, examples: np.ndarray) -> list[np.ndarray]:
        """`examples` divided by their (rows, columns), in order within each part."""
        shapes = np.array([volume.shape[1:] for volume in self.volumes])[self.volume[examples]]
        _, part = np.unique(shapes, axis=0, return_inverse=True)
        return [examples[part == number] for number in range(part.max() + 1)]

    def in_plane_shapes(self) -> set[tuple[int, int]]:
        """The (rows, columns) that occur."""
        return {volume.shape[1:] for volume in self.volumes}

    def describe(self, example: int) -> str:
        """An example in words, for errors and file names: "<volume id> slice <index>"."""
        volume = self.volumes[self.volume[example]]
        return f"{volume.volume_id} slice {self.slice_index[example]}"

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """Paths of `files`, and of those of another dataset."""
        return (*(os.fspath(self.directory / name) for name in self.files), *self.extra_paths)


def resolve_dataset_dir(path: epath.PathLike) -> epath.Path:
    """The directory with dataset_info.json: `path` itself or the one `<name>/<version>` below it.

    Raises:
        UserError: if there is none (with the command that makes one) or more than one.
    """
    path = files.user_path(os.fspath(path), "the dataset's folder")
    if (path / DATASET_INFO).exists():
        return path
    children = _folders_in(path)
    grandchildren = [folder for child in children for folder in _folders_in(child)]
    found = sorted(
        folder for folder in (*children, *grandchildren) if (folder / DATASET_INFO).exists()
    )
    if not found:
        raise UserError(f"{path}: no dataset there: make one with {_CONVERT} {path}")
    if len(found) > 1:
        names = ", ".join(str(directory.relative_to(path)) for directory in found)
        raise UserError(f"{path}: several datasets ({names}): name one of them")
    return found[0]


def _folders_in(path: epath.Path) -> list[epath.Path]:
    """The folders in `path` that may hold a dataset; none where there is no such folder."""
    # Not with `glob`: etils takes `path` for a part of the pattern.
    try:
        return [
            child
            for child in path.iterdir()
            if not child.name.startswith((".", "incomplete.")) and child.is_dir()
        ]
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def _read_json(path: epath.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: missing: convert again with {_CONVERT} ... --overwrite") from None
    except ValueError:
        raise UserError(f"{path}: damaged: convert again with {_CONVERT} ... --overwrite") from None
