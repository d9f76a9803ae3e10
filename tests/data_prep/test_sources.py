import gzip
import io
import unicodedata
import zipfile

import nibabel
import numpy as np
import pytest
from tiny_ct import LAS_AFFINE, nifti_bytes, tiny_volume, write_case

from data_prep import sources
from mbh_jax.errors import UserError


@pytest.fixture
def make_zip(tmp_path):
    """Zips a source folder below `label_192/`, with what macOS adds."""

    def pack(folder):
        path = tmp_path / "label_192.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("label_192/.DS_Store", b"")
            archive.writestr("__MACOSX/label_192/images/._ID_1_ID_2.nii.gz", b"x")
            for file in sorted(folder.rglob("*")):
                archive.write(file, f"label_192/{file.relative_to(folder)}")
        return path

    return pack


def test_zip_folder_and_its_parent_give_the_same_cases(make_source, make_zip):
    folder = make_source(num_volumes=3)
    (folder / "images" / "._ID_1_ID_2.nii.gz").write_bytes(b"x")
    (folder / "readme.txt").write_text("not a volume")
    (folder / "images" / "ID_8_ID_8.mnc").write_bytes(b"x")
    found = sources.open_source(folder)
    assert found.notes[0] == "1 files are ignored, such as images/ID_8_ID_8.mnc"
    expected = [sources.read_case(case) for case in found.cases]
    assert [case.volume_id for case in expected] == [
        "ID_00000001_ID_0000000000",
        "ID_00000001_ID_0000000001",
        "ID_00000002_ID_0000000002",
    ]
    for path in (folder.parent, make_zip(folder)):
        for case, same in zip(sources.open_source(path).cases, expected, strict=True):
            labelled = sources.read_case(case)
            assert (labelled.volume_id, labelled.patient_id) == (same.volume_id, same.patient_id)
            np.testing.assert_array_equal(labelled.hu, same.hu)
            np.testing.assert_array_equal(labelled.label, same.label)
            np.testing.assert_array_equal(labelled.affine, same.affine)


def test_names_that_look_alike_are_one_and_windows_paths_are_read(tmp_path):
    hu, label = tiny_volume(0, 3)
    path = tmp_path / "windows.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for form, folder, content in (("NFC", "images", hu), ("NFD", "ground truths", label)):
            name = unicodedata.normalize(form, "Sch\u00e4del")
            archive.writestr(f"label_192\\{folder}\\{name}.nii", nifti_bytes(content))
            archive.writestr(f"label_192\\{folder}\\", b"")
    (case,) = sources.open_source(path).cases
    assert case.volume_id == "Sch\u00e4del"
    np.testing.assert_array_equal(sources.read_case(case).label, np.rot90(label).transpose(2, 0, 1))


def test_a_zip_is_opened_once_and_again_once_it_has_changed(make_source, make_zip, monkeypatch):
    path = make_zip(make_source(num_volumes=3))
    opened = []
    real = zipfile.ZipFile

    def count(*arguments):
        opened.append(arguments)
        return real(*arguments)

    monkeypatch.setattr("data_prep.sources.files.zipfile.ZipFile", count)
    cases = sources.open_source(path).cases
    volumes = [sources.read_case(case) for case in cases]
    assert len(opened) == 2  # To list it, and to read all members.
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("more.txt", "more")
    np.testing.assert_array_equal(sources.read_case(cases[0]).hu, volumes[0].hu)
    assert len(opened) == 4


def test_facts_count_pixels_and_note_affines_that_differ(tmp_path):
    hu, label = tiny_volume(0, 5)
    moved = LAS_AFFINE.copy()
    moved[2, 3] += 7
    write_case(tmp_path, "same", nifti_bytes(hu), nifti_bytes(label))
    write_case(tmp_path, "moved", nifti_bytes(hu), nifti_bytes(label, moved))
    moved_facts, same_facts = map(sources.read_facts, sources.open_source(tmp_path).cases)
    assert same_facts.notes == ()
    assert moved_facts.notes == (
        "affines of image and label differ by up to 7.0 mm on the same grid (LAS and LAS): "
        "the image's is kept",
    )
    for facts in (same_facts, moved_facts):
        assert facts.shape == (5, 64, 64)
        expected = [[(label[:, :, k] == value).sum() for value in range(6)] for k in range(5)]
        np.testing.assert_array_equal(facts.pixels_per_class, expected)
    case = sources.read_case(moved_facts.case)
    np.testing.assert_array_equal(case.label, np.rot90(label).transpose(2, 0, 1))
    last_row_mm = case.volume.affine @ [0, 63, 0, 1]  # Stored voxel (0, 0, 0) comes to lie there.
    np.testing.assert_allclose(last_row_mm, LAS_AFFINE @ [0, 0, 0, 1], atol=1e-5)


def test_an_sform_that_is_not_the_qform_is_reported_and_kept(tmp_path):
    hu, label = tiny_volume(0, 5)
    image = nibabel.Nifti1Image(hu, LAS_AFFINE)
    image.set_sform(LAS_AFFINE, code=1)
    image.set_qform(LAS_AFFINE, code=1)
    write_case(tmp_path, "agree", image.to_bytes(), nifti_bytes(label))
    moved = LAS_AFFINE.copy()
    moved[0, 3] += 12
    image.set_sform(moved, code=1)
    write_case(tmp_path, "differ", image.to_bytes(), nifti_bytes(label, moved))
    agree, differ = map(sources.read_facts, sources.open_source(tmp_path).cases)
    assert agree.notes == ()
    assert differ.notes == ("sform and qform differ by up to 12.0 mm: the sform is kept",)
    affine = sources.read_case(differ.case).volume.affine
    np.testing.assert_allclose(affine @ [0, 63, 0, 1], moved @ [0, 0, 0, 1], atol=1e-4)


def test_a_source_must_be_there_and_hold_pairs(make_source, tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        sources.open_source(tmp_path / "absent.zip")
    (tmp_path / "false.zip").write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match=r"false\.zip: not a whole zip"):
        sources.open_source(tmp_path / "false.zip")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no data set found: give one of bhsd, unlabelled, png"):
        sources.open_source(tmp_path / "empty")

    source = make_source(num_volumes=3)
    label = source / "ground truths" / "ID_00000002_ID_0000000002.nii.gz"
    content = label.read_bytes()
    label.unlink()
    (source / "ground truths" / "ID_7_ID_8.nii.gz").write_bytes(content)
    extra = source / "images" / "ID_00000001_ID_0000000001.nii"
    extra.write_bytes(gzip.decompress(content))
    found = sources.open_source(source)
    assert [case.volume_id for case in found.cases] == ["ID_00000001_ID_0000000000"]
    printed = dict(found.bad_cases)
    assert "two files for images/" in printed["ID_00000001_ID_0000000001"]
    assert "has no partner in 'ground truths/'" in printed["ID_00000002_ID_0000000002"]
    assert "has no partner in 'images/'" in printed["ID_7_ID_8"]


def test_folders_may_be_links_and_names_in_capitals(make_source, tmp_path):
    real = make_source(num_volumes=3)
    linked = tmp_path / "linked"
    linked.mkdir()
    for folder in ("images", "ground truths"):
        for file in (real / folder).iterdir():
            file.rename(file.with_name(file.name.replace(".nii.gz", ".NII.GZ")))
        (linked / folder).symlink_to(real / folder)
    (linked / "round").symlink_to(linked)
    cases = sources.open_source(linked).cases
    assert [case.volume_id for case in cases] == [
        "ID_00000001_ID_0000000000",
        "ID_00000001_ID_0000000001",
        "ID_00000002_ID_0000000002",
    ]
    assert sources.read_case(cases[0]).label.any()


def test_two_data_sets_below_one_folder_are_refused(make_source):
    source = make_source(num_volumes=1)
    source.rename(source.parent / "first")
    make_source(num_volumes=1)
    with pytest.raises(UserError, match=r"several data sets \(bhsd in first, bhsd in source\)"):
        sources.open_source(source.parent)


def test_a_damaged_zip_member_is_named(make_source, make_zip):
    path = make_zip(make_source(num_volumes=1))
    with zipfile.ZipFile(path) as archive:
        member = next(item for item in archive.infolist() if "images/ID" in item.filename)
    content = bytearray(path.read_bytes())
    middle = member.header_offset + member.compress_size // 2
    content[middle : middle + 8] = b"\xff" * 8
    path.write_bytes(content)
    (case,) = [item for item in sources.open_source(path).cases if "ID_0" in item.volume_id]
    with pytest.raises(UserError, match=rf"label_192\.zip: {member.filename}: .*damaged"):
        sources.read_case(case)


def test_a_source_file_can_be_read_twice(make_source, make_zip):
    """Headers are peeked at, which zip members must allow."""
    source = sources.open_source(make_zip(make_source(num_volumes=1)))
    image = source.cases[0].image
    assert isinstance(image, sources.SourceFile)
    with image.open() as stream:
        first = stream.read()
        stream.seek(0)
        assert stream.read() == first
    assert gzip.GzipFile(fileobj=io.BytesIO(first)).read(4) == (348).to_bytes(4, "little")
