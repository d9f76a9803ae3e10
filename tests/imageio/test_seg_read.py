"""DICOM SEG read back: as it was written, by us and by highdicom, and what is refused."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_files import (
    PIXEL_MM,
    SERIES,
    head,
    positions,
    series_tags,
    uid,
    write_head,
    write_series,
)
from pydicom.pixels import pack_bits, pixel_array

from mbh_jax.errors import UserError
from mbh_jax.imageio import seg
from mbh_jax.imageio.dicom import Series
from mbh_jax.imageio.readers import find_scans
from mbh_jax.imageio.seg_read import read_seg, referenced_images

highdicom = pytest.importorskip("highdicom", reason="highdicom is not installed: the dicom extra")

CLASSES = ("EDH", "IPH", "IVH", "SAH", "SDH")


def boxes(num_slices: int = 5, size: int = 64) -> np.ndarray:
    """A mask of three classes without any symmetry; the second slice from below is empty."""
    mask = np.zeros((num_slices, size, size), np.uint8)
    mask[2:4, 5:20, 30:41] = 2
    mask[2, 40:44, 3:9] = 5
    mask[-1, 0:2, 60:64] = 1
    mask[0, 9, 9] = 4
    return mask


def one_series(folder: Path) -> Series:
    """The one series in a folder."""
    (scan,) = find_scans(folder)
    assert scan.series is not None
    return scan.series


@pytest.mark.parametrize("kind", SERIES)
def test_what_was_written_is_read(tmp_path: Path, kind: str) -> None:
    z_mm, degrees, changed = SERIES[kind]
    orientation, positions_mm = positions(z_mm, degrees)
    tags = series_tags(**{"ImageOrientationPatient": orientation, **changed})
    files = write_series(tmp_path / "series", head(5), positions_mm, tags=tags)
    (scan,) = find_scans(tmp_path / "series")
    assert scan.series is not None
    path = tmp_path / "mask.seg.dcm"
    seg.write_seg(path, boxes(), scan.read(), scan.series, model="m", version="0")
    np.testing.assert_array_equal(read_seg(path, scan.series), boxes())
    assert referenced_images(path) == {pydicom.dcmread(file).SOPInstanceUID for file in files}


def write_with_highdicom(
    path: Path,
    files: list[Path],
    frames: np.ndarray,
    segments: list[tuple[str, str]],
    kind: str = "BINARY",
) -> None:
    """Writes a segmentation by highdicom alone.

    Args:
        path: of the new file.
        files: the images.
        frames: (images, rows, columns) segment numbers, or (..., segments) values of each segment.
        segments: label and SNOMED code of each segment, from number 1.
        kind: of the segmentation.
    """
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    highdicom.seg.Segmentation(
        source_images=[pydicom.dcmread(file) for file in files],
        pixel_array=frames,
        segmentation_type=kind,
        segment_descriptions=[
            highdicom.seg.SegmentDescription(
                segment_number=number,
                segment_label=label,
                segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
                segmented_property_type=Code(code, "SCT", "meaning"),
                algorithm_type="MANUAL",
            )
            for number, (label, code) in enumerate(segments, 1)
        ],
        series_instance_uid=uid(),
        series_number=1,
        sop_instance_uid=uid(),
        instance_number=1,
        manufacturer="another",
        manufacturer_model_name="another",
        software_versions="1",
        device_serial_number="1",
    ).save_as(path)


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP", "FRACTIONAL"])
def test_segments_of_another_program(tmp_path: Path, kind: str) -> None:
    """By code or by label, in any order, and two lesions of one class as two segments."""
    files = write_head(tmp_path / "series", 5)
    numbers = np.zeros((5, 64, 64), np.uint8)
    numbers[1, 3:9, 4:7], numbers[3, 30:40, 50:60], numbers[3, 2, 2] = 1, 2, 3
    numbers[4, 9:20, 1] = 4
    segments = [
        ("left", "35486000"),
        ("intraparenchymal hemorrhage", "50960005"),
        ("right", "35486000"),
        ("Epidural Haematoma", "50960005"),
    ]
    frames = numbers
    if kind == "FRACTIONAL":
        frames = np.stack([numbers == number for number in (1, 2, 3, 4)], -1).astype(float)
    path = tmp_path / "made.dcm"
    write_with_highdicom(path, files, frames, segments, kind)
    found = read_seg(path, one_series(tmp_path / "series"))
    np.testing.assert_array_equal(found, np.array([0, 5, 2, 5, 1], np.uint8)[numbers])


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., tuple[Path, Series]]:
    """A series, and a segmentation of it that `change` has changed."""

    def make(change: Callable[[Any], object] = lambda data: None) -> tuple[Path, Series]:
        files = write_head(tmp_path / "series", 5)
        path = tmp_path / "mask.dcm"
        codes = [seg.SNOMED[name][0] for name in CLASSES]
        write_with_highdicom(path, files, boxes(), list(zip(CLASSES, codes, strict=True)))
        data = pydicom.dcmread(path)
        change(data)
        data.save_as(path)
        return path, one_series(tmp_path / "series")

    return make


def _forget_sources(data: Any) -> None:
    for frame in data.PerFrameFunctionalGroupsSequence:
        del frame.DerivationImageSequence


def _other_sources(data: Any, only_first: bool = False) -> None:
    for frame in list(data.PerFrameFunctionalGroupsSequence)[: 1 if only_first else None]:
        frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID = uid()


def _move(data: Any) -> None:
    place = data.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0]
    place.ImagePositionPatient = [*place.ImagePositionPatient[:2], 2.0]


def _turn(data: Any, orientation: Sequence[float] = (0, 1, 0, 1, 0, 0)) -> None:
    shared = data.SharedFunctionalGroupsSequence[0]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = list(orientation)


def _flip(data: Any, rows: bool, columns: bool) -> None:
    """Rows from the back or columns from the left, as of a NIfTI file; nothing moves."""
    frames = pixel_array(data)[:, :: -1 if rows else 1, :: -1 if columns else 1]
    data.PixelData = pack_bits(np.ascontiguousarray(frames))
    shared = data.SharedFunctionalGroupsSequence[0]
    signs = (-1 if columns else 1), (-1 if rows else 1)
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [signs[0], 0, 0, 0, signs[1], 0]
    for frame in data.PerFrameFunctionalGroupsSequence:
        place = frame.PlanePositionSequence[0]
        x, y, z = place.ImagePositionPatient
        last_mm = 63 * PIXEL_MM
        place.ImagePositionPatient = [x + columns * last_mm, y + rows * last_mm, z]


@pytest.mark.parametrize(("rows", "columns"), [(True, False), (False, True), (True, True)])
def test_rows_and_columns_may_run_the_other_way(
    made: Callable[..., tuple[Path, Series]], rows: bool, columns: bool
) -> None:
    path, series = made(lambda data: _flip(data, rows, columns))
    np.testing.assert_array_equal(read_seg(path, series), boxes())


def _rename(data: Any, label: str, code: str) -> None:
    data.SegmentSequence[1].SegmentLabel = label
    data.SegmentSequence[1].SegmentedPropertyTypeCodeSequence[0].CodeValue = code


def test_without_references_the_position_decides(made: Callable[..., tuple[Path, Series]]) -> None:
    path, series = made(_forget_sources)
    np.testing.assert_array_equal(read_seg(path, series), boxes())


def test_references_to_copies_that_the_stack_leaves_out(tmp_path: Path) -> None:
    tags = series_tags()
    write_head(tmp_path / "series", 5, tags=tags)
    later = {number: {"InstanceNumber": 100 + number} for number in range(5)}
    copies = write_head(tmp_path / "series" / "again", 5, tags=tags, each=later)
    path = tmp_path / "mask.dcm"
    codes = [seg.SNOMED[name][0] for name in CLASSES]
    write_with_highdicom(path, copies, boxes(), list(zip(CLASSES, codes, strict=True)))
    series = one_series(tmp_path / "series")
    assert (len(series.stack.slices), len(series.images)) == (5, 10)
    np.testing.assert_array_equal(read_seg(path, series), boxes())


REFUSED: dict[str, tuple[Callable[[Any], object], str]] = {
    "other images": (_other_sources, "refers to other images than those of the series"),
    "an image that is not there": (
        lambda data: _other_sources(data, only_first=True),
        r"marks images that are not there \(frame 1 of 5\): fetch the series again",
    ),
    "another frame of reference": (
        lambda data: setattr(data, "FrameOfReferenceUID", uid()),
        "in another frame of reference than its images",
    ),
    "between slices": (_move, r"frame 2 lies on no slice of the series \(the nearest is 2.0 mm"),
    "turned": (_turn, "frame 1 is turned or scaled against its images"),
    "turned by two degrees": (
        lambda data: _turn(data, [0.9994, 0.0349, 0, -0.0349, 0.9994, 0]),
        "frame 1 is turned or scaled against its images",
    ),
    "no class": (
        lambda data: _rename(data, "Tumour", "50960005"),
        r"segment 2 \(Tumour\) is none of EDH, IPH, IVH, SAH, SDH: rename or remove it",
    ),
    "label and code differ": (
        lambda data: _rename(data, "SDH", "274100004"),
        r"segment 2 \(SDH\) has the code of IPH: make its label and its code agree",
    ),
    "frames not described": (
        lambda data: data.PerFrameFunctionalGroupsSequence.pop(),
        r"damaged DICOM file \(ValueError\)",
    ),
    "no positions": (
        lambda data: [
            frame.__delattr__("PlanePositionSequence")
            for frame in data.PerFrameFunctionalGroupsSequence
        ],
        "frame 1 does not say where it lies",
    ),
    "cut pixels": (
        lambda data: setattr(data, "PixelData", data.PixelData[:100]),
        "damaged DICOM file",
    ),
    "a CT image": (
        lambda data: setattr(data, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.2"),
        "not a DICOM SEG",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_is_one_line(made: Callable[..., tuple[Path, Series]], kind: str) -> None:
    change, message = REFUSED[kind]
    path, series = made(change)
    with pytest.raises(UserError, match=message) as refused:
        read_seg(path, series)
    said = str(refused.value)
    assert said.startswith(str(path)) and "\n" not in said and "DOE" not in said


def test_overlapping_classes_are_refused(tmp_path: Path) -> None:
    files = write_head(tmp_path / "series", 3)
    frames = np.zeros((3, 64, 64, 2), np.uint8)
    frames[1, 4:8, 4:8, 0] = frames[1, 6:9, 6:9, 1] = 1
    path = tmp_path / "mask.dcm"
    write_with_highdicom(path, files, frames, [("SDH", "35486000"), ("EDH", "82999001")])
    with pytest.raises(UserError, match="4 voxels are marked as two classes, such as SDH and EDH"):
        read_seg(path, one_series(tmp_path / "series"))


def test_fractions_are_refused(tmp_path: Path) -> None:
    files = write_head(tmp_path / "series", 3)
    frames = np.full((3, 64, 64, 1), 0.4)
    path = tmp_path / "mask.dcm"
    write_with_highdicom(path, files, frames, [("SDH", "35486000")], "FRACTIONAL")
    with pytest.raises(UserError, match="fractions of voxels: write it as BINARY"):
        read_seg(path, one_series(tmp_path / "series"))


def test_another_image_size_is_refused(tmp_path: Path) -> None:
    small = write_series(tmp_path / "small", head(3, 32), positions([0, 5, 10])[1])
    write_head(tmp_path / "series", 3)
    path = tmp_path / "mask.dcm"
    frames = np.ones((3, 32, 32), np.uint8)
    write_with_highdicom(path, small, frames, [("SDH", "35486000")])
    with pytest.raises(UserError, match="32 x 32 pixels, its images 64 x 64"):
        read_seg(path, one_series(tmp_path / "series"))
