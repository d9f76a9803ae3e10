"""CT volumes in memory: the orientation that the whole program uses, and geometry.

Every volume has one orientation, "LPS": array axes (slice, row, column) run from inferior to
superior, from anterior to posterior and from the patient's right to the left, so that a slice shown
as an image looks radiological (anterior up, the patient's right on the left of the picture). Arrays
stored otherwise are turned to it along their nearest axes; a gantry tilt or an oblique scan stays
in the affine, and voxels are never resampled. BHSD stores (R->L, P->A, I->S), "LAS" in NIfTI's
code: its slices come out turned 90 degrees counter-clockwise.

An affine maps voxel (column, row, slice) of the LPS array to RAS+ millimetres, as NIfTI's maps
(i, j, k): the array axes are the reverse of the affine's columns.
"""

from dataclasses import dataclass

import nibabel
import numpy as np
from nibabel import orientations

from mbh_jax.errors import UserError

PROGRAM_AXCODES = ("L", "P", "S")
"""Where (column, row, slice) of every array in the program point to."""

_LEAST_HU_RANGE = 20
"""A head CT spans air to bone; what spans less is scaled to 0..1, standardised, or a mask."""


@dataclass(frozen=True, eq=False)
class Volume:
    """A CT volume in the program's orientation.

    Attributes:
        hu: (slices, rows, columns) int16, Hounsfield units.
        affine: (4, 4) float64, voxel (column, row, slice) to RAS+ mm.
        stored_axcodes: the orientation of the file it came from and that masks go back to.
        slice_mm: (slices,) float64, how much of the patient each slice stands for along the normal
            of the slices, where they are not evenly spaced; None where the affine says it.
        notes: what is doubtful about the scan itself, one sentence each.
        mask_notes: what follows from it for masks and millilitres, one sentence each.
        nifti_header: of the NIfTI file it came from; masks repeat what it says of geometry.
        spacing_known: whether the affine is true millimetres; that of pictures is not.
    """

    hu: np.ndarray
    affine: np.ndarray
    stored_axcodes: str
    slice_mm: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    mask_notes: tuple[str, ...] = ()
    nifti_header: nibabel.Nifti1Header | None = None
    spacing_known: bool = True

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows, columns."""
        slices, rows, columns = self.hu.shape
        return slices, rows, columns

    @property
    def spacing_mm(self) -> np.ndarray:
        """(3,) float64: distance of neighbouring columns, rows and slices, in this order."""
        return affine_spacing_mm(self.affine)


def refuse_scaled(low: float, high: float, name: str) -> None:
    """Refuses a volume whose values span next to nothing, unless it is constant.

    Raises:
        UserError: if they do, with `name`.
    """
    if 0 < high - low <= _LEAST_HU_RANGE:
        raise UserError(
            f"{name}: values from {low:g} to {high:g} only: scaled, or a mask, and not Hounsfield "
            "units: give the CT in HU"
        )


def axcodes_of(affine: np.ndarray) -> str:
    """Where the axes of an array point to by its affine, such as "LAS"."""
    return "".join(nibabel.aff2axcodes(affine))


def turn_to_program(stored: np.ndarray, axcodes: str) -> np.ndarray:
    """Turns an array (i, j, k) stored with `axcodes` to the program's (slice, row, column)."""
    turned = orientations.apply_orientation(stored, _to_program(axcodes))
    return np.ascontiguousarray(turned.transpose(2, 1, 0))


def turn_shape_to_program(shape: tuple[int, ...], axcodes: str) -> tuple[int, ...]:
    """Slices, rows and columns of an array of `shape` (i, j, k) that is stored with `axcodes`."""
    order = np.argsort(_to_program(axcodes)[:, 0])
    return tuple(shape[axis] for axis in order)[::-1]


def turn_affine_to_program(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The affine of `turn_to_program`'s array.

    Args:
        affine: (4, 4), of the array as it is stored.
        shape: of that array, (i, j, k).
    """
    return affine @ orientations.inv_ornt_aff(_to_program(axcodes_of(affine)), shape)


def turn_to_stored(
    array: np.ndarray, affine: np.ndarray, axcodes: str
) -> tuple[np.ndarray, np.ndarray]:
    """The reverse of `turn_to_program`: the array (i, j, k) as it is stored, and its affine.

    Args:
        array: (slices, rows, columns).
        affine: (4, 4), voxel (column, row, slice) to RAS+ mm.
        axcodes: where i, j and k are to point to.
    """
    columns_rows_slices = array.transpose(2, 1, 0)
    to_stored = orientations.ornt_transform(
        orientations.axcodes2ornt(PROGRAM_AXCODES), orientations.axcodes2ornt(tuple(axcodes))
    )
    stored = orientations.apply_orientation(columns_rows_slices, to_stored)
    stored_affine = affine @ orientations.inv_ornt_aff(to_stored, columns_rows_slices.shape)
    return np.ascontiguousarray(stored), stored_affine


def affine_spacing_mm(affine: np.ndarray) -> np.ndarray:
    """Distance in mm of neighbouring voxels along each axis of an affine: (3,) float64."""
    return nibabel.affines.voxel_sizes(affine)


def voxel_volume_ml(affine: np.ndarray) -> float:
    """Volume of one voxel in mL: |det| of the affine, which holds for tilted gantries too."""
    return float(abs(np.linalg.det(np.asarray(affine, np.float64)[:3, :3])) / 1000.0)


def pixel_area_mm2(affine: np.ndarray) -> float:
    """Area of one pixel of a slice in square mm, by an affine."""
    return float(np.linalg.norm(np.cross(affine[:3, 0], affine[:3, 1])))


def gantry_tilt_deg(affine: np.ndarray) -> float:
    """Angle in degrees between the step from slice to slice and the normal of the slices."""
    step = affine[:3, 2] / np.linalg.norm(affine[:3, 2])
    normal = np.cross(affine[:3, 0], affine[:3, 1]) / pixel_area_mm2(affine)
    across = np.linalg.norm(np.cross(step, normal))
    return float(np.rad2deg(np.arctan2(across, abs(step @ normal))))


def affine_distance_mm(first: np.ndarray, second: np.ndarray, shape: tuple[int, ...]) -> float:
    """How far apart two affines put the same voxel, at most, over a grid of `shape` (i, j, k)."""
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.asarray(shape) - 1)
    difference = nibabel.affines.apply_affine(first, corners) - nibabel.affines.apply_affine(
        second, corners
    )
    return float(np.linalg.norm(difference, axis=-1).max())


def _to_program(axcodes: str) -> np.ndarray:
    return orientations.ornt_transform(
        orientations.axcodes2ornt(tuple(axcodes)), orientations.axcodes2ornt(PROGRAM_AXCODES)
    )
