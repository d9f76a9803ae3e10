"""The same scan in files of each format gives the same volume and label."""

import zipfile
from collections.abc import Iterable
from pathlib import Path

import nrrd
import numpy as np
import pytest
from tiny_ct import LAS_AFFINE, nifti_bytes, tiny_volume

from data_prep import sources
from mbh_jax.errors import UserError

HU, LABEL = tiny_volume(3, 5)
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def write_nifti(path: Path, voxels: np.ndarray) -> None:
    path.with_name(f"{path.name}.nii").write_bytes(nifti_bytes(voxels, qform_only=False))


def write_mha(path: Path, voxels: np.ndarray) -> None:
    """Voxels stored as in NIfTI; MetaImage's positions are LPS+."""
    affine = LPS_TO_RAS @ LAS_AFFINE
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    kind = {"int16": "MET_SHORT", "uint16": "MET_USHORT"}[voxels.dtype.name]
    lines = [
        "NDims = 3",
        f"DimSize = {_text(voxels.shape)}",
        f"ElementType = {kind}",
        f"ElementSpacing = {_text(spacing)}",
        f"Offset = {_text(affine[:3, 3])}",
        f"TransformMatrix = {_text((affine[:3, :3] / spacing).T.ravel())}",
        "ElementDataFile = LOCAL\n",
    ]
    content = "\n".join(lines).encode() + voxels.tobytes("F")
    path.with_name(f"{path.name}.MHA").write_bytes(content)


def _text(values: Iterable[float]) -> str:
    return " ".join(f"{value:.12g}" for value in values)


def write_nrrd(path: Path, voxels: np.ndarray) -> None:
    fields = {
        "space": "right-anterior-superior",
        "space directions": LAS_AFFINE[:3, :3].T,
        "space origin": LAS_AFFINE[:3, 3],
    }
    nrrd.write(f"{path}.nrrd", voxels, fields)


WRITERS = {"nifti": write_nifti, "mha": write_mha, "nrrd": write_nrrd}


def write_source(source: Path, image: str, label: str, labels: str = "ground truths") -> Path:
    """One case, its image and label in two formats."""
    for folder, kind, voxels in (("images", image, HU), (labels, label, LABEL)):
        (source / folder).mkdir(parents=True)
        WRITERS[kind](source / folder / "case", voxels)
    return source


@pytest.mark.parametrize(("image", "label"), [("mha", "mha"), ("nrrd", "nrrd"), ("mha", "nifti")])
def test_formats_give_equal_volumes(tmp_path: Path, image: str, label: str) -> None:
    (case,) = sources.open_source(write_source(tmp_path / "a", "nifti", "nifti")).cases
    (other,) = sources.open_source(write_source(tmp_path / "b", image, label)).cases
    expected, found = sources.read_case(case), sources.read_case(other)
    assert found.sha256 == expected.sha256 and found.volume_id == expected.volume_id == "case"
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-5)
    assert found.spacing_known and found.has_label
    assert sources.read_facts(other).notes == ()


def test_of_a_zip_only_nifti_is_read(tmp_path: Path) -> None:
    write_source(tmp_path / "source", "nrrd", "nifti")
    path = tmp_path / "source.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted((tmp_path / "source").rglob("*.*")):
            archive.write(file, file.relative_to(tmp_path))
    (case,) = sources.open_source(path).cases
    with pytest.raises(
        UserError, match=r"case\.nrrd: of a zip only NIfTI and PNG are read: unpack"
    ):
        sources.read_case(case)
