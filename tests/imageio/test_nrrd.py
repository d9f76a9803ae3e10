"""NRRD files: geometry in each space, encodings, files beside the header, and damage."""

from pathlib import Path

import nrrd
import numpy as np
import pytest

from mbh_jax.errors import UserError
from mbh_jax.imageio import nrrd_file
from mbh_jax.imageio.readers import find_scans, read_scan

STORED = np.random.default_rng(0).integers(-1000, 2000, (4, 5, 3)).astype(np.int16)
"""On the stored axes (i, j, k)."""
LPS = np.array([[0.5, 0, 0, -10], [0, 0.32, 0, -20], [0, 0.24, 5, 30], [0, 0, 0, 1]])
"""Axis j is turned about x, axis k is not: the slices of a tilted gantry."""
FIELDS = {
    "space": "left-posterior-superior",
    "space directions": LPS[:3, :3].T,
    "space origin": LPS[:3, 3],
}


def write(path: Path, voxels: np.ndarray = STORED, **changed: object) -> Path:
    """A file with other fields; None leaves one out."""
    fields = {key.replace("_", " "): value for key, value in {**FIELDS, **changed}.items()}
    nrrd.write(str(path), voxels, {k: v for k, v in fields.items() if v is not None})
    return path


@pytest.mark.parametrize("space", ["LPS", "right-anterior-superior", "LAS", "RPS"])
def test_geometry_in_each_space(space: str, tmp_path: Path) -> None:
    header, stored = nrrd_file.read_stored(write(tmp_path / "scan.nrrd", space=space))
    np.testing.assert_array_equal(stored, STORED)
    signs = [-1 if space[0] in "lL" else 1, -1 if "P" in space or "posterior" in space else 1]
    np.testing.assert_allclose(header.affine, np.diag([*signs, 1, 1]) @ LPS)


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2", "ascii"])
@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr"])
def test_encodings_and_voxels_beside_the_header(encoding: str, suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"scan{suffix}", encoding=encoding)
    assert [scan.name for scan in find_scans(tmp_path)] == ["scan"]
    np.testing.assert_array_equal(read_scan(path).hu, STORED.transpose(2, 1, 0))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("said", "change"),
    [
        ("no usable geometry", {"space": None, "space_origin": None, "space_directions": None}),
        ("no usable geometry", {"space": "scanner-xyz"}),
        ("no usable geometry", {"space_origin": None}),
        ("no usable geometry", {"space_units": ["m", "m", "m"]}),
        ("no usable geometry", {"space_directions": np.zeros((3, 3))}),
        ("one 3-D volume", {"voxels": STORED[..., 0], "space_directions": np.eye(3)[:2]}),
        ("one 3-D volume", {"voxels": np.stack([STORED, STORED])}),
        ("cannot be Hounsfield units", {"voxels": STORED.astype(np.float32) * 1e6}),
        ("NaN or infinite", {"voxels": STORED * np.float32("nan")}),
    ],
)
def test_what_is_no_ct_is_refused_in_one_line(said: str, change: dict, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said) as error:
        read_scan(write(tmp_path / "scan.nrrd", **change))
    assert str(error.value).startswith(f"{tmp_path / 'scan.nrrd'}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no volume\n" * 9),
        lambda path: path.write_bytes(b"NRRD0004\ntype: short\n"),
        lambda path: path.write_bytes(path.read_bytes()[:60]),
        _cut,
        lambda path: path.write_bytes(path.read_bytes().replace(b"gzip", b"gzap")),
        lambda path: path.write_bytes(path.read_bytes().replace(b"sizes: 4 5 3", b"sizes: 4 5 x")),
        lambda path: path.write_bytes(path.read_bytes().replace(b"sizes: 4 5 3", b"sizes: 4 5 9")),
    ],
)
def test_damage_is_one_line(damage, tmp_path: Path) -> None:
    path = write(tmp_path / "scan.nrrd")
    damage(path)
    with pytest.raises(UserError) as error:
        read_scan(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_the_voxels_of_a_header_may_be_missing(tmp_path: Path) -> None:
    path = write(tmp_path / "scan.nhdr")
    (other,) = set(tmp_path.iterdir()) - {path}
    other.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        read_scan(path)
