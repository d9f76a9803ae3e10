"""NIfTI files to volumes and labels in the program's orientation, and back.

`mbh_jax.imageio.nifti_file` reads what the files store; `mbh_jax.imageio.stored` checks and turns
it.
"""

import gzip
from pathlib import Path
from typing import BinaryIO

import nibabel
import numpy as np

from mbh_jax import files
from mbh_jax.imageio import stored
from mbh_jax.imageio.nifti_file import read_header, read_stored, source_name
from mbh_jax.imageio.stored import Header
from mbh_jax.imageio.volume import Volume, turn_to_stored

__all__ = [
    "Header",
    "read_header",
    "read_label",
    "read_label_like",
    "read_stored",
    "read_volume",
    "write_label",
    "write_volume",
]

_GEOMETRY_FIELDS = (
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)
_SPACE_UNITS = 7
"""The bits of `xyzt_units` that hold the unit of space."""
_GZIP_LEVEL = 1
"""As nibabel's: labels compress well at any level."""


def read_volume(source: Path | BinaryIO, name: str | None = None) -> Volume:
    """Reads a CT volume and turns it to the program's orientation.

    A NaN or zero slope means no scaling. Values that are not whole are rounded to whole HU.

    Args:
        source: a .nii or .nii.gz file (NIfTI-1 or -2, either byte order), or one open for reading.
        name: what errors call it; the path unless given.

    Raises:
        UserError: if it cannot be read, or as `stored.to_volume`.
    """
    name = source_name(source, name)
    return stored.to_volume(*read_stored(source, name), name)


def read_label(source: Path | BinaryIO, name: str | None = None) -> tuple[np.ndarray, Header]:
    """Reads a label volume and turns it to the program's orientation by its own affine.

    Returns:
        The (slices, rows, columns) uint8 labels, and the header, to compare with the image's.

    Raises:
        UserError: if it cannot be read, or holds a value that is not one of 0..5.
    """
    name = source_name(source, name)
    header, voxels = read_stored(source, name)
    return stored.to_label(header, voxels, name), header


def read_label_like(
    source: Path | BinaryIO, image: Header, name: str | None = None, *, ignore: int | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Reads the label volume of an image, and checks that it lies on the image's grid.

    Arguments, returned values and errors are those of `stored.to_label_like`.
    """
    name = source_name(source, name)
    return stored.to_label_like(*read_stored(source, name), image, name, ignore=ignore)


def write_label(path: Path, label: np.ndarray, like: Volume) -> None:
    """Writes labels as NIfTI in the orientation and geometry that `like` was stored in.

    Of a volume that came from NIfTI the version, sform, qform, their codes, and the unit are the
    same as in its file.

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
    voxels, affine = turn_to_stored(array, like.affine, like.stored_axcodes)
    header = _header(voxels, affine, like.nifti_header)
    content = header.binaryblock.ljust(int(header["vox_offset"]), b"\0") + voxels.tobytes("F")
    if path.name.lower().endswith(".gz"):
        content = gzip.compress(content, _GZIP_LEVEL, mtime=0)
    files.atomic_write_bytes(path, content)


def _header(
    voxels: np.ndarray, affine: np.ndarray, like: nibabel.Nifti1Header | None
) -> nibabel.Nifti1Header:
    """A header for voxels; its geometry is the affine, or that of the header `like`."""
    header = nibabel.Nifti2Header() if like is not None and _is_2(like) else nibabel.Nifti1Header()
    header.set_data_dtype(voxels.dtype)
    header.set_data_shape(voxels.shape)
    header["magic"] = b"n+2" if _is_2(header) else b"n+1"
    header["vox_offset"] = header.sizeof_hdr + 4  # Four zeros say that no extensions follow.
    if like is None:
        header.set_xyzt_units("mm")
        header.set_sform(affine, code="scanner")
        header.set_qform(affine, code="scanner")
        return header
    header["pixdim"][:4] = like["pixdim"][:4]
    for field in _GEOMETRY_FIELDS:
        header[field] = like[field]
    header["xyzt_units"] = int(like["xyzt_units"]) & _SPACE_UNITS
    return header


def _is_2(header: nibabel.Nifti1Header) -> bool:
    return isinstance(header, nibabel.Nifti2Header)
