"""How a command ends: streams that fail, signals while it starts, unusual environments."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mbh_jax.errors import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_STOPPED, UserError
from mbh_jax.runtime import distributed

REPOSITORY = Path(__file__).parents[1]
FULL = Path("/dev/full")

WITHOUT_STREAMS = ("sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-')
WITH_CTRL_C = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)
"""As in a terminal, also where the tests run in the background."""

needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")


def ended(
    statement: str, prefix: tuple[str, ...] = (), **streams: object
) -> subprocess.CompletedProcess[str]:
    """How a process ends that executes a statement within `one_line_errors`."""
    program = (
        f"import errno, sys\nfrom mbh_jax.errors import *\nwith one_line_errors(): {statement}"
    )
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    return subprocess.run(
        [*prefix, sys.executable, "-c", program],
        env=os.environ | {"PYTHONUNBUFFERED": ""},
        text=True,
        cwd=REPOSITORY,
        check=False,
        **options,
    )


@pytest.mark.parametrize(
    ("statement", "code", "line"),
    [
        ("raise UserError('no such thing')", EXIT_ERROR, "error: no such thing"),
        ("open('/no/such/file')", EXIT_ERROR, "error: /no/such/file: No such file or directory"),
        ("raise Stopped", EXIT_STOPPED, "stopped on request: the same command goes on from here"),
        ("raise KeyboardInterrupt", EXIT_INTERRUPTED, "interrupted"),
        ("sys.exit(3)", 3, ""),
        ("sys.exit()", 0, ""),
    ],
)
def test_the_exit_code_does_not_depend_on_who_reads(statement: str, code: int, line: str) -> None:
    done = ended(statement)
    assert (done.returncode, done.stderr.strip()) == (code, line)
    if FULL.exists():
        with FULL.open("w") as full:
            assert ended(statement, stderr=full).returncode == code
    closed = ended(statement, WITHOUT_STREAMS)
    assert closed.returncode == code


@needs_full
def test_output_that_is_lost_on_a_full_disk_is_an_error() -> None:
    with FULL.open("w") as full:
        done = ended("print('the result')", stdout=full)
    assert done.returncode == EXIT_ERROR
    assert done.stderr.strip() == "error: standard output: No space left on device"


def test_output_whose_reader_has_enough_is_none() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = ended("print('the result')", stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_file_does_not_get_the_number_of_a_stream_that_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    statement = f"file = open({str(path)!r}, 'w'); import os; os.write(2, b'noise'); file.close()"
    done = ended(statement, WITHOUT_STREAMS)
    assert (done.returncode, path.read_bytes()) == (0, b"")


def watched_signals(process: int) -> set[int]:
    """Signals that a process has a handler for."""
    status = Path(f"/proc/{process}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return {number for number in signal.valid_signals() if caught >> (number - 1) & 1}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize(
    ("number", "code", "line"),
    [
        (signal.SIGTERM, EXIT_STOPPED, "stopped on request: the same command goes on from here"),
        (signal.SIGINT, EXIT_INTERRUPTED, "interrupted"),
    ],
)
@pytest.mark.parametrize("after_s", [0, 0.3, 1])
def test_a_signal_while_the_command_starts_ends_it_in_one_line(
    number: signal.Signals, code: int, line: str, after_s: float, tmp_path: Path
) -> None:
    command = ["-m", "mbh_jax.main", "--config=configs/smoke.py", f"--workdir={tmp_path}"]
    process = subprocess.Popen(
        [sys.executable, "-c", WITH_CTRL_C, *command],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
    )
    while signal.SIGTERM not in watched_signals(process.pid):
        time.sleep(0.005)
    time.sleep(after_s)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said.strip()) == (code, line)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize("module", ["mbh_jax.evaluate", "mbh_jax.compare"])
def test_a_command_that_keeps_nothing_does_not_say_that_it_goes_on(module: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", module], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True
    )
    while signal.SIGTERM not in watched_signals(process.pid):
        time.sleep(0.005)
    process.terminate()
    _, said = process.communicate(timeout=60)
    line = "stopped on request: the same command starts again from the beginning"
    assert (process.returncode, said.strip()) == (EXIT_STOPPED, line)


def run(*arguments: str, **environment: str | None) -> subprocess.CompletedProcess[str]:
    """A command with variables of the environment set, or taken away."""
    merged = os.environ | environment
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        env={name: value for name, value in merged.items() if value is not None},
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
    )


NO_DATASET = ("mbh_jax.main", "--config=configs/smoke.py", "--config.data.dir=/no/such/folder")


def test_a_user_without_a_home_needs_none(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import pwd\ndef getpwuid(number): raise KeyError(number)\npwd.getpwuid = getpwuid\n"
    )
    nobody = dict.fromkeys(("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME"))
    done = run(*NO_DATASET, PYTHONPATH=str(tmp_path), JAX_COMPILATION_CACHE_DIR=None, **nobody)
    assert done.returncode == EXIT_ERROR
    # matplotlib may warn before.
    assert done.stderr.splitlines()[-1].startswith("error: /no/such/folder: no dataset there")


def test_a_platform_that_is_not_there_is_named() -> None:
    done = run(*NO_DATASET, JAX_PLATFORMS="no_such")
    assert (done.returncode, len(done.stderr.splitlines())) == (EXIT_ERROR, 1), done.stderr
    assert done.stderr.startswith("error: JAX_PLATFORMS=no_such: Unable to initialize backend")
    assert "set JAX_PLATFORMS=cpu" in done.stderr


def test_a_platform_without_a_device_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_gpu() -> None:
        raise AssertionError  # What JAX has for JAX_PLATFORMS=cuda.

    monkeypatch.setattr(distributed.jax, "devices", no_gpu)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with pytest.raises(UserError, match="JAX_PLATFORMS=cuda: there is no such device here"):
        distributed.start_devices()


def test_a_notebooks_backend_of_matplotlib_is_no_matter(
    tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    notebook = {"MPLBACKEND": "module://of_a_notebook"}
    done = run(*NO_DATASET, **notebook)
    assert "/no/such/folder: no dataset there" in done.stderr
    output = tmp_path / "png"
    arguments = ("--dataset", str(tiny_dataset_dir), "--output", str(output))
    done = run("data_prep.export_png", *arguments, **notebook)
    assert done.returncode == 0, done.stderr
    done = run(
        "data_prep.statistics",
        str(tiny_dataset_dir),
        f"--output={tmp_path / 'statistics'}",
        **notebook,
    )
    assert done.returncode == 0, done.stderr


def test_a_module_that_cannot_be_imported_is_not_called_damage(
    tiny_dataset_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from data_prep import dataset
    from mbh_jax.data.index import SliceIndex

    def failing_import() -> None:
        raise ValueError("Key backend: 'inline' is not a valid value")

    monkeypatch.setattr(dataset, "_features", failing_import)
    with pytest.raises(ValueError, match="Key backend"):
        dataset.read_record(SliceIndex.load(tiny_dataset_dir), 0)
