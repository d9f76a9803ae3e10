"""The lock of a workdir: who is refused, and whose lock is taken over."""

import json
import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from etils import epath
from run_commands import finish, flags, start, wait_for_line

from mbh_jax.errors import UserError
from mbh_jax.runtime import run_lock

ELSEWHERE = {"process": 7, "host": "node7", "machine": "another", "started": 1, "token": "a"}


@pytest.fixture
def workdir(tmp_path: Path) -> epath.Path:
    return epath.Path(tmp_path) / "run"


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "SILENT_S", 1.0)
    monkeypatch.setattr(run_lock, "BEAT_S", 0.05)
    monkeypatch.setattr(run_lock, "_POLL_S", 0.05)


def write_lock(workdir: epath.Path, **changes: object) -> Path:
    path = Path(workdir) / run_lock.LOCK_FILE
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(ELSEWHERE | changes))
    return path


def take(workdir: epath.Path) -> dict[str, object]:
    """What the lock says once it is taken."""
    with run_lock.locked(workdir):
        return json.loads((workdir / run_lock.LOCK_FILE).read_text())


def test_a_second_run_is_refused_and_the_first_leaves_nothing(workdir: epath.Path) -> None:
    me = f"in use by process {os.getpid()} on {platform.node()}"
    with run_lock.locked(workdir):
        for _ in range(2):
            with pytest.raises(UserError, match=me):
                take(workdir)
    assert not workdir.exists()
    with pytest.raises(KeyboardInterrupt), run_lock.locked(workdir):
        (workdir / "history.json").touch()
        raise KeyboardInterrupt
    assert [path.name for path in workdir.iterdir()] == ["history.json"]


def test_the_lock_of_a_process_that_was_killed_is_taken_at_once(
    workdir: epath.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "import sys, time; from etils import epath; from mbh_jax.runtime import run_lock\n"
        "with run_lock.locked(epath.Path(sys.argv[1])): print('locked', flush=True); time.sleep(60)"
    )
    monkeypatch.setattr(run_lock, "SILENT_S", 600.0)
    with subprocess.Popen(
        [sys.executable, "-c", script, str(workdir)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match=f"in use by process {process.pid} on"):
            take(workdir)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        # Its parent has not asked for its end, so that its number is still taken.
        assert take(workdir)["process"] == os.getpid()


def test_a_process_that_got_the_number_of_a_dead_one_is_not_taken_for_it(
    workdir: epath.Path,
) -> None:
    with run_lock.locked(workdir):
        mine = json.loads((workdir / run_lock.LOCK_FILE).read_text())
    write_lock(workdir, **(mine | {"started": mine["started"] - 1}))
    assert take(workdir)["token"] != mine["token"]


def test_a_lock_of_another_machine_holds_as_long_as_it_is_renewed(workdir: epath.Path) -> None:
    path = write_lock(workdir)
    alive = threading.Event()

    def renew() -> None:
        while not alive.wait(0.2):
            os.utime(path)

    thread = threading.Thread(target=renew)
    thread.start()
    with pytest.raises(UserError, match="in use by process 7 on node7"):
        take(workdir)
    alive.set()
    thread.join()
    started = time.monotonic()
    assert take(workdir)["process"] == os.getpid()
    assert time.monotonic() - started >= run_lock.SILENT_S


def test_the_holder_renews_its_lock(workdir: epath.Path) -> None:
    with run_lock.locked(workdir):
        path = Path(workdir) / run_lock.LOCK_FILE
        first = path.stat().st_mtime_ns
        deadline = time.monotonic() + 10
        while path.stat().st_mtime_ns == first:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_a_lock_that_says_nothing_is_that_of_a_dead_process(
    workdir: epath.Path, content: str
) -> None:
    write_lock(workdir).write_text(content)
    assert take(workdir)["process"] == os.getpid()


def test_a_run_that_lost_its_lock_says_so_and_leaves_the_other_alone(
    workdir: epath.Path, caplog: pytest.LogCaptureFixture
) -> None:
    with run_lock.locked(workdir):
        path = write_lock(workdir)
        deadline = time.monotonic() + 10
        while "stop one of them" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert json.loads(path.read_text()) == ELSEWHERE


def test_of_two_runs_that_find_a_dead_lock_one_gets_it(workdir: epath.Path) -> None:
    write_lock(workdir)
    found: list[str] = []

    def compete() -> None:
        try:
            with run_lock.locked(workdir):
                found.append("locked")
                time.sleep(3)
        except UserError:
            found.append("refused")

    threads = [threading.Thread(target=compete) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == ["locked", *["refused"] * 3]


def test_a_bucket_is_not_locked() -> None:
    with run_lock.locked(epath.Path("gs://no_such_bucket/run")):
        pass


@pytest.mark.slow
def test_two_runs_in_one_workdir(tiny_dataset_dir: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    first = start(flags(tiny_dataset_dir, workdir, train__num_epochs=500))
    try:
        wait_for_line(first, "training: step")
        code, said = finish(start(flags(tiny_dataset_dir, workdir)))
        assert code == 1
        in_use = f"error: {workdir} is in use by process {first.pid} on {platform.node()}"
        assert said.splitlines()[-1].startswith(in_use)
        assert first.poll() is None
    finally:
        first.kill()
        finish(first)
