"""One run at a time in a workdir, on one machine or on a disk that several machines share.

A run that trains in a workdir holds `run.lock` there: a file that says which process it is and on
which host, and whose time of change is renewed every `BEAT_S` seconds. A second run that finds it

- on the same machine looks whether that process still runs, and knows at once;
- on another machine watches the file: if it is renewed, the workdir is in use; if it is not for
  `SILENT_S` seconds, its owner is dead. No clocks are compared.

The lock of a dead owner is removed and taken over. Of the processes of one run, process 0 holds the
lock. A bucket (gs://) has no such files, and is not locked.
"""

import contextlib
import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from mbh_jax.errors import UserError
from mbh_jax.files import is_remote
from mbh_jax.log import log
from mbh_jax.runtime import distributed

LOCK_FILE = "run.lock"

BEAT_S = 10.0
"""Seconds between two signs of life."""

SILENT_S = 60.0
"""A lock that is not renewed for so long is that of a dead process."""

_POLL_S = 1.0


class _Owner(NamedTuple):
    """What a lock says of the process that holds it.

    Attributes:
        process: its number.
        host: name of its host.
        machine: what tells a running machine, and a container on it, from all others.
        started: when the process started, in the kernel's ticks; None where that is not known.
        token: different for every lock.
    """

    process: int
    host: str
    machine: str
    started: int | None
    token: str


@contextlib.contextmanager
def locked(workdir: epath.Path) -> Iterator[None]:
    """Holds the lock of a workdir, which is made, while the block runs; all processes call it.

    Raises:
        UserError: another run is training there.
    """
    if is_remote(workdir):
        yield
        return
    lock, problem = None, None
    if distributed.is_primary():
        try:
            lock = _Lock(Path(os.fspath(workdir)))
        except (UserError, OSError) as error:
            problem = error
    is_refused = distributed.gather_rows(np.array([problem is not None]))
    if problem is not None:
        raise problem
    if is_refused.any():
        raise UserError(f"{workdir} is in use, or cannot be written to: process 0 says more")
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


class _Lock:
    """The lock of a workdir, held from its making to its release."""

    def __init__(self, workdir: Path):
        self._made_workdir = not workdir.exists()
        workdir.mkdir(parents=True, exist_ok=True)
        self._path = workdir / LOCK_FILE
        process, token = os.getpid(), secrets.token_hex(8)
        self._me = _Owner(process, platform.node(), _machine(), _started(process), token)
        _create(self._path, self._me)
        self._released = threading.Event()
        self._beats = threading.Thread(target=self._beat, daemon=True, name="run lock")
        self._beats.start()

    def _beat(self) -> None:
        while not self._released.wait(BEAT_S):
            with contextlib.suppress(OSError):  # The disk may be away for a while.
                if not self._is_mine():
                    log.warning(
                        "warning: %s: another run took this one for dead and uses the same "
                        "workdir: stop one of them",
                        self._path,
                    )
                    return
                os.utime(self._path)

    def _is_mine(self) -> bool:
        found = _look(self._path)
        return found is not None and found[0] == self._me

    def release(self) -> None:
        """Removes the lock, and a workdir that was made for it and is empty."""
        self._released.set()
        self._beats.join()
        with contextlib.suppress(OSError):
            if self._is_mine():
                self._path.unlink()
            if self._made_workdir:
                self._path.parent.rmdir()


def _create(path: Path, owner: _Owner) -> None:
    """Makes the lock as soon as no process that is alive has it.

    Raises:
        UserError: one has it.
    """
    while True:
        try:
            with path.open("x") as file:
                json.dump(owner._asdict(), file)
            return
        except FileExistsError:
            _remove_if_dead(path)
        except OSError:
            path.unlink(missing_ok=True)  # A full disk, say.
            raise


def _remove_if_dead(path: Path) -> None:
    """Waits until it is known whether the lock's owner is alive, and removes it if not.

    Raises:
        UserError: it is alive.
    """
    seen = _look(path)
    deadline = time.monotonic() + SILENT_S
    watching = False
    while (now := _look(path)) is not None and seen is not None:
        (owner, changed_ns), (first_owner, first_changed_ns) = now, seen
        if owner is not None and owner.machine == _machine():
            is_alive = _runs(owner)
        elif owner == first_owner and changed_ns == first_changed_ns:
            if time.monotonic() < deadline:
                if not watching:
                    log.info(
                        "%s: waiting up to %.0f s for a sign of life of %s",
                        path,
                        SILENT_S,
                        _describe(owner),
                    )
                watching = True
                time.sleep(_POLL_S)
                continue
            is_alive = False
        else:
            is_alive = True
        if is_alive:
            raise UserError(
                f"{path.parent} is in use by {_describe(owner)}: wait until that run has ended, "
                "or give another --workdir"
            )
        _remove(path, owner)
        return


def _remove(path: Path, owner: _Owner | None) -> None:
    """Removes the lock of a dead owner, unless another run has just done so and taken it."""
    aside = path.with_name(f".{LOCK_FILE}-{secrets.token_hex(6)}")
    found = _look(path)
    if found is None or found[0] != owner:
        return
    with contextlib.suppress(FileNotFoundError):
        path.rename(aside)
        moved = _look(aside)
        if moved is not None and moved[0] != owner:
            # Taken between the look and the move: put back, unless a third run has come meanwhile.
            try:
                os.link(aside, path)
            except FileExistsError:
                pass
            except OSError:  # A file system without links.
                aside.rename(path)
                return
        aside.unlink()


def _look(path: Path) -> tuple[_Owner | None, int] | None:
    """A lock's owner, None where it is not known, and its time of change; None without a lock."""
    try:
        # Opened each time: only then a network file system asks for what is new.
        with path.open("rb") as file:
            changed_ns = os.fstat(file.fileno()).st_mtime_ns
            content = file.read()
    except FileNotFoundError:
        return None
    try:
        return _Owner(**json.loads(content)), changed_ns
    except (TypeError, ValueError):
        return None, changed_ns


def _describe(owner: _Owner | None) -> str:
    return f"process {owner.process} on {owner.host}" if owner else "a process not known"


def _machine() -> str:
    """What is the same for processes that see each other's numbers, and for no others."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return platform.node()


def _runs(owner: _Owner) -> bool:
    """Whether a process of this machine runs, and is not another that got its number later."""
    try:
        os.kill(owner.process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # It runs, for another user.
    started = _started(owner.process)
    return owner.started is None or started == owner.started


def _started(process: int) -> int | None:
    """When a process of this machine started; None if it has ended or that is not known."""
    try:
        # The second field is the program's name in parentheses, and may hold any character.
        fields: list[Any] = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    state, started = fields[0], fields[19]
    return None if state in "ZX" else int(started)
