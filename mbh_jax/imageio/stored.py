"""Voxels and headers as files store them, to volumes and labels in the program's orientation.

What every format of volumes has in common: a reader gives a `Header` and voxels on the stored axes,
and these functions check and turn them.
"""

from dataclasses import dataclass

import nibabel
import numpy as np

from mbh_jax.errors import UserError
from mbh_jax.imageio.volume import (
    Volume,
    affine_distance_mm,
    affine_spacing_mm,
    axcodes_of,
    refuse_scaled,
    turn_affine_to_program,
    turn_shape_to_program,
    turn_to_program,
)
from mbh_jax.labels import NUM_CLASSES

MAX_VOXELS = 1 << 28
"""1,024 slices of 512 x 512: a header that says more is wrong, or would fill the memory."""
_WHOLE_TOLERANCE = 1e-3
"""Labels that were saved with a slope come back this close to whole numbers."""
_SAME_PLACE_MM = 0.01
"""Two affines that put every voxel this close count as equal."""
_ON_GRID_VOXELS = 0.25
"""A turned label lies on its image's grid if no voxel is further away than this."""

_SAME_STEP = 0.1
"""A turned label whose first slice lies on the image's may have steps that are off by this part:
converters place slices of a tilted gantry or uneven spacing wrongly, in the right order."""


@dataclass(frozen=True, eq=False)
class Header:
    """What a file's header says of its volume, as stored.

    Attributes:
        shape: voxels along the stored axes (i, j, k).
        affine: (4, 4) float64, stored voxel (i, j, k) to RAS+ mm.
        notes: what in the header contradicts itself, in one line each.
        nifti: the header itself, of a NIfTI file.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    notes: tuple[str, ...] = ()
    nifti: nibabel.Nifti1Header | None = None

    @property
    def axcodes(self) -> str:
        """Where the stored axes point to, such as "LAS"."""
        return axcodes_of(self.affine)


def checked_shape(sizes: tuple[int, ...], name: str) -> tuple[int, int, int]:
    """The sizes of the three axes of a volume; axes of size 1 behind them are dropped.

    Raises:
        UserError: it has another number of axes, no voxels, or more than a head.
    """
    shape = tuple(int(size) for size in sizes)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or min(shape) < 1:
        raise UserError(f"{name}: shape {shape}: give one 3-D volume a file")
    if shape[0] * shape[1] * shape[2] > MAX_VOXELS:
        raise UserError(f"{name}: shape {shape} is too large for a head CT: check its header")
    return shape[0], shape[1], shape[2]


def is_usable_affine(affine: np.ndarray) -> bool:
    """Whether it is finite and has a volume; relative to its size, whatever the unit."""
    if not np.isfinite(affine).all():
        return False
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    return bool(sizes.min() > 1e-9) and abs(np.linalg.det(affine[:3, :3] / sizes)) > 1e-6


def to_volume(header: Header, stored: np.ndarray, name: str) -> Volume:
    """Checks the voxels of a CT and turns them. Values that are not whole are rounded to whole HU.

    Args:
        header: of the file.
        stored: the voxels (i, j, k), scaled as the file says.
        name: what errors call it.

    Raises:
        UserError: it holds NaN, infinite or impossible HU, or values of 0 to 1 and the like, which
            rounding would destroy.
    """
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
        nifti_header=header.nifti,
    )


def to_label(header: Header, stored: np.ndarray, name: str) -> np.ndarray:
    """Checks the voxels of a label volume and turns them by their own affine.

    Returns:
        (slices, rows, columns) uint8 label values.

    Raises:
        UserError: it holds a value that is not one of 0..5.
    """
    return turn_to_program(_checked_label(stored, name), header.axcodes)


def to_label_like(
    header: Header, stored: np.ndarray, image: Header, name: str, *, ignore: int | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Checks the voxels of an image's label, and turns them to lie on the turned image.

    A label stored on other axes than its image is turned by its own affine, and must then lie on
    the image's grid, its first slice in any case: see `_SAME_STEP`. On the same axes the voxels of
    equal index belong together, even if the affines differ, as they do in some volumes of BHSD.

    Args:
        header: of the label's file.
        stored: its voxels (i, j, k).
        image: the image's header.
        name: what errors call the label.
        ignore: a value that marks voxels which nobody has labelled; such a label is refused.

    Returns:
        The (slices, rows, columns) uint8 labels in the program's orientation, and notes.

    Raises:
        UserError: as `to_label`, and if image and label do not fit together.
    """
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
    note = f"image stored as {image.axcodes}, label as {label.axcodes}"
    image_affine = turn_affine_to_program(image.affine, image.shape)
    label_affine = turn_affine_to_program(label.affine, label.shape)
    tolerance_mm = _ON_GRID_VOXELS * affine_spacing_mm(image_affine).min()
    distance_mm = affine_distance_mm(image_affine, label_affine, turned_shape[::-1])
    if distance_mm > tolerance_mm:
        first_slice = (*turned_shape[:0:-1], 1)
        step_mm, label_step_mm = (affine_spacing_mm(a)[2] for a in (image_affine, label_affine))
        if (
            affine_distance_mm(image_affine, label_affine, first_slice) <= tolerance_mm
            and abs(label_step_mm - step_mm) <= _SAME_STEP * step_mm
        ):
            return label.axcodes, (
                f"{note}: each is turned by its own affine; their slices lie up to "
                f"{distance_mm:.1f} mm apart and are taken in order",
            )
        raise UserError(
            f"{name}: stored as {label.axcodes}, its image as {image.axcodes}, and by their "
            f"affines the voxels lie up to {distance_mm:.1f} mm apart: write the label on the "
            "image's grid"
        )
    return label.axcodes, (f"{note}: each is turned by its own affine",)


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
