"""DICOM in; masks, pictures, millilitres and DICOM SEG out, without a patient's data in them."""

import csv
import json
import re
from pathlib import Path

import dicom_files
import nibabel
import numpy as np
import pydicom
import pytest
from dicom_files import head, positions, series_tags, write_head, write_series
from run_commands import predict_exit_code as run
from tiny_ct import nifti_bytes, tiny_volume

import mbh_jax
from mbh_jax.errors import UserError
from mbh_jax.labels import CLASS_NAMES

highdicom = pytest.importorskip("highdicom", reason="highdicom is not installed: the dicom extra")

SECRETS = (b"DOE", b"JANE", b"PID-4711", b"19560102", b"20260304", b"ACC-815")


def assert_only_segmentations_hold_secrets(output: Path) -> None:
    """DICOM SEG carries the patient, as it must; nothing else does."""
    for path in output.iterdir():
        content = path.read_bytes()
        assert not any(secret.decode() in path.name for secret in SECRETS)
        if path.name.endswith(".seg.dcm"):
            assert b"DOE^JANE" in content
        else:
            # Base64, which a page holds, has any three letters somewhere.
            words = re.sub(rb"[A-Za-z0-9+/]{60,}", b"", content)
            assert not any(secret in words for secret in SECRETS)


def test_a_disc_of_mixed_series_beside_nifti(
    workdir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    disc, output = tmp_path / "disc", tmp_path / "disc" / "results"
    paths = write_head(disc / "A", 5)
    scout = series_tags(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], SeriesDescription="Scout")
    write_head(disc / "B", 1, tags=scout)
    missing = series_tags(SeriesDescription="Thin, one missing")
    write_series(disc / "C", head(5), positions([0, 5, 10, 20, 25])[1], tags=missing)
    (disc / "plain.nii").write_bytes(nifti_bytes(tiny_volume(0, 4)[0]))
    damaged = write_head(disc / "D", 1)[0]
    damaged.write_bytes(damaged.read_bytes()[:700])

    assert run(workdir, disc, output, "--html") == 1
    said = capfd.readouterr()
    assert "3 of 4 scans" in said.out and "not a medical device" in said.out
    assert said.err.splitlines()[-1].startswith(f"error: {damaged}: damaged DICOM file")
    assert "left out: 1 image of Scout_" in said.err
    with (output / "volumes.csv").open() as file:
        rows = {row["scan"][:-9]: row for row in csv.DictReader(file)}
    assert {"Head_5mm_brain", "Thin_one_missing"} < set(rows)
    assert "10 mm between slices 3 and 4" in rows["Thin_one_missing"]["warnings"]

    # The mask lies on the grid of the series, and SEG holds the same voxels.
    name = rows["Head_5mm_brain"]["scan"]
    mask = nibabel.load(output / f"{name}.nii.gz")
    first = pydicom.dcmread(paths[0])
    np.testing.assert_allclose(
        mask.affine[:3, 3], first.ImagePositionPatient * np.array((-1, -1, 1))
    )
    np.testing.assert_allclose(mask.affine[:3, :3], np.diag([-0.5, -0.5, 5]))
    labels = np.asarray(mask.dataobj).transpose(2, 1, 0)
    segmentation = highdicom.seg.segread(output / f"{name}.seg.dcm")
    found = segmentation.get_pixels_by_source_instance(
        [pydicom.dcmread(path).SOPInstanceUID for path in paths],
        combine_segments=True,
        ignore_spatial_locations=True,
        assert_missing_frames_are_empty=True,
    )
    assert len(np.unique(labels)) > 1
    np.testing.assert_array_equal(found, labels)

    # Millilitres of the series with the missing slice, by the 5 mm of each of its slices.
    name = rows["Thin_one_missing"]["scan"]
    labels = np.asarray(nibabel.load(output / f"{name}.nii.gz").dataobj)
    report = json.loads((output / f"{name}.json").read_text())
    for value, kind in enumerate(CLASS_NAMES):
        if value:
            expected_ml = (labels == value).sum() * 0.25 * 5 / 1000
            assert report["classes"][kind]["ml"] == pytest.approx(expected_ml)
    assert report["dicom_seg"] == f"{name}.seg.dcm" and report["slice_mm"] == [5] * 5

    assert_only_segmentations_hold_secrets(output)
    assert not any(secret.decode() in said.err + said.out for secret in SECRETS)

    # Its own results are no input of a second run, which has a page to write and nothing else.
    damaged.unlink()
    page = output / f"{name}.html"
    content = page.read_bytes()
    page.unlink()
    before = {path: path.stat().st_mtime_ns for path in output.glob("*_*.json")}
    assert run(workdir, disc, output, "--html") == 0
    assert page.read_bytes() == content
    assert {path: path.stat().st_mtime_ns for path in output.glob("*_*.json")} == before


def test_a_chosen_series(workdir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_head(tmp_path / "in", 3, tags=series_tags(SeriesDescription="Bone 1mm"))
    write_head(tmp_path / "in", 4, tags=series_tags(SeriesDescription="Brain 5mm"), names="b{}")
    assert run(workdir, tmp_path / "in", tmp_path / "out", "--series", "brain 5MM") == 0
    assert [path.name[:9] for path in (tmp_path / "out").glob("*.nii.gz")] == ["Brain_5mm"]
    assert run(workdir, tmp_path / "in", tmp_path / "out", "--series", "spine") == 1
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") and "Bone_1mm" in last and "Brain_5mm" in last


def test_no_blood_no_segmentation(
    workdir: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And the one of an earlier model, which found blood, goes away."""
    from mbh_jax.inference.predictor import Predictor

    write_head(tmp_path / "in", 3)
    output = tmp_path / "out"
    assert run(workdir, tmp_path / "in", output) == 0
    (report_path,) = output.glob("Head*.json")
    assert len(list(output.glob("*.seg.dcm"))) == 1
    monkeypatch.setattr(
        Predictor, "predict_slices", lambda self, hu, stacks: (np.zeros(hu.shape, np.uint8), None)
    )
    assert run(workdir, tmp_path / "in", output, "--overwrite") == 0
    assert not list(output.glob("*.seg.dcm"))
    assert json.loads(report_path.read_text())["dicom_seg"] == "not written: no blood found"
    assert ".seg.dcm not written: no blood found" in capfd.readouterr().err


def test_a_series_that_segmentations_cannot_refer_to(workdir: Path, tmp_path: Path) -> None:
    write_head(tmp_path / "in", 3, tags=series_tags(FrameOfReferenceUID=None))
    assert run(workdir, tmp_path / "in", tmp_path / "out") == 0
    (report_path,) = (tmp_path / "out").glob("Head*.json")
    said = json.loads(report_path.read_text())["dicom_seg"]
    assert said.startswith("not written: its files have no FrameOfReferenceUID")


def test_in_python(workdir: Path, tmp_path: Path) -> None:
    write_head(tmp_path / "one", 5)
    predictor = mbh_jax.load(workdir)
    found = predictor.predict(tmp_path / "one")
    assert found.mask.shape == (5, 64, 64) and found.ml["any"] > 0
    np.testing.assert_array_equal(found.mask, predictor.predict_mask(head(5)))
    dicom_files.write_head(tmp_path / "two", 3)
    with pytest.raises(UserError, match=r"holds 2 scans"):
        predictor.predict(tmp_path)
