"""Atomic files, strict JSON and CSV whose floats come back."""

import csv
import errno
import json
import math
import os
import resource

import numpy as np
import pytest

from mbh_jax import files
from mbh_jax.errors import UserError


def test_atomic_write_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "a" / "b.txt"
    files.atomic_write_text(path, "old")
    files.atomic_write_text(path, "neu ü")
    assert path.read_text(encoding="utf-8") == "neu ü"
    assert [entry.name for entry in path.parent.iterdir()] == ["b.txt"]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    files.atomic_write_text(path, "old")

    def full_disk(_):
        raise OSError("no space left on device")

    monkeypatch.setattr(files.os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        files.atomic_write_text(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


@pytest.fixture
def small_files():
    """No file of this process may be longer than 1,000 bytes, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_names_the_file(tmp_path, small_files):
    path = tmp_path / "a.txt"
    with pytest.raises(OSError, match=r"File too large: '.*a\.txt'"):
        files.atomic_write_bytes(path, bytes(5000))
    folder = tmp_path / "folder"
    with (
        pytest.raises(OSError, match=r"File too large: '.*folder'"),
        files.whole_folder(folder, [], overwrite=False) as new,
    ):
        (new / "file").write_bytes(bytes(5000))
    assert not list(tmp_path.iterdir())


def test_another_error_while_a_file_is_written_is_not_given_its_name(tmp_path):
    with (
        pytest.raises(ConnectionResetError) as raised,
        files.atomic_path(tmp_path / "a.txt"),
    ):
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
    assert raised.value.filename is None


def test_a_path_to_write_to_keeps_its_suffix_and_may_have_a_long_name(tmp_path):
    path = tmp_path / "new" / ("x" * 240 + ".nii.gz")
    with files.atomic_path(path) as partial:
        assert partial.name.endswith(".nii.gz")
        partial.write_bytes(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    with pytest.raises(KeyboardInterrupt), files.atomic_path(path) as partial:
        partial.write_bytes(b"ha")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_is_replaced_once_the_new_one_is_whole(tmp_path):
    target = tmp_path / "out"
    for content in ("first", "second"):
        with files.whole_folder(target, ["a"], overwrite=True) as folder:
            (folder / "a").write_text(content)
    assert (target / "a").read_text() == "second"
    with (
        pytest.raises(KeyboardInterrupt),
        files.whole_folder(target, ["a"], overwrite=True) as folder,
    ):
        (folder / "a").write_text("half")
        raise KeyboardInterrupt
    assert (target / "a").read_text() == "second"
    assert list(tmp_path.iterdir()) == [target]
    for names, overwrite, message in (
        (["a"], False, "exists: give --overwrite"),
        (["b"], True, "holds a, which was not written by this program"),
    ):
        with (
            pytest.raises(UserError, match=message),
            files.whole_folder(target, names, overwrite=overwrite),
        ):
            pass


def test_files_of_a_folder_are_replaced_together(tmp_path, small_files):
    target = tmp_path / "new" / "out"
    with files.whole_files(target) as folder:
        (folder / "a").write_text("first")
        files.atomic_write_text(folder / "b", "first")
        assert not (target / "a").exists()
    (target / "other").write_text("kept")
    with pytest.raises(KeyboardInterrupt), files.whole_files(target) as folder:
        (folder / "a").write_text("half")
        raise KeyboardInterrupt
    with (
        pytest.raises(OSError, match=r"File too large: '.*new/out/b'"),
        files.whole_files(target) as folder,
    ):
        (folder / "a").write_text("half")
        files.atomic_write_bytes(folder / "b", bytes(5000))
    found = {path.name: path.read_text() for path in target.iterdir()}
    assert found == {"a": "first", "b": "first", "other": "kept"}
    with files.whole_files(target) as folder:
        (folder / "a").write_text("second")
    found = {path.name: path.read_text() for path in target.iterdir()}
    assert found == {"a": "second", "b": "first", "other": "kept"}


def test_a_folder_that_nothing_came_to_is_not_left(tmp_path):
    with pytest.raises(KeyboardInterrupt), files.whole_files(tmp_path / "x" / "y"):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="file: is a file: give a folder"),
        files.whole_files(tmp_path / "file"),
    ):
        pass


def test_files_are_not_half_moved_when_a_signal_comes_in_between(tmp_path, monkeypatch):
    moved = []
    replace = files.Path.replace

    def interrupted(source, path):
        replace(source, path)
        moved.append(path.name)
        if len(moved) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(files.Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), files.whole_files(tmp_path) as folder:
        for name in "abc":
            (folder / name).write_text("new")
    assert moved == ["a", "b", "c"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_json_is_strict_and_free_of_numpy(tmp_path):
    value = {
        "nan": float("nan"),
        "numpy_nan": np.float32("nan"),
        "infinite": [math.inf, 1.5],
        "array": np.array([[1, 2], [3, 4]]),
        "scalar": np.int64(7),
        "flag": True,
        "none": None,
        3: "key",
    }
    files.write_json(tmp_path / "x.json", value)

    def refuse(constant):
        raise AssertionError(f"not JSON: {constant}")

    assert json.loads((tmp_path / "x.json").read_text(), parse_constant=refuse) == {
        "nan": None,
        "numpy_nan": None,
        "infinite": [None, 1.5],
        "array": [[1, 2], [3, 4]],
        "scalar": 7,
        "flag": True,
        "none": None,
        "3": "key",
    }


def test_csv_floats_come_back_exactly(tmp_path):
    rng = np.random.default_rng(0)
    values = [*rng.standard_normal(50) * 10.0 ** rng.integers(-30, 30, 50), 0.1 + 0.2]
    files.write_csv(
        tmp_path / "x.csv", ("x", "name"), [{"x": x, "name": "a,b", "more": 1} for x in values]
    )
    with (tmp_path / "x.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["x"]) for row in rows] == [float(x) for x in values]
    assert {row["name"] for row in rows} == {"a,b"}
    assert list(rows[0]) == ["x", "name"]


def test_csv_leaves_out_what_does_not_exist_but_refuses_a_missing_column(tmp_path):
    rows: list[dict] = [
        {"x": None, "y": float("nan"), "z": 0},
        {"x": np.float64("nan"), "y": 1, "z": 0.0},
    ]
    files.write_csv(tmp_path / "x.csv", ("x", "y", "z"), rows)
    assert (tmp_path / "x.csv").read_text() == "x,y,z\n,,0\n,1,0.0\n"
    with pytest.raises(KeyError):
        files.write_csv(tmp_path / "x.csv", ("x", "absent"), rows)


def test_a_path_as_a_user_gives_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert os.fspath(files.user_path("~/runs/[a]", "--workdir")) == f"{tmp_path}/runs/[a]"
    assert os.fspath(files.user_path("runs/~a", "--workdir")) == "runs/~a"
    assert os.fspath(files.user_path("gs://bucket/run", "--workdir")) == "gs://bucket/run"
    for wrong, message in (
        ("", "--workdir is empty"),
        (" ", "--workdir is empty"),
        ("~no_such_user/run", "no home folder is known"),
        ("/s3/run", "would be read as the bucket s3://run"),
    ):
        with pytest.raises(UserError, match=message):
            files.user_path(wrong, "--workdir")
