"""Phantom files: BHSD's layout and header quirks byte for byte, and the command that writes."""

import gzip
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data_prep.phantom import make_head
from data_prep.phantom.__main__ import main
from data_prep.phantom.nifti import nifti_bytes
from mbh_jax.errors import UserError

SAMPLE = Path(__file__).parents[2].parent / "shared" / "bhsd_sample" / "label_sample.zip"
QUIET_NAN = b"\x00\x00\xc0\x7f"
SMALL = ["--size", "48", "--max_slices", "4", "--prevalence", "even"]


def tilted_head():
    heads = (make_head(0, index, 48, "even", max_slices=3) for index in range(20))
    return next(head for head in heads if head.tilt_rad > 0.1)


def test_header_bytes_have_the_quirks_of_bhsd() -> None:
    head = tilted_head()
    for voxels, datatype in ((head.hu, 4), (head.label, 512)):
        raw = nifti_bytes(head, voxels)
        assert struct.unpack_from("<i", raw, 0) == (348,)
        assert raw[38:39] == b"r"
        assert struct.unpack_from("<8h", raw, 40) == (3, 48, 48, 3, 1, 1, 1, 1)
        assert struct.unpack_from("<2h", raw, 70) == (datatype, 16)
        pixdim = struct.unpack_from("<8f", raw, 76)
        assert pixdim == pytest.approx((-1.0, *head.spacing_mm, 0.0, 0.0, 0.0, 0.0), rel=1e-6)
        assert struct.unpack_from("<f", raw, 108) == (352.0,)
        assert raw[112:120] == QUIET_NAN * 2
        assert raw[123] == 2
        assert struct.unpack_from("<2h", raw, 252) == (1, 0)
        assert raw[256:260] == struct.pack("<f", -0.0)
        assert raw[280:328] == bytes(48)
        assert raw[344:352] == b"n+1\x00" + bytes(4)
        assert raw[352:] == voxels.tobytes(order="F")


@pytest.mark.skipif(not SAMPLE.is_file(), reason="the real sample is not here: ../shared")
def test_header_bytes_equal_those_of_the_real_sample_but_for_its_geometry() -> None:
    head = tilted_head()
    ours = nifti_bytes(head, head.label)[:352]
    with zipfile.ZipFile(SAMPLE) as archive:
        name = next(name for name in archive.namelist() if "ground truths/ID" in name)
        theirs = gzip.decompress(archive.read(name))[:352]
    # "regular" is not in the sample, but in the table of the real headers; geometry differs.
    geometry = [slice(38, 39), slice(42, 56), slice(80, 92), slice(260, 280)]
    for part in geometry:
        ours = ours[: part.start] + bytes(part.stop - part.start) + ours[part.stop :]
        theirs = theirs[: part.start] + bytes(part.stop - part.start) + theirs[part.stop :]
    assert ours == theirs


def test_nibabel_reads_the_geometry_that_the_head_has() -> None:
    head = tilted_head()
    image = nib.Nifti1Image.from_bytes(nifti_bytes(head, head.hu))
    np.testing.assert_allclose(image.affine, head.affine, atol=1e-3)
    np.testing.assert_array_equal(np.asarray(image.dataobj), head.hu)
    assert nib.aff2axcodes(image.affine) == ("L", "A", "S")


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.gz"))
    }


def test_the_command_writes_pairs_that_do_not_depend_on_their_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few, more = tmp_path / "few", tmp_path / "deep" / "more"
    main(["--output", str(few), "--num_volumes", "2", "--seed", "4", *SMALL])
    main(["--output", str(more), "--num_volumes", "3", "--seed", "4", *SMALL])
    assert sorted(path.name for path in few.iterdir()) == ["ground truths", "images"]
    names = {path.name for path in (more / "images").iterdir()}
    assert len(names) == 3
    assert names == {path.name for path in (more / "ground truths").iterdir()}
    assert files(few).items() <= files(more).items()
    last_line = capsys.readouterr().out.splitlines()[-1]
    assert last_line.startswith("wrote 3 volumes (12 slices, ")


@pytest.mark.slow
def test_the_command_writes_the_same_with_two_processes(tmp_path: Path) -> None:
    for workers in ("1", "2"):
        main(
            [
                "--output",
                str(tmp_path / workers),
                "--num_volumes",
                "3",
                "--workers",
                workers,
                *SMALL,
            ]
        )
    assert files(tmp_path / "1") == files(tmp_path / "2")


def test_a_folder_in_use_is_kept_without_overwrite(tmp_path: Path) -> None:
    command = ["--output", str(tmp_path / "phantom"), "--num_volumes", "1", *SMALL]
    main(command)
    before = files(tmp_path / "phantom")
    with pytest.raises(UserError, match="--overwrite"):
        main([*command, "--seed", "1"])
    assert files(tmp_path / "phantom") == before
    main([*command, "--seed", "1", "--overwrite"])
    after = files(tmp_path / "phantom")
    assert len(after) == 2
    assert after.keys() != before.keys()


def test_overwrite_never_removes_what_is_not_a_phantom_data_set(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"thesis\.txt"):
        main(["--output", str(tmp_path), "--num_volumes", "1", "--overwrite", *SMALL])
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--num_volumes", "0"],
        ["--workers", "0"],
        ["--size", "7"],
        ["--prevalence", "odd"],
        ["--seed", "-1"],
        ["--max_slices", "0"],
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(
    tmp_path: Path, arguments: list[str]
) -> None:
    with pytest.raises(UserError, match=arguments[0].removeprefix("--")):
        main(["--output", str(tmp_path / "phantom"), *arguments])
    assert not (tmp_path / "phantom").exists()


def test_the_phantom_needs_no_tensorflow() -> None:
    code = "import sys, data_prep.phantom; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
