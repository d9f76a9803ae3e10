"""Tiny head-like CTs written by hand in BHSD's layout and with its headers' quirks."""

import gzip
from pathlib import Path
from typing import Literal

import nibabel
import numpy as np

_TILT = np.deg2rad(15)
LAS_AFFINE = np.array(
    [
        [-0.5, 0, 0, 16],
        [0, 0.5 * np.cos(_TILT), -5 * np.sin(_TILT), -20],
        [0, 0.5 * np.sin(_TILT), 5 * np.cos(_TILT), -10],
        [0, 0, 0, 1],
    ]
)
"""BHSD's stored orientation, with a gantry tilt; spacing 0.5, 0.5 and 5 mm."""


def nifti_bytes(
    stored: np.ndarray,
    affine: np.ndarray = LAS_AFFINE,
    *,
    byte_order: Literal["<", ">"] = "<",
    version: int = 1,
    scaling: tuple[float, float] = (np.nan, np.nan),
    qform_only: bool = True,
) -> bytes:
    """A NIfTI file made by hand, with BHSD's quirks: NaN slope, and no sform."""
    header_class = {1: nibabel.Nifti1Header, 2: nibabel.Nifti2Header}[version]
    header = header_class(endianness=byte_order)
    header.set_data_dtype(stored.dtype)
    header.set_data_shape(stored.shape)
    header.set_qform(affine, code=1)
    if not qform_only:
        header.set_sform(affine, code=1)
    header["scl_slope"], header["scl_inter"] = scaling
    header["magic"] = {1: b"n+1", 2: b"n+2"}[version]
    data_start = header.sizeof_hdr + 4
    header["vox_offset"] = data_start
    voxels = stored.astype(stored.dtype.newbyteorder(byte_order)).tobytes(order="F")
    return header.binaryblock.ljust(data_start, b"\0") + voxels


def tiny_volume(seed: int, num_slices: int, size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """A head-like disc with a bright box for each kind of blood, as stored: HU int16, label uint16.

    Boxes lie in all slices but the first and last; their places change with `seed`.
    """
    rng = np.random.default_rng(seed)
    i, j = np.indices((size, size)) - size / 2
    disc = np.hypot(i, j * 0.9)
    plane = np.select([disc < size * 0.42, disc < size * 0.47], [35, 1000], -1000)
    hu = np.repeat(plane[:, :, np.newaxis], num_slices, axis=2) + rng.integers(-4, 5, (1, 1, 1))
    label = np.zeros(hu.shape, np.uint16)
    for value in range(1, 6):
        left = 14 + 7 * (value - 1) + int(rng.integers(0, 2))
        top = 20 + int(rng.integers(0, 16))
        box = (slice(left, left + 5), slice(top, top + 8), slice(1, num_slices - 1))
        label[box] = value
        hu[box] = 55 + 6 * value
    hu = hu + rng.integers(-3, 4, hu.shape)
    return hu.astype(np.int16), label


def write_case(source: Path, volume_id: str, image: bytes, label: bytes) -> None:
    """Puts a gzipped pair of files into `source` as BHSD lays them out."""
    for folder, content in (("images", image), ("ground truths", label)):
        path = source / folder / f"{volume_id}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(content, mtime=0))


def write_tiny_source(source: Path, num_volumes: int = 8, size: int = 64) -> Path:
    """A folder of tiny volumes; the first two are of one patient."""
    for number in range(num_volumes):
        hu, label = tiny_volume(number, 5 + number % 2, size)
        patient = max(number, 1)
        write_case(
            source,
            f"ID_{patient:08x}_ID_{number:010x}",
            nifti_bytes(hu),
            nifti_bytes(label),
        )
    return source


def enlarge_one_volume(source: Path) -> None:
    """Doubles the image size of a source's first volume, each voxel becoming four."""
    for folder in ("images", "ground truths"):
        path = min((source / folder).glob("*.nii.gz"))
        image = nibabel.load(path)
        voxels = np.asarray(image.dataobj).repeat(2, 0).repeat(2, 1)
        affine = image.affine @ np.diag([0.5, 0.5, 1, 1])
        nibabel.save(nibabel.Nifti1Image(voxels, affine, dtype=voxels.dtype), path)
