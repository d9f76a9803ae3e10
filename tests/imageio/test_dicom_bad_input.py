"""DICOM input that cannot be used: one clear line each, and no patient's data in it."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dicom_files
import numpy as np
import pydicom
import pytest
from dicom_files import head, positions, series_tags, write_head, write_series

from mbh_jax.errors import UserError
from mbh_jax.imageio.readers import find_scans, read_scan


def cut(path: Path, size: int) -> None:
    """Keeps the first bytes of a file."""
    path.write_bytes(path.read_bytes()[:size])


def changed(folder: Path, **tags: Any) -> None:
    """A series of four slices with other tags; None removes one."""
    write_head(folder, 4, tags=series_tags(**tags))


def without_pixels(folder: Path) -> None:
    for path in write_head(folder, 4):
        data = pydicom.dcmread(path)
        del data.PixelData
        data.save_as(path)


def other_size_than_pixels(folder: Path) -> None:
    data = pydicom.dcmread(write_head(folder, 1)[0])
    data.Rows = 200
    data.save_as(folder / "IM0000")


def more_than_a_head(folder: Path) -> None:
    for path in write_head(folder, 2):
        data = pydicom.dcmread(path)
        data.Rows = data.Columns = 65000
        data.save_as(path)


def undescribed_frames(folder: Path) -> None:
    path = folder / "multi"
    dicom_files.write_multi_frame(path, head(4), positions(5.0 * np.arange(4))[1])
    data = pydicom.dcmread(path)
    data.NumberOfFrames = 9
    data.save_as(path)


def damaged_compression(folder: Path) -> None:
    path = write_head(folder, 1)[0]
    data = pydicom.dcmread(path)
    data.compress(pydicom.uid.JPEGLSLossless)
    damaged = data.PixelData[:200] + bytes(len(data.PixelData) - 200)
    data.PixelData = damaged
    data.save_as(path)


def text_for_numbers(folder: Path) -> None:
    """A slope that is a word, written past pydicom's checks."""
    for path in write_head(folder, 2, tags=series_tags(RescaleSlope="1.000000")):
        path.write_bytes(path.read_bytes().replace(b"1.000000", b"one_____"))


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no DICOM": (lambda f: (f / "IM0").write_text("GIF89a"), "holds no scan"),
    "empty file": (lambda f: (f / "IM0").write_bytes(b""), "holds no scan"),
    "empty, named as DICOM": (lambda f: (f / "1.dcm").write_bytes(b""), "damaged DICOM file"),
    "text, named as DICOM": (lambda f: (f / "1.DCM").write_text("GIF89a"), "damaged DICOM file"),
    "cut off in the preamble": (lambda f: cut(write_head(f, 1)[0], 60), "holds no scan"),
    "cut off after the preamble": (lambda f: cut(write_head(f, 1)[0], 140), "damaged DICOM file"),
    "cut off in the header": (lambda f: cut(write_head(f, 1)[0], 900), "damaged DICOM file"),
    "cut off in the pixels": (lambda f: cut(write_head(f, 1)[0], 3000), "damaged DICOM file"),
    "no pixels": (without_pixels, "holds no pixels"),
    "fewer pixels than rows": (other_size_than_pixels, "damaged DICOM file"),
    "too large": (more_than_a_head, "2 slices of 65000 x 65000 are too many for a head"),
    "frames without geometry": (undescribed_frames, "damaged DICOM file"),
    "damaged compression": (damaged_compression, "damaged DICOM file"),
    "a word for the slope": (text_for_numbers, "damaged DICOM file"),
    "slope 0": (lambda f: changed(f, RescaleSlope=0), "rescale slope 0"),
    "not HU": (lambda f: changed(f, RescaleType="MGML"), "values in MGML, not in HU"),
    "values that are no HU": (
        lambda f: changed(f, RescaleSlope=0.01, RescaleIntercept=60000),
        "cannot be Hounsfield units",
    ),
    "a mask": (
        lambda f: write_series(f, (head(3) > 50).astype(int), positions([0, 5, 10])[1]),
        "values from 0 to 1 only",
    ),
    "no position": (lambda f: changed(f, ImageOrientationPatient=None), "no usable position"),
    "empty orientation": (lambda f: changed(f, ImageOrientationPatient=""), "no usable position"),
    "five numbers": (
        lambda f: changed(f, ImageOrientationPatient=[1, 0, 0, 0, 1]),
        "no usable position",
    ),
    "axes not at right angles": (
        lambda f: changed(f, ImageOrientationPatient=[1, 0, 0, 0.6, 0.8, 0]),
        "no usable position",
    ),
    "no pixel spacing": (lambda f: changed(f, PixelSpacing=None), "no usable pixel spacing"),
    "pixel spacing 0": (lambda f: changed(f, PixelSpacing=[0, 0.5]), "no usable pixel spacing"),
    "another modality": (lambda f: changed(f, Modality="PT"), "PT, not CT"),
    "a screenshot": (
        lambda f: changed(f, SOPClassUID="1.2.840.10008.5.1.4.1.1.7"),
        "Secondary Capture",
    ),
    "a colour picture": (lambda f: changed(f, SamplesPerPixel=3), "a colour picture"),
    "only a localizer": (
        lambda f: changed(f, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        "localizer",
    ),
    "only sagittal": (
        lambda f: changed(f, ImageOrientationPatient=[0, 1, 0, 0, 0, -1]),
        "not axial",
    ),
    "another part of the body": (
        lambda f: changed(f, BodyPartExamined="ABDOMEN"),
        "shows ABDOMEN, not the head",
    ),
    "one slice of unknown thickness": (
        lambda f: write_head(f, 1, tags=series_tags(SliceThickness=None)),
        "a single slice of unknown thickness",
    ),
    "two series for one": (
        lambda f: [changed(f / "a"), changed(f / "b")],
        "holds 2 scans",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_line(tmp_path: Path, kind: str) -> None:
    make, message = BAD[kind]
    folder = tmp_path / "input"
    folder.mkdir()
    make(folder)
    with pytest.raises(UserError, match=message) as raised:
        read_scan(folder)
    said = str(raised.value)
    assert "\n" not in said and (str(folder) in said or "Head_5mm_brain_" in said)
    assert not any(secret in said for secret in ("DOE", "4711", "1956", "ACC-815", "2026"))


def test_one_damaged_slice_of_many_is_named(tmp_path: Path) -> None:
    paths = write_head(tmp_path, 6)
    cut(paths[2], 900)
    bad, good = sorted(find_scans(tmp_path), key=lambda scan: scan.series is not None)
    with pytest.raises(UserError, match="IM0002: damaged DICOM file"):
        bad.read()
    assert "10 mm between slices 2 and 3" in good.read().notes[0]


def test_no_series_of_that_name(tmp_path: Path) -> None:
    write_head(tmp_path, 4)
    with pytest.raises(UserError, match=r"holds no scan.*Head_5mm_brain.*not --series bone"):
        find_scans(tmp_path, series="bone")


def test_values_that_nobody_scaled_are_said(tmp_path: Path) -> None:
    tags = series_tags(RescaleSlope=None, RescaleIntercept=None, PixelRepresentation=1)
    write_head(tmp_path, 4, tags=tags)
    volume = read_scan(tmp_path)
    np.testing.assert_array_equal(volume.hu, head(4))
    assert volume.notes == ("the files do not say how values become HU: they are taken as HU",)


def test_without_pydicom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_head(tmp_path, 1)[0]
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UserError, match=r'need pydicom: pip install "mbh_jax\[dicom\]"'):
        read_scan(path)


def test_without_a_codec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_head(tmp_path, 1)[0]
    data = pydicom.dcmread(path)
    data.compress(pydicom.uid.JPEGLSLossless)
    data.save_as(path)
    decoder = pydicom.pixels.get_decoder(pydicom.uid.JPEGLSLossless)
    monkeypatch.setattr(decoder, "_available", {})
    monkeypatch.setattr(decoder, "_unavailable", {"pyjpegls": ("pyjpegls",)})
    with pytest.raises(UserError, match=r'JPEG-LS.*: pip install "mbh_jax\[dicom\]"'):
        read_scan(path)


def test_pydicom_says_nothing_of_the_patient(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    """A date of birth that is none makes pydicom warn, and quote it."""
    tags = series_tags(PatientBirthDate="19560102")
    for path in write_series(tmp_path, head(3), positions([0, 5, 10])[1], tags=tags):
        path.write_bytes(path.read_bytes().replace(b"19560102", b"DOE_JANE"))
    read_scan(tmp_path)
    assert "DOE" not in "".join(capfd.readouterr())
    assert not [warning for warning in recwarn if "DOE" in str(warning.message)]
