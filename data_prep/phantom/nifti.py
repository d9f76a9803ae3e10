"""Writes a head as BHSD writes it: NIfTI-1 files with the quirks of the real headers.

In all 192 real label files `scl_slope` and `scl_inter` are NaN, `pixdim[0]` is -1, the qform is the
only valid geometry (`sform_code` 0, rows of zeros) and `regular` is "r". Header and data are packed
here byte for byte, since a library's writer would correct what must stay wrong.
"""

import gzip
import io
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt

from data_prep.phantom.head import Head
from mbh_jax import files

IMAGES = "images"
LABELS = "ground truths"
SINGLE_FILE_OFFSET = 352.0
"""Where voxels begin in a .nii file without extensions."""


def write_head(head: Head, output: Path) -> None:
    """Writes `images/NAME.nii.gz` and `ground truths/NAME.nii.gz` below `output`, each whole."""
    for folder, voxels in ((IMAGES, head.hu), (LABELS, head.label)):
        path = output / folder / f"{head.name}.nii.gz"
        files.atomic_write_bytes(path, _compressed(nifti_bytes(head, voxels)))


def nifti_bytes(head: Head, voxels: npt.NDArray[np.int16] | npt.NDArray[np.uint16]) -> bytes:
    """The uncompressed .nii file of `voxels` (i, j, k) with the geometry of `head`."""
    header = _bhsd_header(head) if head.header is None else head.header.copy()
    header.set_data_dtype(voxels.dtype)
    no_extension = bytes(4)
    return header.binaryblock + no_extension + voxels.tobytes(order="F")


def _bhsd_header(head: Head) -> nib.Nifti1Header:
    header = nib.Nifti1Header(endianness="<", check=False)
    header.set_data_shape(head.hu.shape)
    header["regular"] = b"r"
    header["pixdim"] = [-1.0, *head.spacing_mm, 0.0, 0.0, 0.0, 0.0]
    header["vox_offset"] = SINGLE_FILE_OFFSET
    header["scl_slope"] = np.nan
    header["scl_inter"] = np.nan
    header["xyzt_units"] = 2
    header["qform_code"] = 1
    header["sform_code"] = 0
    # Half a turn about y and pixdim[0] -1 make i run to the patient's left, j to anterior and k
    # upwards; the gantry's tilt turns them about x.
    header["quatern_b"] = -0.0
    header["quatern_c"] = math.cos(head.tilt_rad / 2.0)
    header["quatern_d"] = math.sin(head.tilt_rad / 2.0)
    for axis, name in enumerate(("qoffset_x", "qoffset_y", "qoffset_z")):
        header[name] = head.affine[axis, 3]
    header["magic"] = b"n+1"
    return header


def _compressed(content: bytes) -> bytes:
    """Gzip without a name and a time, so that the same head is the same file."""
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=2, fileobj=packed, mtime=0) as stream:
        stream.write(content)
    return packed.getvalue()
