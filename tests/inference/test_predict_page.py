"""The pages that `--html` writes beside the masks, and the reports of all scans."""

import json
from pathlib import Path

import pytest
from run_commands import predict_exit_code as run
from tiny_ct import nifti_bytes, tiny_volume


def test_pages_of_new_and_of_finished_scans(
    workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scans, output = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    for number, name in enumerate("ab"):
        (scans / f"{name}.nii").write_bytes(nifti_bytes(tiny_volume(number, 5)[0]))
    assert run(workdir, scans, output, "--html") == 0
    first = (output / "a.html").read_bytes()
    reports = json.loads((output / "report.json").read_text())
    assert reports == [json.loads((output / f"{name}.json").read_text()) for name in "ab"]
    ml = reports[0]["classes"]["any"]["ml"]
    assert ml > 0 and f"<td>{ml:.1f}</td>".encode() in first

    # Only the page is written again, and it is the same.
    (output / "a.html").unlink()
    kept = (output / "a.nii.gz").stat().st_mtime_ns
    assert run(workdir, scans, output, "--html") == 0
    assert (output / "a.html").read_bytes() == first
    assert (output / "a.nii.gz").stat().st_mtime_ns == kept
    # A page of an earlier mask does not stay.
    assert run(workdir, scans, output, "--overwrite") == 0
    assert not list(output.glob("*.html"))

    (scans / "Report.nii").write_bytes((scans / "a.nii").read_bytes())
    assert run(workdir, scans, output) == 1
    assert "Report.json is the report of all scans: rename it" in capsys.readouterr().err
