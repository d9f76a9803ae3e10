"""Where a NIfTI header puts its voxels, in millimetres, and what in it contradicts itself.

The sform is used, or the qform where the sform is not usable. `xyzt_units` is applied to both.
Source of the rules: nifti1.h (NIfTI-1 standard), methods 2 and 3.
"""

from typing import NamedTuple

import nibabel
import numpy as np
from nibabel.spatialimages import HeaderDataError

from mbh_jax.imageio.stored import is_usable_affine
from mbh_jax.imageio.volume import affine_distance_mm, affine_spacing_mm

_UNITS_MM = {1: ("metres", 1e3), 3: ("micrometres", 1e-3)}
"""Name and size in mm of the units of `xyzt_units` that are not millimetres."""
_QUATERNION_TOLERANCE = 1e-3
"""b2 + c2 + d2 may exceed 1 by this much, since writers round to single precision or worse."""
_QFORM_TOLERANCE_MM = 0.5
"""A qform is stored as a quaternion in single precision, and cannot hold a shear."""
_SPACING_TOLERANCE = 0.02
"""Relative difference below which spacing from the affine and from pixdim count as equal."""
_USUAL_EXTENT_MM = (230.0, 150.0)
"""In plane and across slices: of a usual head CT."""


class Geometry(NamedTuple):
    """Where the voxels lie.

    Attributes:
        affine: (4, 4) float64, stored voxel (i, j, k) to RAS+ mm.
        notes: contradictions, in one line each.
    """

    affine: np.ndarray
    notes: tuple[str, ...]


def read_geometry(
    header: nibabel.Nifti1Header | nibabel.Nifti2Header, shape: tuple[int, int, int]
) -> Geometry | None:
    """The geometry of a header; None if neither sform nor qform is usable.

    Args:
        header: as stored, unchecked.
        shape: voxels along the stored axes.
    """
    unit, unit_mm = _UNITS_MM.get(int(header["xyzt_units"]) & 7, ("millimetres", 1.0))
    sform, qform = _in_mm(_sform(header), unit_mm), _in_mm(_qform(header), unit_mm)
    affine = qform if sform is None else sform
    if affine is None:
        return None
    notes = []
    if unit_mm != 1:
        notes.append(_unit_note(affine, shape, unit, unit_mm))
    if sform is not None and qform is not None:
        distance_mm = affine_distance_mm(sform, qform, shape)
        if distance_mm > _QFORM_TOLERANCE_MM:
            notes.append(f"sform and qform differ by up to {distance_mm:.1f} mm: the sform is kept")
    if sform is not None:
        pixdim_mm = np.asarray(header["pixdim"][1:4], np.float64) * unit_mm
        notes += _pixdim_notes(sform, pixdim_mm, shape)
    return Geometry(affine, tuple(notes))


def _in_mm(affine: np.ndarray | None, unit_mm: float) -> np.ndarray | None:
    """A usable affine in mm; None if it is not usable."""
    if affine is None or not is_usable_affine(affine):
        return None
    affine = np.array(affine, np.float64)
    if unit_mm != 1:
        affine[:3] *= unit_mm
    return affine


def _sform(header: nibabel.Nifti1Header | nibabel.Nifti2Header) -> np.ndarray | None:
    affine, code = header.get_sform(coded=True)
    return affine if code else None


def _qform(header: nibabel.Nifti1Header | nibabel.Nifti2Header) -> np.ndarray | None:
    """The qform's affine as the standard reads it; nibabel alone is stricter.

    pixdim[0] (qfac) counts as 1 unless it is negative. A quaternion that is a little longer than 1
    is shortened to 1.
    """
    header = header.copy()
    header["pixdim"][0] = -1 if header["pixdim"][0] < 0 else 1
    names = ("quatern_b", "quatern_c", "quatern_d")
    length = float(np.linalg.norm([float(header[name]) for name in names]))
    for divisor in (1.0, length):
        for name in names:
            header[name] = float(header[name]) / divisor
        try:
            affine, code = header.get_qform(coded=True)
        except (HeaderDataError, ValueError):
            if 1 < length <= 1 + _QUATERNION_TOLERANCE:
                continue
            break
        return affine if code else None
    return None


def _pixdim_notes(
    affine: np.ndarray, pixdim_mm: np.ndarray, shape: tuple[int, int, int]
) -> list[str]:
    """Says if the spacing of the affine is not that of pixdim, and which is more like a head's."""
    if not np.isfinite(pixdim_mm).all() or pixdim_mm.min() <= 0:
        return []
    along_mm = affine_spacing_mm(affine)
    # Under gantry tilt pixdim may hold the distance of slices at right angles to them.
    across_mm = 1 / np.linalg.norm(np.linalg.inv(affine[:3, :3]), axis=1)
    equal = [
        np.isclose(pixdim_mm, spacing_mm, rtol=_SPACING_TOLERANCE, atol=0)
        for spacing_mm in (along_mm, across_mm)
    ]
    if np.all(equal[0] | equal[1]):
        return []
    misfit = _misfit(affine, along_mm, shape), _misfit(affine, pixdim_mm, shape)
    better = "the affine's" if misfit[0] <= misfit[1] else "pixdim's"
    return [
        f"spacing: {_times(along_mm)} mm by the affine, {_times(pixdim_mm)} mm by pixdim: the "
        f"affine's is used; {better} is the more plausible for a head"
    ]


def _unit_note(affine: np.ndarray, shape: tuple[int, int, int], unit: str, unit_mm: float) -> str:
    """Says that units were converted and, if the result is less like a head, that it is."""
    converted_mm = affine_spacing_mm(affine)
    as_stored = converted_mm / unit_mm
    if _misfit(affine, converted_mm, shape) <= _misfit(affine, as_stored, shape):
        return f"the header's spacing is in {unit}: converted to mm"
    return (
        f"spacing: {_times(as_stored)} {unit} by the header: {_times(as_stored)} mm would be more "
        "plausible for a head"
    )


def _misfit(affine: np.ndarray, spacing_mm: np.ndarray, shape: tuple[int, int, int]) -> float:
    """How far the extents of a grid with this spacing are from those of a usual head CT."""
    slice_axis = int(np.argmax(np.abs(affine[2, :3]) / np.linalg.norm(affine[:3, :3], axis=0)))
    usual_mm = np.where(np.arange(3) == slice_axis, _USUAL_EXTENT_MM[1], _USUAL_EXTENT_MM[0])
    return float(np.abs(np.log(spacing_mm * shape / usual_mm)).sum())


def _times(values: np.ndarray) -> str:
    return " x ".join(f"{value:.3g}" for value in values)
