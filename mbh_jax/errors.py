"""How a command ends: the exceptions that end it in one line, and its exit codes.

Imports nothing that takes long, so that a command can call `end_at_first_signal` first of all.
"""

import contextlib
import dataclasses
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TextIO

EXIT_ERROR = 1
EXIT_LOST_PROCESS = 74
"""Another process of the run ended: start all again (`EX_IOERR` of sysexits.h)."""
EXIT_STOPPED = 75
"""Stopped on request: start again to go on (`EX_TEMPFAIL` of sysexits.h)."""
EXIT_INTERRUPTED = 130

_FIRST_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_STOPPED_LINE = "stopped on request: the same command goes on from here"
STARTS_AGAIN = "stopped on request: the same command starts again from the beginning"
"""What a command says that keeps nothing of what it had done; see `stop_at_signals`."""
_INTERRUPTED_LINE = "interrupted"


class UserError(Exception):
    """Something the user can fix: one line that says what, where and how to fix it."""


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """The run was asked to stop (SIGTERM, Ctrl-C), and what it had done is saved.

    Its text, if there is one, says what the same command does next.
    """


@dataclasses.dataclass(frozen=True)
class _EndNow:
    """A handler that ends the process at once, in one line, which for SIGTERM is `stopped_line`."""

    stopped_line: str

    def __call__(self, number: int, frame: FrameType | None) -> None:
        # An exception might end up in the error handling of a module that is being imported.
        is_stop = number == signal.SIGTERM
        with contextlib.suppress(OSError):
            os.write(2, f"{self.stopped_line if is_stop else _INTERRUPTED_LINE}\n".encode())
        os._exit(EXIT_STOPPED if is_stop else EXIT_INTERRUPTED)


def end_at_first_signal(stopped_line: str = _STOPPED_LINE) -> None:
    """Makes SIGTERM and Ctrl-C end the process at once, in one line, with exit code 75 or 130.

    For a command that has written nothing yet, until it watches for signals itself. A signal that
    the process was started to ignore stays ignored.

    Args:
        stopped_line: what is said at SIGTERM.
    """
    for number in _FIRST_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _EndNow(stopped_line))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FIRST_SIGNALS)


def use_default_signals() -> None:
    """Undoes `end_at_first_signal`: Ctrl-C raises KeyboardInterrupt, SIGTERM ends the process."""
    if isinstance(signal.getsignal(signal.SIGINT), _EndNow):
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if isinstance(signal.getsignal(signal.SIGTERM), _EndNow):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def hold_first_signals() -> None:
    """Makes these signals wait, while the process starts again, for `end_at_first_signal`."""
    held = {one for one in _FIRST_SIGNALS if isinstance(signal.getsignal(one), _EndNow)}
    signal.pthread_sigmask(signal.SIG_BLOCK, held)


@contextlib.contextmanager
def stop_at_signals(stopped_line: str) -> Iterator[None]:
    """Makes SIGTERM raise `Stopped` and Ctrl-C KeyboardInterrupt while the block runs.

    For a command that writes its results at its end: what it has begun is cleaned up. A signal that
    the process was started to ignore stays ignored. Outside the main thread, where Python allows no
    signal handlers, nothing changes.

    Args:
        stopped_line: text of the exception.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # Cleaning up is under way.
        raise Stopped(stopped_line)

    handlers = {signal.SIGTERM: stop, signal.SIGINT: signal.default_int_handler}
    if threading.current_thread() is not threading.main_thread():
        handlers = {}
    previous = {
        number: signal.signal(number, handler)
        for number, handler in handlers.items()
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends the process with one line on stderr and an exit code of this module.

    A `UserError`, and what the system refuses (a full disk, a folder that may not be written):
    1. `Stopped`: 75. Ctrl-C where nothing is to be saved: 130. Any other exception keeps its
    traceback: it is a defect of the program. The exit code is the same where nobody reads standard
    error or output any more.
    """
    _replace_missing_streams()
    try:
        try:
            yield
        except SystemExit as end:
            if end.code:
                raise
        _flush_output()
    except UserError as error:
        print_last_line(f"error: {error}")
        raise SystemExit(EXIT_ERROR) from None
    except OSError as error:
        if error.errno is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print_last_line(f"error: {where}{os.strerror(error.errno)}")
        raise SystemExit(EXIT_ERROR) from None
    except Stopped as stopped:
        print_last_line(str(stopped) or _STOPPED_LINE)
        raise SystemExit(EXIT_STOPPED) from None
    except KeyboardInterrupt:
        print_last_line(_INTERRUPTED_LINE)
        raise SystemExit(EXIT_INTERRUPTED) from None
    finally:
        # Python would try again to write what a stream holds, and end with exit code 120.
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                discard_output(stream)


def print_last_line(text: str) -> None:
    """Prints to standard error, if that can be written to."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def discard_output(stream: TextIO) -> None:
    """Sends what `stream`, which cannot be written to, still holds and will get to nowhere."""
    with contextlib.suppress(OSError, ValueError):
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, stream.fileno())
        os.close(descriptor)


def _flush_output() -> None:
    """Writes out what standard output holds.

    Raises:
        OSError: it does not take it, for another reason than that its reader has enough (`| head`).
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        discard_output(sys.stdout)
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from None


def _replace_missing_streams() -> None:
    """Opens the null device in place of standard streams that the process was started without.

    Otherwise a file that it opens would take the stream's number, and get what libraries print.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # It gets the lowest number that is free, which is the stream's.
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115
