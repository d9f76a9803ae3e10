"""Phantoms in the headers of real files: names, geometry and every field come from the table."""

import ast
import csv
import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data_prep.phantom.__main__ import main
from mbh_jax.errors import UserError
from mbh_jax.imageio.nifti import read_header
from mbh_jax.imageio.volume import affine_spacing_mm

FACTS = Path(__file__).parents[2].parent / "shared" / "bhsd_facts" / "label_headers.csv"
FIELDS = {
    "filename": "ID_0000000a_ID_000000000b.nii.gz",
    "dim": "[3, 512, 512, 24, 1, 1, 1, 1]",
    "pixdim": "[-1.0, 0.5, 0.5, 5.25, 0.0, 0.0, 0.0, 0.0]",
    "datatype": "512",
    "bitpix": "16",
    "magic": "b'n+1'",
    "regular": "b'r'",
    "qform_code": "1",
    "quatern_b": "-0.0",
    "quatern_c": "0.9914448613738104",
    "quatern_d": "0.13052619222005157",
    "qoffset_x": "125.0",
    "scl_slope": "nan",
    "scl_inter": "nan",
    "vox_offset": "0.0",
}


def write_table(path, *rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    return path


def run(table, output, *more):
    main(["--headers", str(table), "--output", str(output), "--size", "48", *more])


def test_a_phantom_has_the_name_and_geometry_of_its_header(tmp_path, capsys):
    second = FIELDS | {"filename": "ID_0000000a_ID_000000000c.nii.gz"}
    run(write_table(tmp_path / "headers.csv", FIELDS, second), tmp_path / "out")
    assert "wrote 2 volumes (48 slices, 1 patients)" in capsys.readouterr().out
    for folder in ("images", "ground truths"):
        files = {path.name: path for path in (tmp_path / "out" / folder).iterdir()}
        assert set(files) == {FIELDS["filename"], second["filename"]}
        header = read_header(files[FIELDS["filename"]])
        assert header.shape == (48, 48, 24)
        spacing_mm = affine_spacing_mm(header.affine)
        # The field of view stays 256 mm.
        np.testing.assert_allclose(spacing_mm, [256 / 48, 256 / 48, 5.25], rtol=1e-6)
        tilt = np.degrees(np.arccos(header.affine[2, 2] / 5.25))
        assert tilt == pytest.approx(15, abs=1e-3)
        assert header.affine[0, 3] == 125


@pytest.mark.skipif(not FACTS.is_file(), reason="the real headers are not here: ../shared")
def test_labels_of_full_size_have_every_field_of_the_real_header(tmp_path):
    with FACTS.open(newline="") as file:
        row = next(csv.DictReader(file))
    main(
        [
            "--headers",
            str(FACTS),
            "--output",
            str(tmp_path),
            "--size",
            "512",
            *("--num_volumes", "1"),
        ]
    )
    with gzip.open(tmp_path / "ground truths" / row.pop("filename")) as file:
        header = nib.Nifti1Header(file.read(348), check=False)
    assert float(header["vox_offset"]) == 352
    row.pop("vox_offset")  # nibabel, which made the table, gives 0 here.
    for field, text in row.items():
        wanted = np.nan if text == "nan" else ast.literal_eval(text)
        np.testing.assert_array_equal(header[field], np.array(wanted, header[field].dtype), field)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dim": "[3, 512]"}, "row 1: not a NIfTI-1 header"),
        ({"dim": "[3, 512, 256, 24, 1, 1, 1, 1]"}, "row 1: not a square CT"),
        ({"quatern_c": "0.0", "quatern_d": "0.0"}, "row 1: not a square CT"),
        ({"qform_code": "0"}, "row 1: not a square CT"),
        ({"filename": "scan.nii.gz"}, "'scan' is not of the pattern ID_x_ID_y"),
    ],
)
def test_headers_that_cannot_be_used_are_refused(tmp_path, fields, message):
    table = write_table(tmp_path / "headers.csv", FIELDS | fields)
    with pytest.raises(UserError, match=message):
        run(table, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_table_that_is_none_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"none\.csv: cannot be read"):
        run(tmp_path / "none.csv", tmp_path / "out")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(UserError, match="holds no headers"):
        run(tmp_path / "empty.csv", tmp_path / "out")


def test_more_volumes_than_headers_and_two_numbers_of_slices_are_refused(tmp_path):
    table = write_table(tmp_path / "headers.csv", FIELDS)
    with pytest.raises(UserError, match="there are 1 headers"):
        run(table, tmp_path / "out", "--num_volumes", "2")
    with pytest.raises(UserError, match="give one of them"):
        run(table, tmp_path / "out", "--max_slices", "4")
