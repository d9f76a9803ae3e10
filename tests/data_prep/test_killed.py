"""Conversions in their own processes: with workers, killed, interrupted, and out of disk."""

import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_ct import write_tiny_source

from data_prep import build_tfrecords
from mbh_jax.data.index import SliceIndex
from mbh_jax.errors import UserError
from mbh_jax.runtime.workers import worker_processes


def files_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def start(source, output, *arguments):
    """The command in a process group of its own, with two workers."""
    command = [sys.executable, "-m", "data_prep.build_tfrecords", "--workers", "2"]
    return subprocess.Popen(
        [*command, "--source", str(source), "--output", str(output), *arguments],
        # Tests that run in the background inherit that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def wait_for(pattern, output, process):
    """Waits until a file of this pattern is there, or the process has ended."""
    while process.poll() is None:
        # A folder may go away while it is read.
        with contextlib.suppress(FileNotFoundError):
            if any(output.glob(pattern)):
                break
        time.sleep(0.005)


def kill(process):
    """Kills the command, and waits for its workers: the last one to end closes the pipes."""
    process.kill()
    process.communicate(timeout=60)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_tiny_source(tmp_path_factory.mktemp("killed") / "source", 8, size=256)


@pytest.fixture(scope="module")
def undisturbed(source, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed")
    build_tfrecords.build(source, output)
    return files_of(output)


def test_any_number_of_workers_writes_the_same_bytes(source, undisturbed, tmp_path):
    build_tfrecords.build(source, tmp_path, workers=3)
    assert files_of(tmp_path) == undisturbed


def check_killed(source, output, undisturbed, pattern, delay_s):
    """Kills a conversion some time after a file is there; says whether it was before its end."""
    process = start(source, output)
    wait_for(pattern, output, process)
    time.sleep(delay_s)
    kill(process)
    if (output / "head_ct").exists():
        shown = {name: b for name, b in files_of(output).items() if name.startswith("head_ct/")}
        assert shown == undisturbed
        shutil.rmtree(output / "head_ct")
        return False
    with pytest.raises(UserError, match="no dataset there"):
        SliceIndex.load(output)
    return True


@pytest.mark.slow
def test_killed_at_random_moments_and_run_again(source, undisturbed, tmp_path):
    rng = random.Random(0)
    patterns = [".incomplete-*", ".incomplete-*/new/head_ct", ".incomplete-*/new/**/*.json"]
    was_killed = [
        check_killed(source, tmp_path, undisturbed, rng.choice(patterns), rng.random() * 0.6)
        for _ in range(4)
    ]
    assert any(was_killed)
    build_tfrecords.build(source, tmp_path)
    assert files_of(tmp_path) == undisturbed


def test_a_dataset_outlives_a_killed_replacement_which_is_run_again(source, undisturbed, tmp_path):
    output = tmp_path / "output"
    build_tfrecords.build(write_tiny_source(tmp_path / "other", 4), output)
    before = files_of(output / "head_ct")
    process = start(source, output, "--overwrite")
    wait_for(".incomplete-*/new/**/*.tfrecord*", output, process)
    kill(process)
    assert files_of(output / "head_ct") == before
    assert any(output.glob(".incomplete-*"))  # What it left is in the next one's way.
    build_tfrecords.build(source, output, overwrite=True)
    assert files_of(output) == undisturbed


def test_ctrl_c_ends_in_one_line_and_leaves_nothing(source, undisturbed, tmp_path):
    # Half a second after the new folder the dataset is whole, on a busy machine before Ctrl-C.
    for attempt in range(5):
        output = tmp_path / f"output_{attempt}"
        process = start(source, output)
        wait_for(".incomplete-*/new", output, process)
        os.killpg(process.pid, signal.SIGINT)  # As a terminal does: to workers too.
        _, printed = process.communicate(timeout=60)
        if not (output / "head_ct").exists():
            break
        assert files_of(output) == undisturbed
    assert process.returncode == 130
    assert printed.splitlines()[-1] == "interrupted"
    assert "Traceback" not in printed
    assert not output.exists()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 200 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small tmpfs is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_disk_full(source, small_disk):
    with pytest.raises(UserError, match=rf"{small_disk}: cannot be written \(.*: make room"):
        build_tfrecords.build(source, small_disk)
    assert not any(small_disk.iterdir())


def divide(number):
    return 12 // number


def end_process(code):
    os._exit(code)


@pytest.mark.parametrize("workers", [1, 2])
def test_map_keeps_the_order_and_raises_in_its_place(workers):
    with worker_processes(workers) as map_in_order:
        assert list(map_in_order(divide, range(1, 9))) == [12, 6, 4, 3, 2, 2, 1, 1]
        results = map_in_order(divide, [3, 0, 4])
        assert next(results) == 4
        with pytest.raises(ZeroDivisionError):
            next(results)


def test_few_items_are_under_way():
    taken = []

    def items():
        for number in range(1, 100):
            taken.append(number)
            yield number

    with worker_processes(2) as map_in_order:
        results = map_in_order(divide, items())
        next(results)
        assert len(taken) == 4


def test_a_killed_worker_is_reported():
    with (
        pytest.raises(UserError, match=r"a worker process was killed, .*fewer --workers than 2"),
        worker_processes(2) as map_in_order,
    ):
        list(map_in_order(end_process, [errno.ENOMEM] * 3))


def test_workers_do_without_tensorflow():
    program = "import sys, data_prep.conversion; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])
