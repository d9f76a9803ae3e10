"""MetaImage files (.mha, and .mhd with the voxels beside it) to header and voxels as stored.

Source of the rules: ITK's description of the MetaIO format. Positions are LPS+ millimetres, and the
affine is turned to RAS+; directions need not be at right angles, so that a gantry tilt stays.
"""

import os
import zlib
from pathlib import Path

import numpy as np

from mbh_jax.errors import UserError
from mbh_jax.imageio.stored import Header, checked_shape, is_usable_affine

_TYPES = {
    **{"MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2"},
    **{"MET_INT": "i4", "MET_UINT": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8"},
    **{"MET_FLOAT": "f4", "MET_DOUBLE": "f8"},
}
"""NumPy's name of each element type; MET_LONG is left out, whose size differs between machines."""

_MAX_HEADER_BYTES = 1 << 16
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_OTHER_NAMES = {
    **{"Position": "Offset", "Origin": "Offset"},
    **{"Orientation": "TransformMatrix", "Rotation": "TransformMatrix"},
}
"""Older names of two fields."""


def read_stored(path: Path) -> tuple[Header, np.ndarray]:
    """Reads the header, and the voxels on the stored axes (i, j, k).

    Args:
        path: a .mha or .mhd file, raw or zlib-compressed, with the voxels in it or in one file.

    Raises:
        UserError: it is no MetaImage, is not a 3-D volume of numbers, has no usable geometry, or is
            damaged.
    """
    content = _content(path)
    fields, start = _fields(content, str(path))
    shape = _shape(fields, str(path))
    affine = _affine(fields, str(path))
    data_file = fields["ElementDataFile"]
    if data_file.upper() == "LOCAL":
        data, data_name = content[start:], str(path)
    elif data_file.split()[0].upper() == "LIST" or "%" in data_file:
        raise UserError(f"{path}: voxels in several files: write it again as one .mha file")
    else:
        data_path = path.parent / data_file
        data, data_name = _content(data_path), str(data_path)
        data = data[_whole(fields, "HeaderSize", str(path)) :]
    kind = fields.get("ElementType", "")
    if kind not in _TYPES:
        raise UserError(
            f"{path}: ElementType {kind or 'missing'} is not read: give one of {', '.join(_TYPES)}"
        )
    big = _is_true(fields, "BinaryDataByteOrderMSB") or _is_true(fields, "ElementByteOrderMSB")
    dtype = np.dtype((">" if big else "<") + _TYPES[kind])
    num_bytes = int(np.prod(shape)) * dtype.itemsize
    if _is_true(fields, "CompressedData"):
        data = _decompressed(data, num_bytes, data_name)
    if len(data) != num_bytes:
        raise UserError(
            f"{data_name}: {len(data)} bytes of voxels, the header says {num_bytes}: fetch it again"
        )
    return Header(shape, affine), np.frombuffer(data, dtype).reshape(shape, order="F")


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise UserError(
            f"{path}: cannot be read ({reason}): check the file and its permissions"
        ) from None


def _fields(content: bytes, name: str) -> tuple[dict[str, str], int]:
    """The fields of the header, and where the bytes behind it begin."""
    fields: dict[str, str] = {}
    start = 0
    while "ElementDataFile" not in fields:
        end = content.find(b"\n", start, _MAX_HEADER_BYTES)
        line = content[start : end if end >= 0 else _MAX_HEADER_BYTES]
        key, equals, value = line.decode("utf-8", "replace").partition("=")
        if line.strip() and not equals:
            raise UserError(f"{name}: not a MetaImage file: give a .mha or .mhd volume")
        if equals:
            fields[_OTHER_NAMES.get(key.strip(), key.strip())] = value.strip()
        if end < 0:
            break
        start = end + 1
    if not fields.get("ElementDataFile"):
        raise UserError(f"{name}: not a whole MetaImage header: fetch it again")
    if fields.get("ObjectType", "Image") != "Image":
        raise UserError(f"{name}: holds no image: give a CT volume")
    if not _is_true(fields, "BinaryData", default=True):
        raise UserError(f"{name}: voxels as text: write it again with binary voxels")
    if _whole(fields, "ElementNumberOfChannels", name, 1) != 1:
        raise UserError(f"{name}: several channels: give a CT volume")
    return fields, start


def _shape(fields: dict[str, str], name: str) -> tuple[int, int, int]:
    sizes = _numbers(fields, "DimSize", name)
    if len(sizes) != _whole(fields, "NDims", name, len(sizes)) or (sizes != np.rint(sizes)).any():
        raise UserError(f"{name}: DimSize {fields.get('DimSize')}: write it again")
    return checked_shape(tuple(int(size) for size in sizes), name)


def _affine(fields: dict[str, str], name: str) -> np.ndarray:
    """(4, 4), stored voxel to RAS+ mm; a row of TransformMatrix is the direction of an axis."""
    spacing_mm = _numbers(fields, "ElementSpacing", name)[:3]
    origin_mm = _numbers(fields, "Offset", name)[:3]
    matrix = _numbers(fields, "TransformMatrix", name)
    affine = np.eye(4)
    if len(matrix) == 9 and len(spacing_mm) == 3 and len(origin_mm) == 3:
        affine[:3, :3] = matrix.reshape(3, 3).T * spacing_mm
        affine[:3, 3] = origin_mm
        if (spacing_mm > 0).all() and is_usable_affine(affine):
            return _LPS_TO_RAS @ affine
    raise UserError(
        f"{name}: no usable geometry: ElementSpacing, Offset and TransformMatrix must say where 3 "
        "axes lie: restore them in the file"
    )


def _numbers(fields: dict[str, str], key: str, name: str) -> np.ndarray:
    """The finite numbers of a field; none where it is absent."""
    try:
        values = np.array([float(word) for word in fields.get(key, "").split()])
    except ValueError:
        values = np.array([np.nan])
    if not np.isfinite(values).all():
        raise UserError(f"{name}: {key} {fields[key]}: not numbers: write the file again")
    return values


def _whole(fields: dict[str, str], key: str, name: str, default: int = 0) -> int:
    text = fields.get(key, str(default))
    if not text.isdecimal():
        raise UserError(f"{name}: {key} {text}: write the file again, or as .nii.gz")
    return int(text)


def _is_true(fields: dict[str, str], key: str, *, default: bool = False) -> bool:
    return fields.get(key, str(default)).lower() in ("true", "1")


def _decompressed(data: bytes, num_bytes: int, name: str) -> bytes:
    """At most one byte more than the voxels take."""
    unpacker = zlib.decompressobj()
    try:
        unpacked = unpacker.decompress(data, num_bytes + 1)
    except zlib.error as error:
        raise UserError(f"{name}: damaged ({error}): fetch it again") from None
    if len(unpacked) <= num_bytes and not unpacker.eof:
        raise UserError(f"{name}: truncated: {len(unpacked)} of {num_bytes} bytes: fetch it again")
    return unpacked
