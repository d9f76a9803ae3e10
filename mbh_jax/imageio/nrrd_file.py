"""NRRD files (.nrrd, and .nhdr with the voxels beside it) to header and voxels as stored.

pynrrd reads them. The affine is turned to RAS+; directions need not be at right angles.
"""

import os
import zlib
from pathlib import Path
from typing import Any

import nrrd
import numpy as np

from mbh_jax.errors import UserError
from mbh_jax.imageio.stored import Header, checked_shape, is_usable_affine

_SIGN_TO_RAS = {"left": -1.0, "right": 1.0, "posterior": -1.0, "anterior": 1.0}
_LETTERS = {"L": "left", "R": "right", "P": "posterior", "A": "anterior", "S": "superior"}

_DAMAGED = (
    *(nrrd.NRRDError, ValueError, KeyError, TypeError, IndexError, EOFError, zlib.error),
    StopIteration,  # Of an empty file.
)


def read_stored(path: Path) -> tuple[Header, np.ndarray]:
    """Reads the header, and the voxels on the stored axes (i, j, k).

    Args:
        path: a .nrrd or .nhdr file in any encoding that pynrrd reads.

    Raises:
        UserError: it is no NRRD file, is not a 3-D volume of numbers, has no usable geometry, or is
            damaged.
    """
    name = str(path)
    try:
        with path.open("rb") as stream:
            fields: dict[str, Any] = dict(nrrd.read_header(stream))
            shape = checked_shape(tuple(int(size) for size in fields.get("sizes", ())), name)
            affine = _affine(fields, name)
            voxels = nrrd.read_data(dict(fields), stream, name, index_order="F")
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "damaged"
        raise UserError(f"{path}: cannot be read ({reason}): check the file") from None
    except _DAMAGED as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: not a whole NRRD file ({text}): fetch it again") from None
    if voxels.dtype.kind not in "iuf":
        raise UserError(f"{path}: voxels of type {fields['type']}: give a CT volume of numbers")
    return Header(shape, affine), voxels.reshape(shape, order="F")


def _affine(fields: dict[str, Any], name: str) -> np.ndarray:
    """(4, 4), stored voxel to RAS+ mm; a row of `space directions` is the step of an axis."""
    problem = UserError(
        f"{name}: no usable geometry: space, space directions and space origin must say where 3 "
        "axes lie in mm: restore them in the file"
    )
    space = str(fields.get("space", ""))
    words = [_LETTERS.get(letter, "") for letter in space] if len(space) == 3 else space.split("-")
    directions = np.asarray(fields.get("space directions", ()), np.float64)
    origin = np.asarray(fields.get("space origin", ()), np.float64)
    if directions.shape[:1] == (4,) and np.isnan(directions).all(1).any():
        raise UserError(f"{name}: an axis that is not of space: give one 3-D volume a file")
    units = set(fields.get("space units", ("mm",)))
    is_known = (
        len(words) == 3
        and words[0] in ("left", "right")
        and words[1] in ("posterior", "anterior")
        and words[2] == "superior"
        and units == {"mm"}
    )
    if not is_known or directions.shape != (3, 3) or origin.shape != (3,):
        raise problem
    affine = np.eye(4)
    affine[:3, :3] = directions.T
    affine[:3, 3] = origin
    affine = np.diag([_SIGN_TO_RAS[words[0]], _SIGN_TO_RAS[words[1]], 1.0, 1.0]) @ affine
    if not is_usable_affine(affine):
        raise problem
    return affine
