"""Phantoms in the headers of real files: a stand-in for a data set that is not available.

A table of NIfTI-1 headers (CSV: a row a file, `filename` and columns named as the header's fields)
gives each phantom a name, a number of slices, spacing, gantry tilt and every other field, byte for
byte.
"""

import ast
import csv
import dataclasses
import math
from pathlib import Path

import nibabel as nib
import numpy as np

from data_prep.phantom.head import Head, scan_head
from data_prep.phantom.nifti import SINGLE_FILE_OFFSET
from data_prep.phantom.plan import STREAM_SCAN, HeadPlan
from data_prep.phantom.scan import Scan, draw_scan
from mbh_jax.errors import UserError

_MIDDLE_MM = 10.5
"""Height in the scan frame of the middle between the skull base and the vertex."""


@dataclasses.dataclass(frozen=True)
class StoredHeader:
    """The header of one real file.

    Attributes:
        patient_id: `ID_` and 8 hexadecimal digits.
        study_id: what follows in the file's name.
        header: all fields, as stored.
    """

    patient_id: str
    study_id: str
    header: nib.Nifti1Header


def read_headers(path: Path) -> list[StoredHeader]:
    """The headers of a table, in its order.

    Raises:
        UserError: it cannot be read, or a row is not the header of a square CT whose axes run to
            the left, anterior and upwards, as all of BHSD's do.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--headers {path}: cannot be read ({error}): give a CSV file") from None
    if not rows:
        raise UserError(f"--headers {path}: holds no headers: give a row a file")
    return [_parse(row, f"--headers {path}, row {number}") for number, row in enumerate(rows, 1)]


def make_head_like(stored: StoredHeader, plan: HeadPlan, size: int) -> Head:
    """A planned head, scanned as a stored header says.

    Args:
        stored: gives the number of slices, spacing and geometry.
        plan: whose head, with which blood.
        size: rows and columns, over the header's field of view.
    """
    header = stored.header.copy()
    dim, pixdim = header["dim"], header["pixdim"]
    reduction = dim[1] / size
    dim[1:3] = size
    pixdim[1:3] *= reduction
    for row in ("srow_x", "srow_y", "srow_z"):
        header[row][:2] *= reduction
    num_slices, spacing_mm = int(dim[3]), float(pixdim[3])
    drawn = draw_scan(plan.rng(STREAM_SCAN), size, max_slices=None)
    scan: Scan = dataclasses.replace(
        drawn,
        pixel_mm=float(pixdim[1]),
        spacing_mm=spacing_mm,
        num_slices=num_slices,
        first_z_mm=_MIDDLE_MM - 0.5 * (num_slices - 1) * spacing_mm,
        tilt_rad=2.0 * math.atan2(float(header["quatern_d"]), float(header["quatern_c"])),
    )
    head = scan_head(plan, scan)
    return dataclasses.replace(head, affine=header.get_best_affine(), header=header)


def _parse(row: dict[str, str], where: str) -> StoredHeader:
    header = nib.Nifti1Header(endianness="<", check=False)
    header["vox_offset"] = SINGLE_FILE_OFFSET
    try:
        for field, text in row.items():
            # Readers that make such tables leave the offset out or at 0.
            if field not in ("filename", "vox_offset"):
                header[field] = np.nan if text == "nan" else ast.literal_eval(text)
        name = row["filename"].removesuffix(".nii.gz")
        parts = name.split("_")
        dim, pixdim = header["dim"], header["pixdim"]
        axes = "".join(nib.aff2axcodes(header.get_best_affine()))
    except (KeyError, ValueError, SyntaxError, TypeError, nib.spatialimages.HeaderDataError) as why:
        raise UserError(f"{where}: not a NIfTI-1 header ({why}): give its fields") from None
    if len(parts) != 4:
        raise UserError(f"{where}: {name!r} is not of the pattern ID_x_ID_y: name it so")
    has_geometry = header["qform_code"] > 0 or header["sform_code"] > 0
    if (
        not has_geometry
        or axes != "LAS"
        or dim[0] != 3
        or dim[1] != dim[2]
        or pixdim[1] != pixdim[2]
    ):
        raise UserError(f"{where}: not a square CT stored to the left, anterior and up: remove it")
    return StoredHeader("_".join(parts[:2]), "_".join(parts[2:]), header)
