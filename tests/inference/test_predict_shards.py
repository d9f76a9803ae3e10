"""Scans divided over shards, which share a folder, and their results merged."""

import csv
import json
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from run_commands import predict_exit_code as run
from tiny_ct import nifti_bytes, tiny_volume

from mbh_jax import errors, predict
from mbh_jax.data.neighbours import Stack
from mbh_jax.imageio.readers import Scan
from mbh_jax.inference.shards import Shard


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Five scans."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for number, name in enumerate("abcde"):
        (folder / f"{name}.nii").write_bytes(nifti_bytes(tiny_volume(number, 3)[0]))
    return folder


def _rows(path: Path) -> list[str]:
    with path.open() as file:
        return [row["scan"] for row in csv.DictReader(file)]


@pytest.mark.parametrize("total", [1, 3, 7, 64])
def test_each_scan_belongs_to_one_shard(total: int) -> None:
    scans = [Scan(f"scan{number:02}", Path("x")) for number in range(50)]
    shards = [Shard.parse(f"{number}/{total}").of(scans) for number in range(1, total + 1)]
    assert sorted(scan for shard in shards for scan in shard) == scans
    sizes = {len(shard) for shard in shards}
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "3", "3/", "/4", "a/4", "-1/4", "1/0", "1.5/4", ""])
def test_what_is_no_shard_is_one_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        predict.main(["--model=m", "--input=i", "--output=o", f"--shard={text}"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("from 1/64 to 64/64")


def test_shards_of_one_folder_are_merged(
    workdir: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    merge = ["--merge", f"--output={output}"]
    assert run(workdir, scans, output, "--shard=1/3") == 0
    assert "shard 1 of 3: 2 of 5 scans" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        predict.main([*merge, f"--input={scans}"])
    said = capsys.readouterr()
    assert ended.value.code == 1 and "2 scans in" in said.out
    assert said.err.splitlines() == [f"error: {name}: not predicted" for name in "bce"]

    # Two shards at a time, in one folder.
    codes: list[int] = []
    threads = [
        threading.Thread(
            target=lambda n=n: codes.append(run(workdir, scans, output, f"--shard={n}/3"))
        )
        for n in (2, 3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0, 0]
    assert _rows(output / "volumes_1_of_3.csv") == ["a", "d"]
    assert _rows(output / "volumes_2_of_3.csv") == ["b", "e"]
    assert _rows(output / "volumes_3_of_3.csv") == ["c"]
    assert not list(output.glob(".partial*"))

    predict.main([*merge, f"--input={scans}"])
    merged = (output / "volumes.csv").read_bytes()
    assert _rows(output / "volumes.csv") == list("abcde")
    # The table is the one that a single process writes.
    assert run(workdir, scans, output) == 0
    assert (output / "volumes.csv").read_bytes() == merged

    # A damaged report counts as missing, another model's is refused.
    (output / "b.json").write_text("{")
    predict.main(merge)
    assert _rows(output / "volumes.csv") == list("acde")
    report = json.loads((output / "c.json").read_text())
    report["made_by"]["mirror"] = True
    (output / "c.json").write_text(json.dumps(report))
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        predict.main(merge)
    assert ended.value.code == 1
    assert "a.json and c.json were made with different models" in capsys.readouterr().err


def test_more_shards_than_scans(workdir: Path, scans: Path, tmp_path: Path) -> None:
    assert run(workdir, scans, tmp_path / "out", "--shard=9/9") == 0
    assert _rows(tmp_path / "out" / "volumes_9_of_9.csv") == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--merge"], 1, "holds no finished scans"),
        (["--merge", "--model=m"], 2, "leave out --model and --shard"),
        (["--merge", "--shard=1/2"], 2, "leave out --model and --shard"),
        (["--model=m"], 2, "give --model and --input, or --merge"),
        (["--input=i"], 2, "give --model and --input, or --merge"),
    ],
)
def test_wrong_use_is_one_line(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        predict.main([f"--output={tmp_path}", *arguments])
    assert ended.value.code == code
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_folder_that_cannot_be_written_is_one_line(
    workdir: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert run(workdir, scans, tmp_path / "file" / "out") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"error: {tmp_path / 'file' / 'out'}: Not a directory"


def test_a_full_disk_is_one_line_and_leaves_whole_files(
    workdir: Path,
    scans: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second picture does not fit any more."""
    from mbh_jax import files

    write, written = Path.write_bytes, []

    def write_until_full(path: Path, data: bytes) -> int:
        if path.suffix == ".png":
            written.append(path)
            if len(written) == 2:
                write(path, data[:100])
                raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(files.Path, "write_bytes", write_until_full)
    output = tmp_path / "out"
    assert run(workdir, scans, output) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"error: {output / 'b.png'}: No space left on device"
    assert {path.name for path in output.iterdir()} == {"a.json", "a.nii.gz", "a.png", "b.nii.gz"}
    monkeypatch.undo()
    assert run(workdir, scans, output) == 0
    assert _rows(output / "volumes.csv") == list("abcde")


def test_sigterm_leaves_whole_files_and_the_next_call_goes_on(
    workdir: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes while the second scan is predicted, which is still written."""
    from mbh_jax.inference.predictor import Predictor

    predict_slices, calls = Predictor.predict_slices, []

    def predict_and_stop(
        self: Predictor, hu: np.ndarray, stacks: list[Stack]
    ) -> tuple[np.ndarray, None]:
        calls.append(hu)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGTERM)
        return predict_slices(self, hu, stacks)

    monkeypatch.setattr(Predictor, "predict_slices", predict_and_stop)
    output = tmp_path / "out"
    assert run(workdir, scans, output) == errors.EXIT_STOPPED
    whole = {f"{name}.{end}" for name in "ab" for end in ("json", "nii.gz", "png")}
    assert {path.name for path in output.iterdir()} == whole
    assert run(workdir, scans, output) == 0
    assert len(calls) == 5
    assert _rows(output / "volumes.csv") == list("abcde")
