"""CT volumes in and masks out, with their geometry kept.

The only module that turns and places arrays; `mbh_jax.imageio.nifti` reads the stored bytes. Inside
the program every volume has one orientation, "LPS": array axes (slice, row, column) run from
inferior to superior, from anterior to posterior and from the patient's right to the left, so that a
slice shown as an image looks radiological (anterior up, the patient's right on the left of the
picture). Files stored otherwise are turned to it along their nearest axes; a gantry tilt or an
oblique scan stays in the affine, and voxels are never resampled. BHSD stores (R->L, P->A, I->S),
"LAS" in NIfTI's code: its slices come out turned 90 degrees counter-clockwise.

An affine here maps voxel (column, row, slice) of the LPS array to RAS+ millimetres, as NIfTI's maps
(i, j, k): the array axes are the reverse of the affine's columns.
"""

import functools
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import nibabel
import numpy as np
from nibabel import orientations

from mbh_jax.errors import UserError
from mbh_jax.imageio.nifti import Header, read_header, read_stored, source_name
from mbh_jax.labels import NUM_CLASSES

PROGRAM_AXCODES = ("L", "P", "S")
"""Where (column, row, slice) of every array in the program point to."""

__all__ = [
    "Header",
    "LabelledVolume",
    "Volume",
    "affine_distance_mm",
    "affine_spacing_mm",
    "count_pixels_per_class",
    "read_header",
    "read_label",
    "read_label_like",
    "read_volume",
    "voxel_volume_ml",
    "write_label",
    "write_volume",
]


@dataclass(frozen=True, eq=False)
class Volume:
    """A CT volume in the program's orientation.

    Attributes:
        hu: (slices, rows, columns) int16, Hounsfield units.
        affine: (4, 4) float64, voxel (column, row, slice) to RAS+ mm.
        stored_axcodes: the orientation of the file it came from and that masks go back to.
    """

    hu: np.ndarray
    affine: np.ndarray
    stored_axcodes: str

    @property
    def spacing_mm(self) -> np.ndarray:
        """(3,) float64: distance of neighbouring columns, rows and slices, in this order."""
        return affine_spacing_mm(self.affine)


@dataclass(frozen=True, eq=False)
class LabelledVolume:
    """A volume, its labels, and whose it is.

    Attributes:
        label: (slices, rows, columns) uint8; zeros if there are no voxel labels.
        has_label: whether there are voxel labels.
        case_label: what is known of the whole volume where there are none, such as "nobleed".
        spacing_known: whether the affine tells true millimetres, which pictures have not.
    """

    volume_id: str
    patient_id: str
    volume: Volume
    label: np.ndarray
    has_label: bool = True
    case_label: str = ""
    spacing_known: bool = True

    @functools.cached_property
    def pixels_per_class(self) -> np.ndarray:
        """Voxels of each class in each slice: (slices, classes) int64; 0 without voxel labels."""
        counts = count_pixels_per_class(self.label)
        return counts if self.has_label else np.zeros_like(counts)


def affine_spacing_mm(affine: np.ndarray) -> np.ndarray:
    """Distance in mm of neighbouring voxels along each axis of an affine: (3,) float64."""
    return nibabel.affines.voxel_sizes(affine)


def voxel_volume_ml(affine: np.ndarray) -> float:
    """Volume of one voxel in mL: |det| of the affine, which holds for tilted gantries too."""
    return float(abs(np.linalg.det(np.asarray(affine, np.float64)[:3, :3])) / 1000.0)


def count_pixels_per_class(label: np.ndarray) -> np.ndarray:
    """Voxels of each class in each slice: (slices, classes) int64 of (slices, rows, columns)."""
    return np.stack([np.bincount(plane.ravel(), minlength=NUM_CLASSES) for plane in label]).astype(
        np.int64
    )


def affine_distance_mm(first: np.ndarray, second: np.ndarray, shape: tuple[int, ...]) -> float:
    """How far apart two affines put the same voxel, at most, over a grid of `shape` (i, j, k)."""
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.asarray(shape) - 1)
    difference = nibabel.affines.apply_affine(first, corners) - nibabel.affines.apply_affine(
        second, corners
    )
    return float(np.linalg.norm(difference, axis=-1).max())


def read_volume(source: Path | BinaryIO, name: str | None = None) -> Volume:
    """Reads a CT volume and turns it to the program's orientation.

    A NaN or zero slope means no scaling. Values that are not whole are rounded to whole HU.

    Args:
        source: a .nii or .nii.gz file (NIfTI-1 or -2, either byte order), or one open for reading.
        name: what errors call it; the path unless given.

    Raises:
        UserError: if it cannot be read, or holds NaN, infinite or impossible HU.
    """
    name = source_name(source, name)
    header, stored = read_stored(source, name)
    if stored.dtype.kind == "f" and not np.isfinite(stored).all():
        raise UserError(f"{name}: NaN or infinite voxels: repair or remove the volume")
    low, high = stored.min(), stored.max()
    limits = np.iinfo(np.int16)
    if low < limits.min or high > limits.max:
        raise UserError(
            f"{name}: values from {low:g} to {high:g} cannot be Hounsfield units: give CT in HU"
        )
    if stored.dtype.kind == "f":
        stored = np.rint(stored)
    to_program = orientations.ornt_transform(
        _ornt(header.axcodes), orientations.axcodes2ornt(PROGRAM_AXCODES)
    )
    affine = header.affine @ orientations.inv_ornt_aff(to_program, header.shape)
    return Volume(_turn_to_program(stored.astype(np.int16), header), affine, header.axcodes)


def read_label(source: Path | BinaryIO, name: str | None = None) -> tuple[np.ndarray, Header]:
    """Reads a label volume and turns it to the program's orientation by its own affine.

    Returns:
        The (slices, rows, columns) uint8 labels, and the header, to compare with the image's.

    Raises:
        UserError: if it cannot be read, or holds a value that is not one of 0..5.
    """
    name = source_name(source, name)
    header, stored = read_stored(source, name)
    return _turn_to_program(_checked_label(stored, name), header), header


def read_label_like(
    source: Path | BinaryIO, image: Header, name: str | None = None
) -> tuple[np.ndarray, Header]:
    """Reads the label volume of an image, voxel by voxel on the image's stored grid.

    As `read_label`, but turned by the image's affine: in some volumes of BHSD the label's affine
    differs although the grids are the same.

    Raises:
        UserError: as `read_label`, and if the two shapes disagree.
    """
    name = source_name(source, name)
    header, stored = read_stored(source, name)
    if header.shape != image.shape:
        swapped = " (its axes are swapped)" if sorted(header.shape) == sorted(image.shape) else ""
        raise UserError(
            f"{name}: label of shape {header.shape}{swapped}, its image {image.shape}: they must "
            "be equal"
        )
    return _turn_to_program(_checked_label(stored, name), image), header


def write_label(path: Path, label: np.ndarray, like: Volume) -> None:
    """Writes labels as NIfTI in the orientation and geometry that `like` was stored in.

    Args:
        path: ends in .nii or .nii.gz; replaced only once the new file is whole.
        label: (slices, rows, columns) uint8 in the program's orientation.
        like: the volume that the labels belong to.

    Raises:
        ValueError: if the label's shape is not the volume's.
    """
    if label.shape != like.hu.shape:
        raise ValueError(f"label {label.shape} does not fit volume {like.hu.shape}")
    _write(path, label.astype(np.uint8), like)


def write_volume(path: Path, volume: Volume) -> None:
    """Writes a volume's HU as NIfTI in its stored orientation and geometry; see `write_label`."""
    _write(path, volume.hu, volume)


def _write(path: Path, array: np.ndarray, like: Volume) -> None:
    columns_rows_slices = array.transpose(2, 1, 0)
    to_stored = orientations.ornt_transform(
        orientations.axcodes2ornt(PROGRAM_AXCODES), _ornt(like.stored_axcodes)
    )
    stored = orientations.apply_orientation(columns_rows_slices, to_stored)
    affine = like.affine @ orientations.inv_ornt_aff(to_stored, columns_rows_slices.shape)
    image = nibabel.Nifti1Image(np.ascontiguousarray(stored), affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner")
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = ".nii.gz" if path.name.endswith(".gz") else ".nii"
    handle, partial = tempfile.mkstemp(prefix=".partial-", suffix=suffix, dir=path.parent)
    os.close(handle)
    try:
        nibabel.save(image, partial)
        Path(partial).chmod(0o644)
        Path(partial).replace(path)
    finally:
        Path(partial).unlink(missing_ok=True)


def _ornt(axcodes: str) -> np.ndarray:
    return orientations.axcodes2ornt(tuple(axcodes))


def _turn_to_program(stored: np.ndarray, header: Header) -> np.ndarray:
    to_program = orientations.ornt_transform(
        _ornt(header.axcodes), orientations.axcodes2ornt(PROGRAM_AXCODES)
    )
    turned = orientations.apply_orientation(stored, to_program)
    return np.ascontiguousarray(turned.transpose(2, 1, 0))


def _checked_label(stored: np.ndarray, name: str) -> np.ndarray:
    if stored.dtype.kind == "f" and not (np.isfinite(stored) & (stored == np.rint(stored))).all():
        raise UserError(f"{name}: label values that are not whole: labels must be 0 to 5")
    low, high = stored.min(), stored.max()
    if low < 0 or high >= NUM_CLASSES:
        wrong = low if low < 0 else high
        raise UserError(f"{name}: label value {wrong:g}: labels must be 0 to {NUM_CLASSES - 1}")
    return stored.astype(np.uint8)
