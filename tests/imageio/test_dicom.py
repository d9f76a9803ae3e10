"""DICOM series as volumes: every voxel where ImagePositionPatient puts it, in HU."""

import random
import subprocess
from collections.abc import Sequence
from pathlib import Path

import dicom_files
import nibabel
import numpy as np
import pydicom
import pytest
from dicom_files import head, positions, series_tags, write_head, write_series

from mbh_jax.imageio import nifti
from mbh_jax.imageio.dicom_geometry import slice_thicknesses_mm
from mbh_jax.imageio.readers import find_scans, read_scan
from mbh_jax.imageio.volume import Volume
from mbh_jax.inference.measure import measure

PHILIPS = Path(__file__).parents[3] / "shared" / "dicom_sample" / "philips_head"


def check_positions(volume: Volume, paths: Sequence[Path], atol_mm: float = 1e-3) -> None:
    """Compares each slice with its file: HU, and where three of its corners lie."""
    files = [pydicom.dcmread(path) for path in paths]
    files.sort(key=lambda file: file.ImagePositionPatient[2])
    assert len(volume.hu) == len(files)
    for number, file in enumerate(files):
        stored = np.frombuffer(file.PixelData, np.int16 if file.PixelRepresentation else np.uint16)
        stored = stored.reshape(file.Rows, file.Columns).astype(float)
        hu = stored * float(file.RescaleSlope) + float(file.RescaleIntercept)
        np.testing.assert_array_equal(volume.hu[number], np.rint(hu))
        along_row = np.array(file.ImageOrientationPatient[:3], float)
        along_column = np.array(file.ImageOrientationPatient[3:], float)
        row_mm, column_mm = (float(x) for x in file.PixelSpacing)
        for row, column in ((0, 0), (0, file.Columns - 1), (file.Rows - 1, 3)):
            lps = (
                np.array(file.ImagePositionPatient, float)
                + along_row * column_mm * column
                + along_column * row_mm * row
            )
            ras = nibabel.affines.apply_affine(volume.affine, (column, row, number))
            np.testing.assert_allclose(ras, lps * (-1, -1, 1), atol=atol_mm)


def test_a_plain_series(tmp_path: Path) -> None:
    paths = write_head(tmp_path, 6)
    volume = read_scan(tmp_path)
    assert volume.shape == (6, 64, 64) and volume.hu.dtype == np.int16
    np.testing.assert_array_equal(volume.hu, head(6))
    check_positions(volume, paths)
    assert (volume.notes, volume.slice_mm) == ((), None)
    np.testing.assert_allclose(volume.spacing_mm, (0.5, 0.5, 5))


@pytest.mark.parametrize("degrees", [15, -22])
def test_a_tilted_gantry_stays_as_shear(tmp_path: Path, degrees: float) -> None:
    orientation, positions_mm = positions(5.0 * np.arange(12), degrees)
    tags = series_tags(ImageOrientationPatient=orientation, GantryDetectorTilt=degrees)
    volume = read_scan_of(write_series(tmp_path, head(12), positions_mm, tags=tags))
    check_positions(volume, sorted(tmp_path.iterdir()))
    mask = np.ones(volume.shape, np.uint8)
    expected_ml = mask.size * 0.25 * 5 * np.cos(np.deg2rad(degrees)) / 1000
    assert measure(mask, volume.affine, volume.slice_mm)["EDH"].ml == pytest.approx(expected_ml)
    assert volume.notes == ()


def read_scan_of(paths: Sequence[Path]) -> Volume:
    """The volume in the folder of files."""
    return read_scan(paths[0].parent)


@pytest.mark.parametrize(
    ("z_mm", "each_mm", "said"),
    [
        (  # One of seven is missing: nothing is counted in its place.
            [0, 5, 10, 20, 25, 30],
            [5, 5, 5, 5, 5, 5],
            "slices are missing: 10 mm between slices 3 and 4, 5 mm is usual",
        ),
        (  # Uneven: half of the way to each neighbour.
            [0, 5, 11, 16, 21, 26],
            [5, 5.5, 5.5, 5, 5, 5],
            "slices are unevenly spaced: 6 mm between slices 2 and 3, 5 mm is usual",
        ),
        (  # A drift that no single gap shows.
            [0, 5, 10.2, 15.4, 20.6, 25.8],
            [5.1, 5.1, 5.2, 5.2, 5.2, 5.2],
            None,
        ),
    ],
)
def test_slices_that_are_not_evenly_spaced(
    tmp_path: Path, z_mm: list[float], each_mm: list[float], said: str | None
) -> None:
    volume = read_scan_of(write_series(tmp_path, head(6), positions(z_mm)[1]))
    np.testing.assert_array_equal(volume.hu, head(6))
    if said is None:
        assert volume.slice_mm is None and volume.notes == ()
        return
    np.testing.assert_allclose(volume.slice_mm, each_mm)
    assert volume.notes[0].startswith(said)
    # The mask's grid is right until the first odd gap, and the note says how far it is off then.
    affine_z = [nibabel.affines.apply_affine(volume.affine, (0, 0, k))[2] for k in range(6)]
    off_mm = np.abs(affine_z - np.array(z_mm)).max()
    assert f"up to {off_mm:.1f} mm from their place" in volume.mask_notes[-1]
    mask = np.ones(volume.shape, np.uint8)
    measured = measure(mask, volume.affine, volume.slice_mm)["any"]
    expected_ml = 64 * 64 * 0.25 * sum(each_mm) / 1000
    assert measured.ml == pytest.approx(expected_ml)
    assert measured.largest_lesion_ml == pytest.approx(expected_ml)


def test_thick_slices_above_thin_ones(tmp_path: Path) -> None:
    """The skull base in 2.5 mm and the rest in 5 mm, without gaps or overlap."""
    thick_mm = [2.5] * 4 + [5.0] * 3
    z_mm = np.cumsum(thick_mm) - np.array(thick_mm) / 2
    each = {number: {"SliceThickness": thick} for number, thick in enumerate(thick_mm)}
    volume = read_scan_of(write_series(tmp_path, head(7), positions(z_mm)[1], each=each))
    np.testing.assert_allclose(volume.slice_mm, thick_mm)


def test_overlapping_slices_are_not_counted_twice() -> None:
    each_mm, _ = slice_thicknesses_mm(np.array([2.5, 2.5, 5.0]), [5.0] * 4)
    np.testing.assert_allclose(each_mm, [2.5, 2.5, 2.5, 2.5])
    each_mm, _ = slice_thicknesses_mm(np.array([7.0, 7, 6.5]), [None] * 4)
    np.testing.assert_allclose(each_mm, [7, 7, 6.75, 6.75])


def test_copies_and_order_of_files_do_not_matter(tmp_path: Path) -> None:
    tags = series_tags()
    plain = tmp_path / "plain"
    write_head(plain, 8, tags=tags)
    mixed = tmp_path / "mixed"
    (mixed / "deep" / "deeper").mkdir(parents=True)
    files = sorted(plain.iterdir())
    random.Random(3).shuffle(files)
    for number, file in enumerate(files):
        (mixed / f"{number}.dcm").write_bytes(file.read_bytes())
    (mixed / "deep" / "deeper" / "copy").write_bytes(files[0].read_bytes())
    one, other = find_scans(plain), find_scans(mixed)
    assert [scan.name for scan in one] == [scan.name for scan in other]
    np.testing.assert_array_equal(one[0].read().hu, other[0].read().hu)
    assert other[0].read().notes == ()


def test_descending_positions(tmp_path: Path) -> None:
    z_mm = 30.0 - 5 * np.arange(6)
    volume = read_scan_of(write_series(tmp_path, head(6), positions(z_mm)[1]))
    np.testing.assert_array_equal(volume.hu, head(6)[::-1])
    check_positions(volume, list(tmp_path.iterdir()))


def test_a_second_scan_at_the_same_place_is_said(tmp_path: Path) -> None:
    tags = series_tags()
    write_head(tmp_path, 6, tags=tags)
    z_mm = -20.0 + 5 * np.arange(6)
    later = {number: {"InstanceNumber": 100 + number} for number in range(6)}
    write_series(tmp_path / "b", head(6) + 50, positions(z_mm)[1], tags=tags, each=later)
    volume = read_scan(tmp_path)
    np.testing.assert_array_equal(volume.hu, head(6))
    assert volume.notes[0].startswith("6 images lie where another image of the series lies")


def test_slope_and_intercept_of_each_slice(tmp_path: Path) -> None:
    each = {
        0: {"RescaleSlope": 2, "RescaleIntercept": -1100},
        3: {"RescaleSlope": "0.5", "RescaleIntercept": -2000},
    }
    paths = write_head(tmp_path, 5, each=each)
    volume = read_scan(tmp_path)
    check_positions(volume, paths)
    assert np.abs(volume.hu - head(5)).max() <= 1


@pytest.mark.parametrize(
    ("agent", "is_named"),
    [("ULTRAVIST 370", True), ("IV", True), ("", False), ("None", False), ("NO CONTRAST", False)],
)
def test_a_contrast_agent_is_said_without_its_name(
    tmp_path: Path, agent: str, is_named: bool
) -> None:
    write_head(tmp_path, 2, tags=series_tags(ContrastBolusAgent=agent))
    notes = read_scan(tmp_path).notes
    assert [note.split(":")[0] for note in notes] == is_named * ["the files name a contrast agent"]
    assert not any(agent in note for note in notes if agent)


def test_feet_first_and_prone_lie_as_all_others(tmp_path: Path) -> None:
    """Rows that run to the right and columns to the front: both in-plane axes are turned."""
    tags = series_tags(ImageOrientationPatient=[-1, 0, 0, 0, -1, 0])
    _, positions_mm = positions(5.0 * np.arange(4))
    positions_mm[:, :2] *= -1
    (scan,) = find_scans(write_series(tmp_path, head(4), positions_mm, tags=tags)[0].parent)
    volume = scan.read()
    np.testing.assert_array_equal(volume.hu, head(4)[:, ::-1, ::-1])
    assert volume.stored_axcodes == "RAS"
    np.testing.assert_allclose(volume.affine[:3, :3], np.diag([-0.5, -0.5, 5]))


def test_mixed_series_in_one_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    tags = series_tags()
    write_head(tmp_path, 5, tags=tags)
    in_series = {0: {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}}
    write_head(tmp_path, 1, tags=tags, each=in_series, names="scout{}.dcm")
    write_head(tmp_path, 4, tags=series_tags(SeriesDescription="Thin bone"), names="b{}.dcm")
    coronal = series_tags(SeriesDescription="Coronal", ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    _, across = positions(np.zeros(3))
    across[:, 1] = (0, 2, 4)
    write_series(tmp_path / "c", head(3), across, tags=coronal)
    capture = series_tags(SOPClassUID="1.2.840.10008.5.1.4.1.1.7", SeriesDescription="Dose")
    write_head(tmp_path / "d", 2, tags=capture)
    write_head(tmp_path / "e", 2, tags=series_tags(Modality="MR", SeriesDescription="T2"))
    chest = series_tags(BodyPartExamined="CHEST", SeriesDescription="Lung")
    write_head(tmp_path / "f", 2, tags=chest)
    found = find_scans(tmp_path)
    assert [scan.name[:-9] for scan in found] == ["Head_5mm_brain", "Thin_bone"]
    assert [len(scan.read().hu) for scan in found] == [5, 4]
    said = "\n".join(record.getMessage() for record in caplog.records)
    for part in (
        "1 image of Head_5mm_brain_",
        ": localizer",
        "3 images of Coronal_",
        ": not axial",
        ": Secondary Capture Image Storage",
        "2 images of T2_",
        ": MR, not CT",
        ": shows CHEST, not the head",
    ):
        assert part in said
    assert [scan.name[:-9] for scan in find_scans(tmp_path, series="BONE")] == ["Thin_bone"]
    assert [scan.name[:-9] for scan in find_scans(tmp_path, series="lung")] == ["Lung"]


def test_a_series_of_two_sizes_is_two_scans(tmp_path: Path) -> None:
    tags = series_tags()
    write_head(tmp_path, 4, tags=tags)
    z_mm = 5.0 * np.arange(3)
    write_series(tmp_path / "b", head(3, 32), positions(z_mm)[1], tags=tags)
    scans = find_scans(tmp_path)
    assert sorted(scan.read().shape for scan in scans) == [(3, 32, 32), (4, 64, 64)]


def test_enhanced_multi_frame(tmp_path: Path) -> None:
    z_mm = 20.0 - 5 * np.arange(5)
    path = tmp_path / "multi"
    dicom_files.write_multi_frame(path, head(5), positions(z_mm)[1])
    volume = read_scan(path)
    np.testing.assert_array_equal(volume.hu, head(5)[::-1])
    highdicom = pytest.importorskip("highdicom")
    second = highdicom.imread(path).get_volume()
    lps_to_ras = np.diag([-1, -1, 1, 1])
    second_affine = lps_to_ras @ second.affine  # Of voxel (slice, row, column).
    for voxel in ((0, 0, 0), (4, 10, 3)):
        world = nibabel.affines.apply_affine(volume.affine, voxel[::-1])
        index = nibabel.affines.apply_affine(np.linalg.inv(second_affine), world)
        np.testing.assert_allclose(index, index.round(), atol=1e-4)
        place = tuple(index.round().astype(int))
        assert volume.hu[voxel] == second.array[place]


@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("codec", ["rle", "jpeg", "jpegls", "j2k"])
def test_compressed_files(tmp_path: Path, codec: str, signed: int) -> None:
    """Compressed without loss by gdcm: JPEG is lossless JPEG here."""
    convert = dicom_files.program("gdcmconv")
    tags = series_tags(PixelRepresentation=signed, RescaleIntercept=0 if signed else -1024)
    packed = tmp_path / "packed"
    packed.mkdir()
    for path in write_head(tmp_path / "plain", 3, tags=tags):
        subprocess.run([convert, f"--{codec}", path, packed / path.name], check=True)
        syntax = pydicom.dcmread(packed / path.name).file_meta.TransferSyntaxUID
        assert syntax.is_compressed
    np.testing.assert_array_equal(read_scan(packed).hu, head(3))


def test_deflated_files_and_files_without_preamble(tmp_path: Path) -> None:
    for number, path in enumerate(write_head(tmp_path, 4)):
        data = pydicom.dcmread(path)
        if number < 2:
            data.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
            data.save_as(path)
        else:
            del data.file_meta
            data.preamble = None
            data.save_as(path, implicit_vr=number == 3, little_endian=True)
            assert path.read_bytes()[128:132] != b"DICM"
    np.testing.assert_array_equal(read_scan(tmp_path).hu, head(4))


def test_a_single_slice_is_as_thick_as_it_says(tmp_path: Path) -> None:
    path = write_head(tmp_path, 1)[0]
    volume = read_scan(path)
    assert volume.shape == (1, 64, 64)
    np.testing.assert_allclose(volume.spacing_mm, (0.5, 0.5, 5))


def test_pixels_outside_the_image_are_air(tmp_path: Path) -> None:
    hu = head(3)
    hu[:, :4] = 63536 - 1024
    write_series(
        tmp_path,
        hu,
        positions([0, 5, 10])[1],
        tags=series_tags(PixelPaddingValue=63536),
    )
    volume = read_scan(tmp_path)
    assert (volume.hu[:, :4] == -1024).all()
    np.testing.assert_array_equal(volume.hu[:, 4:], head(3)[:, 4:])


def test_dicom_files_that_are_called_like_pictures(tmp_path: Path) -> None:
    paths = write_head(tmp_path, 3)
    for path, suffix in zip(paths, (".tif", ".jpg", ".png"), strict=True):
        path.rename(path.with_suffix(suffix))
    assert read_scan(tmp_path).shape == (3, 64, 64)
    assert read_scan(paths[0].with_suffix(".tif")).shape == (1, 64, 64)


def test_a_dicomdir_stands_for_its_folder() -> None:
    """pydicom's own example: two CT series, scouts and other modalities, files without suffix."""
    disc = Path(pydicom.__path__[0]) / "data" / "test_files" / "dicomdirtests"
    if not (disc / "DICOMDIR").is_file():
        pytest.skip("this pydicom comes without its test files")
    scans = {scan.name[:-9]: scan for scan in find_scans(disc / "DICOMDIR") if scan.series}
    assert set(scans) == {"Routine_Brain", "SmartScore_Gated_0_5_sec"}
    regular, gap = (scans[name].read() for name in ("SmartScore_Gated_0_5_sec", "Routine_Brain"))
    check_positions(regular, list((disc / "98892001" / "CT5N").iterdir()))
    assert "202.5 mm between slices 1 and 2" in gap.notes[0]
    np.testing.assert_allclose(gap.slice_mm, 1.25)


def converted(folder: Path, output: Path) -> Volume:
    """The scan as dcm2niix converts it, in the program's orientation."""
    output.mkdir()
    command = [dicom_files.program("dcm2niix"), "-b", "n", "-z", "n", "-f", "out", "-o", output]
    subprocess.run([*command, folder], check=True, capture_output=True)
    return nifti.read_volume(output / "out.nii")


def test_as_dcm2niix(tmp_path: Path) -> None:
    write_head(tmp_path / "series", 8)
    ours, second = read_scan(tmp_path / "series"), converted(tmp_path / "series", tmp_path / "out")
    np.testing.assert_array_equal(ours.hu, second.hu)
    np.testing.assert_allclose(ours.affine, second.affine, atol=1e-3)


@pytest.mark.skipif(not PHILIPS.is_dir(), reason=f"{PHILIPS} is not here")
def test_a_study_of_a_real_scanner(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """28 slices, a scout and 6 secondary captures, with index files that are no images."""
    caplog.set_level("INFO")
    (scan,) = find_scans(PHILIPS)
    said = " ".join(record.getMessage() for record in caplog.records)
    assert "6 images" in said and "localizer" in said
    volume = scan.read()
    assert scan.name.startswith("STD_BRAIN_5MM_") and volume.notes == ()
    paths = [path for path in (PHILIPS / "S2010").iterdir() if path.name != "DIRFILE"]
    check_positions(volume, paths)
    second = converted(PHILIPS / "S2010", tmp_path / "out")
    np.testing.assert_array_equal(volume.hu, second.hu)
    np.testing.assert_allclose(volume.affine, second.affine, atol=1e-3)
