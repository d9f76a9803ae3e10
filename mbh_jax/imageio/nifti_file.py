"""What NIfTI files store: bytes to header and voxels on the stored axes; damage is one clear line.

Reads from any stream (a file, or a member of a zip), to the end, so that gzip checks its checksum.
"""

import contextlib
import gzip
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from mbh_jax.errors import UserError
from mbh_jax.imageio.nifti_geometry import read_geometry
from mbh_jax.imageio.stored import Header, checked_shape

_NIFTI1_HEADER_BYTES = 348
_NIFTI2_HEADER_BYTES = 540
_GZIP_MAGIC = b"\x1f\x8b"
_EXTENSION_FLAG_BYTES = 4
"""At least these lie between header and voxels; they say whether extensions follow."""
_EXTENSION_BYTES = 1 << 24
"""The most that extensions may take: a header that puts voxels further on is wrong or harmful."""
_TRAILING_BYTES = 1 << 20
"""Bytes after the voxels that are read, to reach gzip's checksum, and otherwise ignored."""


def read_header(source: Path | BinaryIO, name: str | None = None) -> Header:
    """Reads and checks the header only.

    Args:
        source: a .nii or .nii.gz file, or such a file open for reading.
        name: what errors call it; the path unless given.

    Raises:
        UserError: if it is not NIfTI, is not a 3-D volume of numbers or has no usable geometry.
    """
    name = source_name(source, name)
    with _errors_named(name), _open(source) as stream:
        header, _ = _parse_header(stream, name)
    return _checked_header(header, name)


def read_stored(source: Path | BinaryIO, name: str) -> tuple[Header, np.ndarray]:
    """Reads the header, and the voxels on the stored axes (i, j, k), scaled if the header says so.

    A slope that is NaN or zero means no scaling.

    Raises:
        UserError: as `read_header`, and if the file is truncated or fails its checksum.
    """
    with _errors_named(name), _open(source) as stream:
        nifti_header, raw = _parse_header(stream, name)
        header = _checked_header(nifti_header, name)
        data_start = _data_start(nifti_header, len(raw), name)
        data_bytes = int(np.prod(header.shape)) * nifti_header.get_data_dtype().itemsize
        # A read to the end of the file makes gzip check its checksum; the limit stops bombs.
        most = data_start + data_bytes + _TRAILING_BYTES - len(raw)
        body = stream.read(most + 1)
        if len(body) > most:
            raise UserError(
                f"{name}: goes on after the {data_bytes} bytes of voxels that its header gives: "
                "fetch it again"
            )
        data = body[data_start - len(raw) :][:data_bytes]
        if len(data) < data_bytes:
            raise UserError(
                f"{name}: truncated: {len(data)} of {data_bytes} bytes of voxels: fetch it again"
            )
        stored = np.frombuffer(data, nifti_header.get_data_dtype()).reshape(header.shape, order="F")
        if np.isinf(nifti_header["scl_slope"]):
            raise UserError(f"{name}: scl_slope is infinite: give 1 there if voxels are HU")
        slope, inter = nifti_header.get_slope_inter()
    if slope is not None and (slope, inter) != (1.0, 0.0):
        stored = stored.astype(np.float64) * slope + inter
    return header, stored


def source_name(source: Path | BinaryIO, name: str | None) -> str:
    """What errors call a source: `name` if given."""
    return name or str(source if isinstance(source, Path) else getattr(source, "name", "volume"))


@contextlib.contextmanager
def _errors_named(name: str) -> Iterator[None]:
    """Turns what reading a damaged file raises into one line with the file's name."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{name}: no such file") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{name}: truncated or damaged ({error}): fetch it again") from None
    except (ImageFileError, HeaderDataError, struct.error, KeyError, ValueError) as error:
        raise UserError(
            f"{name}: not a readable NIfTI volume ({error}): write it again as a CT in HU"
        ) from None
    except OSError as error:
        raise UserError(
            f"{name}: cannot be read ({error.strerror or error}): check the file and its "
            "permissions"
        ) from None


@contextlib.contextmanager
def _open(source: Path | BinaryIO) -> Iterator[BinaryIO]:
    """A stream of the decompressed bytes, whether or not the file is gzip."""
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(source.open("rb")) if isinstance(source, Path) else source
        magic = stream.read(len(_GZIP_MAGIC))
        stream.seek(0)
        if magic == _GZIP_MAGIC:
            unzipped = stack.enter_context(gzip.GzipFile(fileobj=stream, mode="rb"))
            yield cast(BinaryIO, unzipped)
        else:
            yield stream


def _parse_header(
    stream: BinaryIO, name: str
) -> tuple[nibabel.Nifti1Header | nibabel.Nifti2Header, bytes]:
    """The header and the bytes that it was made from."""
    raw = stream.read(_NIFTI1_HEADER_BYTES)
    kinds = {
        _NIFTI1_HEADER_BYTES: nibabel.Nifti1Header,
        _NIFTI2_HEADER_BYTES: nibabel.Nifti2Header,
    }
    sizes = {size for code in "<>" for size in struct.unpack(f"{code}i", raw[:4].ljust(4))}
    size = next((size for size in kinds if size in sizes), None)
    if size is None:
        raise UserError(f"{name}: not a NIfTI file: give .nii or .nii.gz volumes")
    raw += stream.read(size - len(raw))
    if len(raw) < size:
        raise UserError(f"{name}: truncated in the header: fetch it again")
    header = kinds[size](raw, check=False)  # The check would put 1 mm where spacing is 0.
    if not header["magic"].item().startswith(b"n+"):
        raise UserError(f"{name}: not a single-file NIfTI: give .nii or .nii.gz volumes")
    return header, raw


def _data_start(header: nibabel.Nifti1Header, header_bytes: int, name: str) -> int:
    """The byte where voxels begin; readers disagree on what 0 and others in the header mean."""
    offset = float(header["vox_offset"])
    first = header_bytes + _EXTENSION_FLAG_BYTES
    if not first <= offset <= first + _EXTENSION_BYTES:
        raise UserError(
            f"{name}: vox_offset {offset:g}, where voxels cannot begin: write it again, with "
            f"{first} unless there are extensions"
        )
    return int(offset)


def _checked_header(header: nibabel.Nifti1Header | nibabel.Nifti2Header, name: str) -> Header:
    with _errors_named(name):
        dtype = header.get_data_dtype()
        sizes = header.get_data_shape()
    if dtype.kind not in "iuf":
        raise UserError(f"{name}: voxels of type {dtype} are not single numbers: give a CT volume")
    shape = checked_shape(sizes, name)
    geometry = read_geometry(header, shape)
    if geometry is None:
        raise UserError(
            f"{name}: no usable geometry: neither sform nor qform holds a finite affine with "
            "spacing above zero: restore it in the file"
        )
    return Header(shape, geometry.affine, geometry.notes, header)
