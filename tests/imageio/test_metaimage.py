"""MetaImage files made by hand: geometry, types, byte orders, compression, and damage."""

import os
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest

from mbh_jax.errors import UserError
from mbh_jax.imageio import metaimage
from mbh_jax.imageio.nifti import write_label
from mbh_jax.imageio.readers import find_scans, read_scan

STORED = np.random.default_rng(0).integers(-1000, 2000, (4, 5, 3)).astype(np.int16)
"""On the stored axes (i, j, k)."""
HEADER = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False",
    "TransformMatrix": "1 0 0 0 0.8 0.6 0 0 1",
    "Offset": "-10 -20 30",
    "ElementSpacing": "0.5 0.4 5",
    "DimSize": "4 5 3",
    "ElementType": "MET_SHORT",
    "ElementDataFile": "LOCAL",
}
"""Axis j is turned about x, axis k is not: the slices of a tilted gantry."""
LPS = np.array([[0.5, 0, 0, -10], [0, 0.32, 0, -20], [0, 0.24, 5, 30], [0, 0, 0, 1]])
RAS = np.diag([-1, -1, 1, 1]) @ LPS


def meta(data: bytes = STORED.tobytes("F"), **changed: str | None) -> bytes:
    """A file with other fields; None leaves one out."""
    fields = {**HEADER, **changed}
    fields["ElementDataFile"] = fields.pop("ElementDataFile")  # Always last.
    lines = [f"{key} = {value}\n" for key, value in fields.items() if value is not None]
    return "".join(lines).encode() + data


def test_geometry_and_the_mask_on_the_same_grid(tmp_path: Path) -> None:
    path = tmp_path / "scan.mha"
    path.write_bytes(meta())
    header, stored = metaimage.read_stored(path)
    np.testing.assert_array_equal(stored, STORED)
    np.testing.assert_allclose(header.affine, RAS)
    volume = read_scan(path)
    assert volume.stored_axcodes == "LPS"
    np.testing.assert_array_equal(volume.hu, STORED.transpose(2, 1, 0))
    write_label(tmp_path / "mask.nii.gz", (volume.hu % 6).astype(np.uint8), volume)
    mask = nibabel.load(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(np.asarray(mask.dataobj), STORED % 6)
    np.testing.assert_allclose(mask.affine, RAS, atol=1e-5)


@pytest.mark.parametrize(
    "element",
    [("MET_SHORT", "i2"), ("MET_USHORT", "u2"), ("MET_INT", "i4"), ("MET_DOUBLE", "f8")],
)
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("local", [False, True])
def test_types_byte_orders_and_storage(
    tmp_path: Path, element: tuple[str, str], big: bool, compress: bool, local: bool
) -> None:
    kind, dtype = element
    values = np.abs(STORED).astype((">" if big else "<") + dtype)
    data = zlib.compress(values.tobytes("F")) if compress else values.tobytes("F")
    fields = {
        "ElementType": kind,
        "BinaryDataByteOrderMSB": str(big),
        "CompressedData": str(compress),
        "ElementDataFile": "LOCAL" if local else "scan.raw",
    }
    path = tmp_path / "scan.mhd"
    path.write_bytes(meta(data if local else b"", **fields))
    if not local:
        (tmp_path / "scan.raw").write_bytes(data)
    _, stored = metaimage.read_stored(path)
    np.testing.assert_array_equal(stored, np.abs(STORED))
    assert [scan.name for scan in find_scans(tmp_path)] == ["scan"]


@pytest.mark.parametrize("compress", [False, True])
def test_as_simpleitk_writes_it(tmp_path: Path, compress: bool) -> None:
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK, the second reader, is not installed")
    image = sitk.GetImageFromArray(STORED.transpose(2, 1, 0))
    image.SetSpacing((0.5, 0.4, 5.0))
    image.SetOrigin((-10.0, -20.0, 30.0))
    # SimpleITK gives the directions of the axes as the columns of a matrix.
    image.SetDirection((1, 0, 0, 0, 0.8, 0, 0, 0.6, 1))
    for name in ("scan.mha", "scan.mhd"):
        sitk.WriteImage(image, str(tmp_path / name), compress)
        header, stored = metaimage.read_stored(tmp_path / name)
        np.testing.assert_array_equal(stored, STORED)
        corner = image.TransformIndexToPhysicalPoint((3, 4, 2))
        np.testing.assert_allclose((header.affine @ [3, 4, 2, 1])[:3] * [-1, -1, 1], corner)


ZIPPED = zlib.compress(STORED.tobytes("F"))
FLOATS = STORED.astype("f4")
FLOATS[1, 1, 1] = np.nan
BAD = {
    "empty": (b"", "not a whole MetaImage header"),
    "text": (b"hello, this is no volume\n" * 9, "not a MetaImage file"),
    "cut off in the header": (meta()[:47], "not a whole MetaImage header"),
    "cut off in the voxels": (meta()[:-1], "119 bytes of voxels, the header says 120"),
    "goes on": (meta() + b"x", "121 bytes of voxels, the header says 120"),
    "cut off, compressed": (meta(ZIPPED[:-9], CompressedData="True"), "truncated"),
    "not compressed": (meta(CompressedData="True"), "damaged"),
    "missing data file": (meta(ElementDataFile="away.raw"), r"away\.raw: cannot be read \(No such"),
    "several data files": (meta(ElementDataFile="LIST"), "voxels in several files"),
    "unknown type": (meta(ElementType="MET_STRING"), "ElementType MET_STRING is not read"),
    "no type": (meta(ElementType=None), "ElementType missing"),
    "four dimensions": (meta(NDims="4", DimSize="4 5 3 2"), "give one 3-D volume"),
    "no slices": (meta(DimSize="4 5 0"), "give one 3-D volume"),
    "too large": (meta(DimSize="40000 40000 40000"), "too large for a head CT"),
    "size that is no number": (meta(DimSize="4 5 many"), "DimSize 4 5 many: not numbers"),
    "sizes that do not fit": (meta(NDims="2"), "DimSize 4 5 3"),
    "spacing 0": (meta(ElementSpacing="0.5 0 5"), "no usable geometry"),
    "no spacing": (meta(ElementSpacing=None), "no usable geometry"),
    "NaN position": (meta(Offset="0 nan 0"), "Offset 0 nan 0: not numbers"),
    "flat": (meta(TransformMatrix="1 0 0 1 0 0 0 0 1"), "no usable geometry"),
    "colours": (meta(ElementNumberOfChannels="3"), "several channels"),
    "text voxels": (meta(BinaryData="False"), "voxels as text"),
    "no image": (meta(ObjectType="Tube"), "holds no image"),
    "NaN voxels": (meta(FLOATS.tobytes("F"), ElementType="MET_FLOAT"), "NaN or infinite voxels"),
    "no HU": (
        meta((STORED * 100.0).astype("f4").tobytes("F"), ElementType="MET_FLOAT"),
        "cannot be Hounsfield units",
    ),
    "a mask": (meta((STORED % 2).tobytes("F")), "values from 0 to 1 only"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_are_named_in_one_line(tmp_path: Path, kind: str) -> None:
    content, message = BAD[kind]
    path = tmp_path / "bad.mha"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as raised:
        read_scan(tmp_path)
    assert str(raised.value).startswith(str(tmp_path)) and "\n" not in str(raised.value)


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "scan.mha"
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=f"{os.strerror(2)}.*check the file"):
        metaimage.read_stored(path)
