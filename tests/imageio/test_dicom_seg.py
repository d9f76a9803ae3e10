"""DICOM SEG: valid by an independent checker, and each segment where the mask is."""

import subprocess
from pathlib import Path

import dicom_files
import numpy as np
import pydicom
import pytest
from dicom_files import SERIES, head, positions, series_tags, write_series

from mbh_jax.errors import UserError
from mbh_jax.imageio import seg
from mbh_jax.imageio.readers import Scan, find_scans
from mbh_jax.imageio.volume import Volume

highdicom = pytest.importorskip("highdicom", reason="highdicom is not installed: the dicom extra")


def boxes(shape: tuple[int, ...]) -> np.ndarray:
    """A mask of three classes without any symmetry."""
    mask = np.zeros(shape, np.uint8)
    mask[1:3, 5:20, 30:41] = 2
    mask[2, 40:44, 3:9] = 5
    mask[-1, 0:2, 60:64] = 1
    return mask


def written(folder: Path, output: Path) -> tuple[Scan, np.ndarray, Path]:
    """Writes boxes as SEG of the series in a folder."""
    (scan,) = find_scans(folder)
    assert scan.series is not None
    volume = scan.read()
    mask = boxes(volume.shape)
    path = output / "result.seg.dcm"
    seg.write_seg(path, mask, volume, scan.series, model="m step 3", version="0.1")
    return scan, mask, path


def check_valid(path: Path) -> None:
    """dciodvfy of dicom3tools finds no error."""
    ended = subprocess.run(
        [dicom_files.program("dciodvfy"), path], capture_output=True, text=True, check=False
    )
    errors = [line for line in ended.stderr.splitlines() if line.startswith("Error")]
    assert ended.returncode == 0 and not errors


@pytest.mark.parametrize("kind", SERIES)
def test_segments_lie_on_their_source_images(tmp_path: Path, kind: str) -> None:
    z_mm, degrees, changed = SERIES[kind]
    orientation, positions_mm = positions(z_mm, degrees)
    tags = series_tags(**{"ImageOrientationPatient": orientation, **changed})
    paths = write_series(tmp_path / "series", head(5), positions_mm, tags=tags)
    _, mask, path = written(tmp_path / "series", tmp_path)
    check_valid(path)

    found = highdicom.seg.segread(path)
    assert [found.get_segment_description(n).segment_label for n in found.segment_numbers] == [
        "EDH",
        "IPH",
        "IVH",
        "SAH",
        "SDH",
    ]
    codes = [found.get_segment_description(n).segmented_property_type for n in (1, 2, 3, 4, 5)]
    assert [(code.value, code.scheme_designator) for code in codes] == [
        ("82999001", "SCT"),
        ("274100004", "SCT"),
        ("23276006", "SCT"),
        ("21454007", "SCT"),
        ("35486000", "SCT"),
    ]
    assert found.PatientName == "DOE^JANE" and found.StudyInstanceUID == tags["StudyInstanceUID"]
    assert found.FrameOfReferenceUID == tags["FrameOfReferenceUID"]
    assert found.SeriesInstanceUID != tags["SeriesInstanceUID"]

    # Files by height: the mask's slices, and in a turned series both axes in the plane reversed.
    files = sorted((pydicom.dcmread(p) for p in paths), key=lambda f: f.ImagePositionPatient[2])
    labels = found.get_pixels_by_source_instance(
        [file.SOPInstanceUID for file in files],
        combine_segments=True,
        ignore_spatial_locations=True,
        assert_missing_frames_are_empty=True,
    )
    expected = mask[:, ::-1, ::-1] if kind == "turned" else mask
    np.testing.assert_array_equal(labels, expected)
    for frame in found.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        (file,) = [file for file in files if file.SOPInstanceUID == source]
        place = frame.PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_allclose(place, file.ImagePositionPatient)


def test_enhanced_multi_frame(tmp_path: Path) -> None:
    z_mm = 20.0 - 5 * np.arange(5)
    source = tmp_path / "series" / "multi"
    dicom_files.write_multi_frame(source, head(5), positions(z_mm)[1])
    _, mask, path = written(tmp_path / "series", tmp_path)
    check_valid(path)
    labels = highdicom.seg.segread(path).get_pixels_by_source_frame(
        pydicom.dcmread(source).SOPInstanceUID,
        [1, 2, 3, 4, 5],
        combine_segments=True,
        ignore_spatial_locations=True,
        assert_missing_frames_are_empty=True,
    )
    np.testing.assert_array_equal(labels, mask[::-1])


def test_copies_in_the_series(tmp_path: Path) -> None:
    paths = dicom_files.write_head(tmp_path / "series", 5)
    (tmp_path / "series" / "copy").write_bytes(paths[2].read_bytes())
    check_valid(written(tmp_path / "series", tmp_path)[2])


def test_what_careless_anonymisation_removed(tmp_path: Path) -> None:
    tags = series_tags(PatientName=None, PatientID=None, StudyDate=None, AccessionNumber=None)
    dicom_files.write_head(tmp_path / "series", 5, tags=tags)
    check_valid(written(tmp_path / "series", tmp_path)[2])


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "FrameOfReferenceUID"])
def test_what_it_must_refer_to(tmp_path: Path, keyword: str) -> None:
    dicom_files.write_head(tmp_path / "series", 5, tags=series_tags(**{keyword: None}))
    with pytest.raises(UserError, match=f"its files have no {keyword}"):
        written(tmp_path / "series", tmp_path)
    assert not (tmp_path / "result.seg.dcm").exists()


def test_a_mask_without_blood_is_not_written(tmp_path: Path) -> None:
    dicom_files.write_head(tmp_path / "series", 3)
    (scan,) = find_scans(tmp_path)
    volume = scan.read()
    assert scan.series is not None and isinstance(volume, Volume)
    empty = np.zeros(volume.shape, np.uint8)
    with pytest.raises(ValueError, match="an empty mask"):
        seg.write_seg(tmp_path / "s.dcm", empty, volume, scan.series, model="m", version="0")
