"""DICOM series as cases: the same records as from NIfTI, labels, patients, and what is refused."""

import json
import re
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tensorflow as tf
from dicom_files import (
    PIXEL_MM,
    head,
    positions,
    program,
    series_tags,
    write_head,
    write_multi_frame,
    write_series,
)
from tiny_ct import nifti_bytes

from data_prep import build_tfrecords, sources, verify
from data_prep.sources import dicom_series
from mbh_jax.data.index import SliceIndex
from mbh_jax.errors import UserError
from mbh_jax.imageio import seg
from mbh_jax.imageio.readers import find_scans

pytest.importorskip("highdicom", reason="highdicom is not installed: the dicom extra")

PHILIPS = Path(__file__).parents[3] / "shared" / "dicom_sample" / "philips_head"
Z_MM = -20.0 + 5 * np.arange(6)


def boxes(hu: np.ndarray) -> np.ndarray:
    """Labels (slices, rows, columns) for slices without the first and last one."""
    label = np.zeros(hu.shape, np.uint8)
    for value in range(1, 6):
        label[1:-1, 8 * value : 8 * value + 4, 20 + value : 30] = value
    return label


def write_case(
    source: Path,
    name: str,
    *,
    label: str = "seg",
    degrees: float = 0.0,
    z_mm: Any = Z_MM,
    seed: int = 0,
    **tags: Any,
) -> list[Path]:
    """Writes a series and its label, as "seg", "seg inside", "nifti", "own order" or "none".

    Returns:
        The files of the series.
    """
    folder = source / "images" / name
    orientation, places = positions(z_mm, degrees)
    hu = head(len(places))
    hu[:, 40, 5] += seed
    tags = {"PatientID": f"PID-{name}", "ImageOrientationPatient": orientation, **tags}
    files = write_series(folder, hu, places, tags=series_tags(**tags))
    path = source / "labels" / f"{name}.seg.dcm"
    path.parent.mkdir(exist_ok=True)
    if label == "seg inside":
        path = folder / "A"
    if label.startswith("seg"):
        (scan,) = find_scans(folder)
        assert scan.series is not None
        seg.write_seg(path, boxes(hu), scan.read(), scan.series, model="m", version="0")
    elif label == "nifti":  # Rows from the back, as most converters write them.
        stored, affine = as_nifti(boxes(hu), orientation, places)
        (path.parent / f"{name}.nii").write_bytes(nifti_bytes(stored, affine, qform_only=False))
    elif label == "own order":
        affine = lps_affine(orientation, places)
        stored = boxes(hu).transpose(2, 1, 0).astype(np.uint16)
        (path.parent / f"{name}.nii").write_bytes(nifti_bytes(stored, affine, qform_only=False))
    return files


def lps_affine(orientation: list[float], places: np.ndarray) -> np.ndarray:
    """Voxel (column, row, slice) to RAS+ mm, worked out from what the files say."""
    affine = np.eye(4)
    affine[:3, 0] = np.array(orientation[:3]) * PIXEL_MM
    affine[:3, 1] = np.array(orientation[3:]) * PIXEL_MM
    affine[:3, 2] = (places[-1] - places[0]) / (len(places) - 1)
    affine[:3, 3] = places[0]
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def as_nifti(
    array: np.ndarray, orientation: list[float], places: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(slices, rows, columns) as (column, row, slice) with rows from the back, and its affine."""
    affine = lps_affine(orientation, places)
    rows = array.shape[1]
    turn = np.diag([1.0, -1.0, 1.0, 1.0])
    turn[1, 3] = rows - 1
    kind = np.uint16 if array.dtype == np.uint8 else np.int16
    return array.transpose(2, 1, 0)[:, ::-1].astype(kind), affine @ turn


def write_same_as_nifti(source: Path, name: str, degrees: float, seed: int) -> None:
    """What `write_case` writes, as NIfTI in BHSD's folders."""
    orientation, places = positions(Z_MM, degrees)
    hu = head(6)
    hu[:, 40, 5] += seed
    for folder, array in (("images", hu), ("ground truths", boxes(hu))):
        path = source / folder / f"{name}.nii"
        path.parent.mkdir(parents=True, exist_ok=True)
        stored, affine = as_nifti(array, orientation, places)
        path.write_bytes(nifti_bytes(stored, affine, qform_only=False))


def records_of(output: Path) -> list[dict[str, Any]]:
    """The features of each record, in order."""
    records = []
    for path in sorted(output.glob("head_ct/1.0.0/*.tfrecord*")):
        for serialised in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            example = tf.train.Example.FromString(serialised)
            records.append(dict(example.features.feature))
    return records


def test_records_are_those_of_the_same_scans_as_nifti(tmp_path: Path) -> None:
    """Four scans, one with a tilted gantry; two workers; labels of each kind."""
    dicom, nifti = tmp_path / "dicom", tmp_path / "nifti"
    labels = {"a": "seg", "b": "seg inside", "c": "nifti", "d": "own order"}
    for number, (name, label) in enumerate(labels.items()):
        degrees = 15.0 if name == "a" else 0.0
        write_case(dicom, name, label=label, degrees=degrees, seed=number)
        write_same_as_nifti(nifti, name, degrees, number)
    build_tfrecords.build(dicom, tmp_path / "from_dicom", split="patient", workers=2)
    patients = tmp_path / "patients.csv"
    index = SliceIndex.load(tmp_path / "from_dicom")
    rows = [f"{volume.volume_id},{volume.patient_id}" for volume in index.volumes]
    patients.write_text("\n".join(["volume_id,patient_id", *rows]))
    options = sources.Options(patients=str(patients))
    build_tfrecords.build(nifti, tmp_path / "from_nifti", split="patient", options=options)
    ours, expected = records_of(tmp_path / "from_dicom"), records_of(tmp_path / "from_nifti")
    assert len(ours) == len(expected) == 24
    for record, same in zip(ours, expected, strict=True):
        for key in record.keys() - {"affine", "spacing_mm", "stored_axcodes"}:
            assert record[key] == same[key], key
        for key in ("affine", "spacing_mm"):
            numbers, others = (
                np.frombuffer(one[key].bytes_list.value[0], "<f8") for one in (record, same)
            )
            np.testing.assert_allclose(numbers, others, atol=1e-5)
    assert all(volume.spacing_known and volume.has_label for volume in index.volumes)
    by_id = {volume.volume_id: volume for volume in index.volumes}
    assert [by_id[name].pixels_per_class.any() for name in labels] == [True] * 4
    assert not any(finding.fatal for finding in verify.verify(index))


def test_nothing_of_the_patient_is_written(tmp_path: Path, capsys: Any) -> None:
    source = tmp_path / "source"
    for name in "abc":
        tags = {"PatientName": f"Q{name}^Zebedee", "PatientID": "77-1234" + name}
        write_case(source, name, **tags)
    build_tfrecords.build(source, tmp_path / "out")
    said = capsys.readouterr()
    assert "patients by PatientID of DICOM, hashed (3 volumes of 3 patients)" in said.out
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    content = b"".join(path.name.encode() + path.read_bytes() for path in written)
    for text in ("Zebedee", "77-1234"):
        assert text not in said.out + said.err and text.encode() not in content
    rows = SliceIndex.load(tmp_path / "out").volumes
    assert {row.patient_id for row in rows} == {
        dicom_series.pseudonym("patient", f"77-1234{name}") for name in "abc"
    }


def test_scans_of_one_patient_stay_together(tmp_path: Path) -> None:
    write_case(tmp_path, "first", PatientID=" P1 ")
    write_case(tmp_path, "second", PatientID="P1")
    write_case(tmp_path, "third", PatientID="")
    found = sources.open_source(tmp_path)
    first, second, third = (case.patient_id for case in found.cases)
    assert first == second != third == "third"
    given = sources.Options(patients="(.)")
    patients = [case.patient_id for case in sources.open_source(tmp_path, options=given).cases]
    assert patients == ["f", "s", "t"]


def test_a_folder_named_after_its_patient_is_said(tmp_path: Path) -> None:
    write_case(tmp_path, "doe_jane")
    notes = sources.open_source(tmp_path).notes
    assert any(note.startswith("warning: 1 folders of 'images/' have names") for note in notes)
    assert not any("doe" in note.lower() for note in notes)


@pytest.mark.parametrize(
    ("z_mm", "said"),
    [
        ([0, 5, 10, 20, 25, 30], "slices are missing: 10 mm between slices 3 and 4"),
        ([0, 5, 11, 16, 21, 26], "slices are unevenly spaced: 6 mm between slices 2 and 3"),
    ],
)
def test_uneven_slices_have_no_known_spacing(tmp_path: Path, z_mm: list[int], said: str) -> None:
    write_case(tmp_path, "a", z_mm=z_mm)
    (case,) = sources.open_source(tmp_path).cases
    labelled = sources.read_case(case)
    assert not labelled.spacing_known
    np.testing.assert_array_equal(labelled.label, boxes(labelled.hu))
    notes = sources.read_facts(case).notes
    assert notes[0].startswith(said)
    assert "its spacing counts as unknown" in notes[1]
    assert len(notes) == 2


def test_a_tilted_gantry_keeps_its_spacing(tmp_path: Path) -> None:
    write_case(tmp_path, "a", degrees=15)
    (case,) = sources.open_source(tmp_path).cases
    labelled = sources.read_case(case)
    orientation, places = positions(Z_MM, 15)
    np.testing.assert_allclose(labelled.affine, lps_affine(orientation, places), atol=1e-6)
    assert labelled.spacing_known
    np.testing.assert_allclose(labelled.spacing_mm, (PIXEL_MM, PIXEL_MM, 5))


def test_a_label_on_what_dcm2niix_made_of_a_tilted_series(tmp_path: Path) -> None:
    """It places slices along their normal. One whose first slice is elsewhere is refused."""
    write_case(tmp_path, "a", label="none", degrees=15)
    command = [program("dcm2niix"), "-b", "n", "-z", "n", "-i", "n", "-f", "a", "-o"]
    subprocess.run([*command, tmp_path, tmp_path / "images"], check=True, capture_output=True)
    converted = nibabel.load(tmp_path / "a.nii")
    for path in tmp_path.glob("*.nii"):  # Another one is resampled.
        path.unlink()
    stored = boxes(head(6)).transpose(2, 1, 0)[:, ::-1].astype(np.uint16)
    path = tmp_path / "labels" / "a.nii"
    path.write_bytes(nifti_bytes(stored, converted.affine, qform_only=False))
    (case,) = sources.open_source(tmp_path).cases
    labelled = sources.read_case(case)
    np.testing.assert_array_equal(labelled.label, boxes(labelled.hu))
    assert (
        "slices lie up to 0.9 mm apart and are taken in order" in sources.read_facts(case).notes[0]
    )
    for change in (np.diag([1, 1, 1.2, 1]), np.eye(4) + 3 * np.eye(4, k=3)):
        affine = converted.affine @ change
        path.write_bytes(nifti_bytes(stored, affine, qform_only=False))
        with pytest.raises(UserError, match="write the label on the image's grid"):
            sources.read_case(case)


def test_a_disc_of_several_studies(tmp_path: Path) -> None:
    """Series by description and hash, each with the segmentation that refers to it."""
    for number, name in enumerate("ab"):
        tags = {"PatientID": "", "SeriesDescription": "Head"}
        write_case(tmp_path / name, "x", seed=number, **tags)
    shutil.move(tmp_path / "a" / "labels" / "x.seg.dcm", tmp_path / "SEG1")
    shutil.rmtree(tmp_path / "b" / "labels")
    shutil.rmtree(tmp_path / "a" / "labels")
    for name in "ab":
        (tmp_path / name / "images").rename(tmp_path / name / "DATA")
    write_head(tmp_path / "scout", 1, tags=series_tags(ImageType=["ORIGINAL", "X", "LOCALIZER"]))
    found = sources.open_source(tmp_path)
    assert found.layout == "dicom" and not found.bad_cases
    assert [case.volume_id[:5] for case in found.cases] == ["Head_"] * 2
    assert len({case.patient_id for case in found.cases}) == 2
    assert all(case.patient_id.startswith("study_") for case in found.cases)
    labelled = [sources.read_case(case) for case in found.cases]
    assert sorted(one.has_label for one in labelled) == [False, True]
    for one in labelled:
        seed = one.hu[0, 40, 5] - head(6)[0, 40, 5]
        assert one.has_label == (seed == 0)
        np.testing.assert_array_equal(one.label, boxes(one.hu) * one.has_label)
    assert "left out: 1 image of Head_5mm_brain" in " ".join(found.notes)
    with pytest.raises(UserError, match=r"holds no scan that can be converted.*not --series bone"):
        sources.open_source(tmp_path, options=sources.Options(series="bone"))
    path = tmp_path / "SEG1"
    content = path.read_bytes()
    path.write_bytes(content[:700])
    (bad,) = sources.open_source(tmp_path).bad_cases
    # Where the cut falls depends on the lengths of random UIDs.
    assert re.search("SEG1: (a DICOM SEG that refers to no images|damaged DICOM file)", bad.reason)
    path.write_bytes(content[:-100])
    with pytest.raises(UserError, match="SEG1: damaged DICOM file"):
        [sources.read_case(case) for case in sources.open_source(tmp_path).cases]


def test_a_case_with_several_series(tmp_path: Path) -> None:
    """The segmentation or --series says which one is meant."""
    write_case(tmp_path, "a", SeriesDescription="Brain")
    tags = series_tags(SeriesDescription="Bone", PatientID="PID-a")
    bone = write_head(tmp_path / "images" / "a" / "bone", 4, tags=tags)
    (case,) = sources.open_source(tmp_path).cases
    assert sources.read_case(case).shape == (6, 64, 64)
    (tmp_path / "labels" / "a.seg.dcm").unlink()
    label = np.zeros((4, 64, 64), np.uint8)
    _, places = positions(Z_MM[:4])
    stored, affine = as_nifti(label, [1.0, 0, 0, 0, 1, 0], places)
    (tmp_path / "labels" / "a.nii").write_bytes(nifti_bytes(stored, affine, qform_only=False))
    (case,) = sources.open_source(tmp_path).cases
    with pytest.raises(UserError, match=r"images/a: holds 2 CT series \(Bone_.*, Brain_.*\): keep"):
        sources.read_case(case)
    (case,) = sources.open_source(tmp_path, options=sources.Options(series="bone")).cases
    assert sources.read_case(case).shape == (len(bone), 64, 64)


def test_enhanced_multi_frame(tmp_path: Path) -> None:
    path = tmp_path / "images" / "a" / "multi"
    write_multi_frame(path, head(6), positions(Z_MM)[1])
    (scan,) = find_scans(path.parent)
    assert scan.series is not None
    (tmp_path / "labels").mkdir()
    target = tmp_path / "labels" / "a.dcm"
    seg.write_seg(target, boxes(head(6)), scan.read(), scan.series, model="m", version="0")
    (case,) = sources.open_source(tmp_path).cases
    labelled = sources.read_case(case)
    np.testing.assert_array_equal(labelled.hu, head(6))
    np.testing.assert_array_equal(labelled.label, boxes(head(6)))


def test_scans_without_voxel_labels(tmp_path: Path) -> None:
    write_case(tmp_path, "a", label="none")
    (tmp_path / "images").rename(tmp_path / "nobleed")
    (case,) = sources.open_source(tmp_path).cases
    labelled = sources.read_case(case)
    assert (labelled.volume_id, labelled.case_label, labelled.has_label) == ("a", "nobleed", False)
    write_case(tmp_path / "b", "b", label="seg inside")
    shutil.move(tmp_path / "b" / "images" / "b", tmp_path / "nobleed")
    found = sources.open_source(tmp_path)
    assert [case.label for case in found.cases] == [None, None]
    assert "the segmentations in 1 folders of 'nobleed/' are not read" in " ".join(found.notes)


def _seg_of_another(source: Path) -> None:
    write_case(source.parent / "other", "a", seed=1, PatientID="PID-a")
    shutil.copy(source.parent / "other" / "labels" / "a.seg.dcm", source / "labels")


def _two_segs(source: Path) -> None:
    shutil.copy(source / "labels" / "a.seg.dcm", source / "images" / "a" / "S")


def _two_patients(source: Path) -> None:
    write_head(source / "images" / "a" / "b", 2, tags=series_tags(PatientID="other"))


def _loose(source: Path) -> None:
    write_head(source / "images", 1, names="IM{:04d}.dcm")


def _no_label(source: Path) -> None:
    (source / "labels" / "a.seg.dcm").unlink()


def _two_folders_of_labels(source: Path) -> None:
    (source / "ground truths").mkdir()
    shutil.copy(source / "labels" / "a.seg.dcm", source / "ground truths")


def _a_folder_and_a_file(source: Path) -> None:
    write_same_as_nifti(source, "a", 0, 0)
    shutil.rmtree(source / "ground truths")


def _image_as_nifti(source: Path) -> None:
    _a_folder_and_a_file(source)
    shutil.rmtree(source / "images" / "a")


def _damaged(source: Path) -> None:
    path = source / "images" / "a" / "IM0002"
    path.write_bytes(path.read_bytes()[:900])


def _not_a_seg(source: Path) -> None:
    shutil.copy(source / "images" / "a" / "IM0002", source / "labels" / "a.seg.dcm")


def _a_slice_is_gone(source: Path) -> None:
    (source / "images" / "a" / "IM0003").unlink()


def _only_a_scout(source: Path) -> None:
    shutil.rmtree(source / "images" / "a")
    tags = series_tags(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], PatientID="")
    write_head(source / "images" / "a", 1, tags=tags)


def _slices_of_nifti_differ(source: Path) -> None:
    write_case(source.parent / "other", "a", label="nifti", z_mm=Z_MM[:5])
    (source / "labels" / "a.seg.dcm").unlink()
    shutil.copy(source.parent / "other" / "labels" / "a.nii", source / "labels")


def _two_files_for_a_label(source: Path) -> None:
    for name in ("1", "2"):
        (source / "labels" / "a").mkdir(exist_ok=True)
        shutil.copy(source / "labels" / "a.seg.dcm", source / "labels" / "a" / name)
    (source / "labels" / "a.seg.dcm").unlink()


REFUSED = {
    "two files for a label": (_two_files_for_a_label, "labels/a: 2 DICOM files for one label"),
    "the segmentation of another series": (_seg_of_another, "in another frame of reference"),
    "two segmentations": (_two_segs, "are labels of one scan: keep one"),
    "two patients": (_two_patients, "images/a: images of 2 patients: give each scan a folder"),
    "files beside folders": (_loose, "images/IM0000.dcm: a DICOM file directly in 'images/'"),
    "no label": (_no_label, "images/a has no partner in 'ground truths/'"),
    "two folders of labels": (_two_folders_of_labels, "both 'ground truths/' and 'labels/'"),
    "two images": (_a_folder_and_a_file, "two files for images/a: remove one"),
    "an image that is not DICOM": (_image_as_nifti, "a DICOM SEG refers to images in DICOM"),
    "a damaged slice": (_damaged, "IM0002: damaged DICOM file"),
    "a CT image as label": (_not_a_seg, "a.seg.dcm: not a DICOM SEG"),
    "a slice is gone": (_a_slice_is_gone, "marks images that are not there"),
    "only a scout": (_only_a_scout, "images/a: holds no axial CT series of a head; left out: 1"),
    "a label of fewer slices": (_slices_of_nifti_differ, "they must be equal"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_is_one_line(tmp_path: Path, kind: str, capsys: Any) -> None:
    change, message = REFUSED[kind]
    write_case(tmp_path / "source", "a")
    change(tmp_path / "source")
    arguments = [f"--source={tmp_path / 'source'}", f"--output={tmp_path / 'out'}"]
    with pytest.raises(SystemExit) as ended:
        build_tfrecords.main(arguments)
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    assert ended.value.code == 1 and message in line and "PID" not in line
    assert not (tmp_path / "out").exists()


def test_bad_cases_are_listed_without_paths(tmp_path: Path, capsys: Any) -> None:
    source = tmp_path / "source"
    for name in "abcd":
        write_case(source, name)
    _two_patients(source)
    (source / "labels" / "b.seg.dcm").write_bytes(b"")
    write_head(source / "images", 1, names="loose")
    build_tfrecords.build(source, tmp_path / "out", skip_bad=True, split="slice")
    (path,) = (tmp_path / "out").rglob("metadata.json")
    skipped = {row["volume_id"]: row["reason"] for row in json.loads(path.read_text())["skipped"]}
    assert skipped.keys() == {"a", "b", "loose"}
    assert skipped["b"].startswith("labels/b.seg.dcm: not a DICOM SEG")
    assert skipped["a"] == "images/a: images of 2 patients: give each scan a folder"
    assert not any(str(tmp_path) in reason for reason in skipped.values())


def test_a_slice_that_cannot_be_read_is_not_passed_over(tmp_path: Path) -> None:
    files = write_case(tmp_path, "a")
    files[2].unlink()
    files[2].symlink_to(tmp_path / "nowhere")
    (case,) = sources.open_source(tmp_path).cases
    with pytest.raises(UserError, match="IM0002"):
        sources.read_case(case)


def test_a_zip_of_dicom_is_refused(tmp_path: Path) -> None:
    files = write_case(tmp_path / "source", "a")
    path = tmp_path / "source.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in files:
            archive.write(file, f"images/a/{file.name}")
    with pytest.raises(UserError, match=r"source\.zip: holds DICOM, which is not read from a zip"):
        sources.open_source(path)


def test_series_without_dicom_is_refused(tmp_path: Path) -> None:
    write_same_as_nifti(tmp_path, "a", 0, 0)
    with pytest.raises(UserError, match=r"--series: .* holds no DICOM: remove it"):
        sources.open_source(tmp_path, options=sources.Options(series="bone"))


def test_dicom_beside_what_was_made_from_it_is_ignored(tmp_path: Path) -> None:
    write_same_as_nifti(tmp_path, "a", 0, 0)
    write_head(tmp_path / "original", 2)
    found = sources.open_source(tmp_path)
    assert found.layout == "bhsd" and [case.volume_id for case in found.cases] == ["a"]


@pytest.mark.skipif(not PHILIPS.is_dir(), reason=f"{PHILIPS} is not here")
def test_a_study_of_a_real_scanner(tmp_path: Path) -> None:
    build_tfrecords.build(PHILIPS, tmp_path / "out", split="slice")
    (path,) = (tmp_path / "out").rglob("metadata.json")
    rows = json.loads(path.read_text())["volumes"]
    assert len(rows) == 28 and not any(row["has_label"] for row in rows)
    assert {tuple(row["shape"]) for row in rows} == {(1, 512, 512)}
    (scan,) = find_scans(PHILIPS)
    volume = scan.read()
    by_name = sorted(rows, key=lambda row: row["volume_id"])
    for number in (0, 27):
        expected = volume.affine @ [0, 0, number, 1]
        np.testing.assert_allclose(np.array(by_name[number]["affine"])[:, 3], expected)
