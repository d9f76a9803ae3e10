"""Whose each volume is: by names, by the source's own list, by what the user gives."""

import zipfile

import pytest

from data_prep import sources
from data_prep.sources import Case, SourceFile
from data_prep.sources.patients import assign
from mbh_jax.errors import UserError


def case_of(name):
    file = SourceFile(f"{name}.nii.gz")
    return Case(name, name, file, file)


def patients_of(names, given=None):
    cases, notes = assign([case_of(name) for name in names], given, None)
    assert [case.volume_id for case in cases] == list(names)
    return [case.patient_id for case in cases], notes


@pytest.mark.parametrize(
    ("names", "patients"),
    [
        (["ID_2d_ID_01", "ID_2d_ID_02", "ID_3e_ID_01"], ["ID_2d", "ID_2d", "ID_3e"]),
        (["sub-01_ses-1", "sub-01_ses-2_ct", "sub-02"], ["sub-01", "sub-01", "sub-02"]),
        (["patient3_scan1", "patient3_scan2", "P4-Session-02"], ["patient3", "patient3", "P4"]),
        (["case12_slice_3", "case12_slice_4", "case13_slice3"], ["case12", "case12", "case13"]),
        (["0001_01", "0001_02", "0002_01", "0003-1"], ["0001", "0001", "0002", "0003"]),
        (
            ["case12_3", "case12_4", "case13_3", "case_14_3"],
            ["case12", "case12", "case13", "case_14"],
        ),
    ],
)
def test_patients_by_names(names, patients):
    found, (note,) = patients_of(names)
    assert found == patients
    volumes = f"({len(names)} volumes of {len(set(patients))} patients)"
    assert note == f"patients by names: {names[0]} is of patient {patients[0]} {volumes}"


@pytest.mark.parametrize(
    "names",
    [
        ["case_001", "case_002", "case_003"],
        ["CQ500-CT-1", "CQ500-CT-2", "CQ500-CT-3"],
        ["2023_001", "2023_002", "2023_003"],
        ["set2_scan_1", "set2_scan_2", "set2_scan_3"],
        ["head_scan_1", "head_scan_2", "head_scan_3"],
        ["0001_01", "0001_02", "0002_01", "0003_01", "extra"],
    ],
)
def test_other_names_are_patients_each_and_this_is_said(names):
    found, (note,) = patients_of(names)
    assert found == names
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    assert note.startswith(
        f"warning: {len(names)} volumes are taken as {len(names)} patients ({shown}): give --"
    )


def test_patients_that_the_user_gives(tmp_path):
    names = ["a1x", "a1y", "b2x"]
    expected = ["a1", "a1", "b2"]
    assert patients_of(names, "^([a-z][0-9])")[0] == expected
    path = tmp_path / "whose.csv"
    path.write_text("patient_id,volume_id,age\na1,a1x,50\na1,a1y,50\nb2,b2x,60\n", "utf-8-sig")
    found, (note,) = patients_of(names, str(path))
    assert found == expected
    assert note == f"patients by --patients {path} (3 volumes of 2 patients)"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("([a-z", "neither a .csv file nor a regular expression"),
        ("[a-z]", "with the patient in brackets"),
        ("^(a)", "says nothing of b2x: add it"),
        ("none.csv", "cannot be read"),
        ("columns.csv", "a line of column names with volume_id and patient_id"),
        ("two.csv", "each volume once"),
        ("part.csv", "says nothing of b2x"),
    ],
)
def test_patients_that_cannot_be_used_are_refused(tmp_path, monkeypatch, given, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "columns.csv").write_text("a,b\n1,2\n")
    (tmp_path / "two.csv").write_text("volume_id,patient_id\na1x,p\na1x,q\nb2x,q\n")
    (tmp_path / "part.csv").write_text("volume_id,patient_id\na1x,p\nb2x,\n")
    with pytest.raises(UserError, match=f"^--patients .*{message}"):
        patients_of(["a1x", "b2x"], given)


def test_a_list_in_the_source_is_read_if_it_is_one(tmp_path):
    def open_with(text):
        path = tmp_path / "source.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name in ("a", "b", "sub-1_x"):
                for folder in ("images", "ground truths"):
                    archive.writestr(f"{folder}/{name}.nii", b"")
            archive.writestr("patients.csv", text)
        found = sources.open_source(path)
        return [case.patient_id for case in found.cases], found.notes

    found, notes = open_with("volume_id,patient_id\na,p\nb,p\n")
    assert found == ["p", "p", "sub-1"]
    assert notes == (
        "patients by patients.csv (2 volumes of 1 patients)",
        "patients by names: sub-1_x is of patient sub-1 (1 volumes of 1 patients)",
    )
    assert open_with("name;age\na;50\n")[0] == ["a", "b", "sub-1"]
