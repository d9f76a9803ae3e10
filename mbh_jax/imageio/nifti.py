"""NIfTI files to volumes and labels in the program's orientation, and back.

`mbh_jax.imageio.nifti_file` reads what the files store; `mbh_jax.imageio.volume` turns it.
"""

from pathlib import Path
from typing import BinaryIO

import nibabel
import numpy as np

from mbh_jax import files
from mbh_jax.errors import UserError
from mbh_jax.imageio.nifti_file import Header, read_header, read_stored, source_name
from mbh_jax.imageio.volume import (
    Volume,
    affine_distance_mm,
    affine_spacing_mm,
    refuse_scaled,
    turn_affine_to_program,
    turn_shape_to_program,
    turn_to_program,
    turn_to_stored,
)
from mbh_jax.labels import NUM_CLASSES

__all__ = [
    "Header",
    "read_header",
    "read_label",
    "read_label_like",
    "read_volume",
    "write_label",
    "write_volume",
]

_WHOLE_TOLERANCE = 1e-3
"""Labels that were saved with a slope come back this close to whole numbers."""
_SAME_PLACE_MM = 0.01
"""Two affines that put every voxel this close count as equal."""
_ON_GRID_VOXELS = 0.25
"""A turned label lies on its image's grid if no voxel is further away than this."""


def read_volume(source: Path | BinaryIO, name: str | None = None) -> Volume:
    """Reads a CT volume and turns it to the program's orientation.

    A NaN or zero slope means no scaling. Values that are not whole are rounded to whole HU.

    Args:
        source: a .nii or .nii.gz file (NIfTI-1 or -2, either byte order), or one open for reading.
        name: what errors call it; the path unless given.

    Raises:
        UserError: if it cannot be read, or holds NaN, infinite or impossible HU, or values of 0
            to 1 and the like, which rounding would destroy.
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
    refuse_scaled(float(low), float(high), name)
    if stored.dtype.kind == "f":
        stored = np.rint(stored)
    return Volume(
        turn_to_program(stored.astype(np.int16), header.axcodes),
        turn_affine_to_program(header.affine, header.shape),
        header.axcodes,
        notes=header.notes,
    )


def read_label(source: Path | BinaryIO, name: str | None = None) -> tuple[np.ndarray, Header]:
    """Reads a label volume and turns it to the program's orientation by its own affine.

    Returns:
        The (slices, rows, columns) uint8 labels, and the header, to compare with the image's.

    Raises:
        UserError: if it cannot be read, or holds a value that is not one of 0..5.
    """
    name = source_name(source, name)
    header, stored = read_stored(source, name)
    return turn_to_program(_checked_label(stored, name), header.axcodes), header


def read_label_like(
    source: Path | BinaryIO, image: Header, name: str | None = None, *, ignore: int | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Reads the label volume of an image, and checks that it lies on the image's grid.

    A label stored on other axes than its image is turned by its own affine, and must then lie on
    the image's grid. On the same axes the voxels of equal index belong together, even if the
    affines differ, as they do in some volumes of BHSD.

    Args:
        source: as for `read_volume`.
        image: the image's header.
        name: what errors call it.
        ignore: a value that marks voxels which nobody has labelled; such a label is refused.

    Returns:
        The (slices, rows, columns) uint8 labels in the program's orientation, and notes.

    Raises:
        UserError: as `read_label`, and if image and label do not fit together.
    """
    name = source_name(source, name)
    header, stored = read_stored(source, name)
    if ignore is not None and (stored == ignore).any():
        raise UserError(
            f"{name}: value {ignore} ('ignore') marks voxels that nobody has labelled, which are "
            "of no class: give the case with all voxels labelled, or remove it"
        )
    axcodes, notes = _label_axcodes(header, image, name)
    return turn_to_program(_checked_label(stored, name), axcodes), notes


def _label_axcodes(label: Header, image: Header, name: str) -> tuple[str, tuple[str, ...]]:
    """By which axis codes a label is to be turned to lie on its turned image, and notes."""
    is_same_shape = label.shape == image.shape
    is_same_axes = label.axcodes == image.axcodes
    if is_same_shape:
        distance_mm = affine_distance_mm(image.affine, label.affine, image.shape)
        if distance_mm <= _SAME_PLACE_MM:
            return image.axcodes, ()
        if is_same_axes:
            return image.axcodes, (
                f"affines of image and label differ by up to {distance_mm:.1f} mm on the same grid "
                f"({image.axcodes} and {label.axcodes}): the image's is kept",
            )
    turned_shape = turn_shape_to_program(image.shape, image.axcodes)
    if is_same_axes or turn_shape_to_program(label.shape, label.axcodes) != turned_shape:
        swapped = " (its axes are swapped)" if sorted(label.shape) == sorted(image.shape) else ""
        raise UserError(
            f"{name}: label of shape {label.shape}{swapped}, its image {image.shape}: they must "
            "be equal"
        )
    turned_affine = turn_affine_to_program(image.affine, image.shape)
    distance_mm = affine_distance_mm(
        turned_affine, turn_affine_to_program(label.affine, label.shape), turned_shape[::-1]
    )
    if distance_mm > _ON_GRID_VOXELS * affine_spacing_mm(turned_affine).min():
        raise UserError(
            f"{name}: stored as {label.axcodes}, its image as {image.axcodes}, and by their "
            f"affines the voxels lie up to {distance_mm:.1f} mm apart: write the label on the "
            "image's grid"
        )
    note = f"image stored as {image.axcodes}, label as {label.axcodes}"
    return label.axcodes, (f"{note}: each is turned by its own affine",)


def write_label(path: Path, label: np.ndarray, like: Volume) -> None:
    """Writes labels as NIfTI in the orientation and geometry that `like` was stored in.

    Args:
        path: ends in .nii or .nii.gz; replaced only once the new file is whole.
        label: (slices, rows, columns) uint8 in the program's orientation.
        like: the volume that the labels belong to.

    Raises:
        ValueError: if the label's shape is not the volume's.
    """
    if label.shape != like.shape:
        raise ValueError(f"label {label.shape} does not fit volume {like.shape}")
    _write(path, label.astype(np.uint8), like)


def write_volume(path: Path, volume: Volume) -> None:
    """Writes a volume's HU as NIfTI in its stored orientation and geometry; see `write_label`."""
    _write(path, volume.hu, volume)


def _write(path: Path, array: np.ndarray, like: Volume) -> None:
    image = nibabel.Nifti1Image(*turn_to_stored(array, like.affine, like.stored_axcodes))
    image.header.set_xyzt_units("mm")
    image.set_sform(image.affine, code="scanner")
    image.set_qform(image.affine, code="scanner")
    with files.atomic_path(path) as partial:
        nibabel.save(image, partial)


def _checked_label(stored: np.ndarray, name: str) -> np.ndarray:
    if stored.dtype.kind == "f":
        whole = np.rint(stored)
        if not (np.isfinite(stored) & (abs(stored - whole) <= _WHOLE_TOLERANCE)).all():
            raise UserError(f"{name}: label values that are not whole: labels must be 0 to 5")
        stored = whole
    low, high = stored.min(), stored.max()
    if low < 0 or high >= NUM_CLASSES:
        wrong = low if low < 0 else high
        raise UserError(f"{name}: label value {wrong:g}: labels must be 0 to {NUM_CLASSES - 1}")
    return stored.astype(np.uint8)
