"""What is known of a volume: the one description of it, from its file to records and metadata.json.

Axes and affines are as in `mbh_jax.imageio.volume`. Imports no TensorFlow.
"""

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np

from mbh_jax.imageio.volume import Volume, affine_spacing_mm
from mbh_jax.labels import NUM_CLASSES

METADATA_FORMAT = 2
"""Version of metadata.json's layout."""

_IDENTITY = (
    *("volume_id", "patient_id", "split", "shape"),
    *("affine", "sha256", "has_label", "spacing_known"),
)
"""Keys of a row of metadata.json that identify a dataset."""


@dataclass(frozen=True, eq=False, kw_only=True)
class VolumeFacts:
    """What is known of one volume besides its pixels.

    Attributes:
        shape: slices, rows, columns.
        affine: (4, 4) float64, voxel (column, row, slice) to RAS+ mm.
        stored_axcodes: orientation of the source file, such as "LAS".
        has_label: whether it has voxel labels.
        case_label: what is known of the whole volume where there are none, such as "nobleed".
        spacing_known: whether spacing and affine are true millimetres; those of pictures and of
            slices that are missing or unevenly spaced are not.
    """

    volume_id: str
    patient_id: str
    shape: tuple[int, int, int]
    affine: np.ndarray
    stored_axcodes: str
    has_label: bool = True
    case_label: str = ""
    spacing_known: bool = True

    @property
    def num_slices(self) -> int:
        """Number of slices, all of which are in the dataset."""
        return self.shape[0]

    @property
    def spacing_mm(self) -> np.ndarray:
        """(3,) float64: distance of neighbouring columns, rows and slices, in this order."""
        return affine_spacing_mm(self.affine)

    @property
    def facts(self) -> dict[str, Any]:
        """The fields of this class by name, to make an object of a class below it."""
        return {field.name: getattr(self, field.name) for field in fields(VolumeFacts)}


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelledVolume(VolumeFacts):
    """A volume, its labels, and whose it is.

    Attributes:
        hu: (slices, rows, columns) int16, Hounsfield units.
        label: (slices, rows, columns) uint8; zeros if there are no voxel labels.
    """

    hu: np.ndarray
    label: np.ndarray

    @classmethod
    def of(cls, volume: Volume, label: np.ndarray, **facts: Any) -> Self:
        """A volume and its labels; `facts` are the fields that a `Volume` does not have."""
        return cls(
            shape=volume.shape,
            affine=volume.affine,
            stored_axcodes=volume.stored_axcodes,
            hu=volume.hu,
            label=label,
            **facts,
        )

    @property
    def volume(self) -> Volume:
        """The image alone."""
        return Volume(self.hu, self.affine, self.stored_axcodes, spacing_known=self.spacing_known)

    @functools.cached_property
    def pixels_per_class(self) -> np.ndarray:
        """Voxels of each class in each slice: (slices, classes) int64; 0 without voxel labels."""
        counts = count_pixels_per_class(self.label)
        return counts if self.has_label else np.zeros_like(counts)

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 (hex) of the HU as little-endian int16, then of the labels, slice by slice."""
        pixels = np.ascontiguousarray(self.hu, "<i2").tobytes()
        return hashlib.sha256(pixels + self.label.tobytes()).hexdigest()


@dataclass(frozen=True, eq=False, kw_only=True)
class VolumeInfo(VolumeFacts):
    """A volume of a dataset, as a row of metadata.json describes it.

    Attributes:
        split: the split that it is in.
        pixels_per_class: (slices, classes) int64; zeros without voxel labels.
        sha256: hash (hex) of the pixels of image and label.
        notes: what the conversion found worth saying.
        listed_spacing_mm: (3,) float64, the spacing as the row has it; equal to `spacing_mm` in a
            sound dataset.
    """

    split: str
    pixels_per_class: np.ndarray
    sha256: str
    notes: tuple[str, ...]
    listed_spacing_mm: np.ndarray

    @classmethod
    def describe(cls, labelled: LabelledVolume, split: str, notes: Sequence[str]) -> Self:
        """The row of a volume that goes to `split`."""
        return cls(
            **labelled.facts,
            split=split,
            pixels_per_class=labelled.pixels_per_class,
            sha256=labelled.sha256,
            notes=tuple(notes),
            listed_spacing_mm=labelled.spacing_mm,
        )

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Reads a row of metadata.json.

        Raises:
            KeyError, TypeError, ValueError: if the row is damaged.
        """
        slices, rows, columns = row["shape"]
        return cls(
            volume_id=row["volume_id"],
            patient_id=row["patient_id"],
            split=row["split"],
            shape=(slices, rows, columns),
            listed_spacing_mm=np.asarray(row["spacing_mm"], np.float64),
            spacing_known=row["spacing_known"],
            affine=np.asarray(row["affine"], np.float64),
            stored_axcodes=row["stored_axcodes"],
            has_label=row["has_label"],
            case_label=row["case_label"],
            pixels_per_class=np.asarray(row["pixels_per_class"], np.int64),
            sha256=row["sha256"],
            notes=tuple(row["notes"]),
        )

    def to_row(self) -> dict[str, Any]:
        """The row of metadata.json that `from_row` reads."""
        return {
            "volume_id": self.volume_id,
            "patient_id": self.patient_id,
            "split": self.split,
            "shape": list(self.shape),
            "spacing_mm": self.listed_spacing_mm.tolist(),
            "spacing_known": self.spacing_known,
            "affine": self.affine.tolist(),
            "stored_axcodes": self.stored_axcodes,
            "has_label": self.has_label,
            "case_label": self.case_label,
            "pixels_per_class": self.pixels_per_class.tolist(),
            "sha256": self.sha256,
            "notes": list(self.notes),
        }


def count_pixels_per_class(label: np.ndarray) -> np.ndarray:
    """Voxels of each class in each slice: (slices, classes) int64 of (slices, rows, columns)."""
    return np.stack([np.bincount(plane.ravel(), minlength=NUM_CLASSES) for plane in label]).astype(
        np.int64
    )


def fingerprint(rows: Iterable[Mapping[str, Any]]) -> str:
    """SHA-256 (hex) over what identifies a dataset: ids, splits, geometry and pixel hashes.

    Args:
        rows: metadata.json's volume table.
    """
    identity = [[row[key] for key in _IDENTITY] for row in rows]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()
