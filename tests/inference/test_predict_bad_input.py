"""Bad files of every kind through the command: one line each, and the good scans beside them.

The kinds and what is said of them are those of the readers' own tests.
"""

import contextlib
import io
import os
import re
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from run_commands import predict_exit_code as run
from tiny_ct import nifti_bytes, tiny_volume

from mbh_jax.errors import UserError
from mbh_jax.imageio.readers import find_scans

sys.path.append(str(Path(__file__).parents[1] / "imageio"))
import test_metaimage
import test_nifti
import test_nrrd
import test_pictures

GOOD = nifti_bytes(tiny_volume(0, 3)[0])
Kinds = dict[str, tuple[Callable[[Path], Any], str]]


def _file(content: bytes, suffix: str) -> Callable[[Path], Any]:
    """Makes a file of this content in a folder."""
    return lambda folder: (folder / f"bad{suffix}").write_bytes(content)


def _nrrd(change: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """Makes a NRRD file and changes it."""
    return lambda folder: change(test_nrrd.write(folder / "bad.nrrd"))


def _replace(old: bytes, new: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(path.read_bytes().replace(old, new))


VOLUMES: Kinds = {
    **{
        f"NIfTI, {kind}": (_file(content, ".nii.gz" if content[:1] == b"\x1f" else ".nii"), said)
        for kind, (content, said) in test_nifti.BAD.items()
    },
    "NIfTI, a mask": (_file(nifti_bytes(tiny_volume(0, 3)[1]), ".nii"), "values from 0 to 5 only"),
    "NIfTI, a link to nothing": (
        lambda folder: (folder / "bad.nii").symlink_to(folder / "away"),
        "no such file",
    ),
    **{
        f"MetaImage, {kind}": (_file(content, ".mha"), said)
        for kind, (content, said) in test_metaimage.BAD.items()
    },
    "NRRD, empty": (_nrrd(lambda path: path.write_bytes(b"")), "not a whole NRRD file"),
    "NRRD, text": (_nrrd(lambda path: path.write_bytes(b"no\n" * 9)), "not a whole NRRD file"),
    "NRRD, cut": (
        _nrrd(lambda path: path.write_bytes(path.read_bytes()[:-20])),
        "not a whole NRRD file",
    ),
    "NRRD, unknown encoding": (_nrrd(_replace(b"gzip", b"gzap")), "not a whole NRRD file"),
    "NRRD, no number for a size": (_nrrd(_replace(b"4 5 3", b"4 5 x")), "not a whole NRRD file"),
    "NRRD, more slices than voxels": (_nrrd(_replace(b"4 5 3", b"4 5 9")), "not a whole NRRD"),
    "NRRD, no space": (
        lambda folder: test_nrrd.write(folder / "bad.nrrd", space=None),
        "no usable geometry",
    ),
    "NRRD, no HU": (
        lambda folder: test_nrrd.write(folder / "bad.nrrd", voxels=test_nrrd.STORED * 1e6),
        "cannot be Hounsfield units",
    ),
}


PICTURES: Kinds = {f"picture, {kind}": one for kind, one in test_pictures.BAD.items()}


class Said(NamedTuple):
    """What the command did with a folder that holds a folder for each kind."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The lines about bad scans."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


def _folder(kind: str) -> str:
    return re.sub(r"\W+", "_", kind)


def _predict(workdir: Path, root: Path, kinds: Kinds) -> Said:
    """Makes a folder for each kind and predicts all of them."""
    for kind, (make, _) in kinds.items():
        folder = root / _folder(kind)
        folder.mkdir(parents=True)
        make(folder)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(workdir, root, root.with_name("out"))
    return Said(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def said(
    workdir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, tuple[Path, Said]]:
    """Of volumes and of pictures: their folder, with a good one in it, and what was said."""
    found = {}
    for name, kinds in (("volumes", VOLUMES), ("pictures", PICTURES)):
        root = tmp_path_factory.mktemp(name) / "in"
        root.mkdir()
        if kinds is VOLUMES:
            (root / "good.nii").write_bytes(GOOD)
        else:
            test_pictures.IMAGE.save(root / "good.png")
        found[name] = root, _predict(workdir, root, kinds)
    return found


@pytest.mark.parametrize("kind", [*VOLUMES, *PICTURES])
def test_each_bad_file_is_one_line(kind: str, said: Mapping[str, tuple[Path, Said]]) -> None:
    root, of_all = said["volumes" if kind in VOLUMES else "pictures"]
    message = (VOLUMES | PICTURES)[kind][1]
    where = str(root / _folder(kind)) + os.sep
    (line,) = [line for line in of_all.errors if where in line]
    assert line.startswith(f"error: {where}") and re.search(message, line)


@pytest.mark.parametrize(("name", "kinds"), [("volumes", VOLUMES), ("pictures", PICTURES)])
def test_the_good_one_beside_them_is_done(
    name: str, kinds: Kinds, said: Mapping[str, tuple[Path, Said]]
) -> None:
    """Nothing but whole results is left, and nothing is said twice or between the lines."""
    root, of_all = said[name]
    assert of_all.code == 1 and f"1 of {len(kinds) + 1} scans" in of_all.out
    assert len(of_all.errors) == len(kinds) and "Traceback" not in of_all.err
    output = root.with_name("out")
    reports = [path.name for path in output.glob("*.json")]
    assert sorted(reports) == ["good.json", "report.json"]
    assert not list(output.rglob(".partial*"))


def test_dicom(workdir: Path, tmp_path: Path) -> None:
    """Kinds that are no scan end alone; the others beside a good series. No patient is named."""
    pytest.importorskip("pydicom", reason="pydicom is not installed: the dicom extra")
    pytest.importorskip("highdicom", reason="highdicom is not installed: the dicom extra")
    from dicom_files import write_head
    from test_dicom_bad_input import BAD

    together: Kinds = {}
    lines = []
    for kind, (make, message) in BAD.items():
        folder = tmp_path / "alone" / _folder(kind)
        folder.mkdir(parents=True)
        make(folder)
        try:
            scans = find_scans(folder)
        except UserError:
            err = io.StringIO()
            with contextlib.redirect_stderr(err):
                assert run(workdir, folder, tmp_path / "none") == 1
            lines.append(err.getvalue().splitlines()[-1])
            assert re.search(message, lines[-1]) and str(folder) in lines[-1]
        else:
            if len(scans) == 1:
                together[kind] = make, message
    assert len(lines) > 8 and not (tmp_path / "none").exists()

    root = tmp_path / "in"
    write_head(root / "good", 3)
    of_all = _predict(workdir, root, together)
    assert of_all.code == 1 and f"1 of {len(together) + 1} scans" in of_all.out
    assert len(of_all.errors) == len(together) > 9
    for _, message in together.values():
        assert any(re.search(message, line) for line in of_all.errors), message
    assert not re.search("DOE|4711|1956|ACC-815", "".join([*lines, of_all.out, of_all.err]))


def _nothing(folder: Path) -> Path:
    return folder / "away"


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "bad.nii")
    return folder


def _notes(folder: Path) -> Path:
    (folder / "notes.txt").write_text("hello")
    return folder


def _zip(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "scans.zip", "w") as archive:
        archive.writestr("a.nii", GOOD)
    return folder / "scans.zip"


def _link_to_nothing(folder: Path) -> Path:
    (folder / "a").symlink_to(folder / "away")
    return folder / "a"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_nothing, "no such file or folder"),
        (_link_to_nothing, "no such file or folder"),
        (lambda folder: folder, "holds no scan"),
        (_notes, "holds no scan"),
        (_pipe, "holds no scan"),
        (lambda folder: _pipe(folder) / "bad.nii", "no such file or folder"),
        (_zip, "not a scan"),
        (lambda folder: _notes(folder) / "notes.txt", "not a scan"),
    ],
)
def test_what_is_no_input_is_one_line(
    make: Callable[[Path], Path],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = make(tmp_path)
    assert run(tmp_path / "model", path, tmp_path / "out") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {path}: ") and message in line
    assert not (tmp_path / "out").exists()
