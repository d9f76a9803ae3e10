"""How a command ends: the exceptions that end it in one line, and its exit codes.

Imports nothing that takes long, so that a command can call `end_at_first_signal` first of all.
"""

import contextlib
import os
import signal
import sys
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
_INTERRUPTED_LINE = "interrupted"


class UserError(Exception):
    """Something the user can fix: one line that says what, where and how to fix it."""


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """The run was asked to stop (SIGTERM, Ctrl-C), and what it had done is saved.

    Its text, if there is one, says what the same command does next.
    """


def end_at_first_signal() -> None:
    """Makes SIGTERM and Ctrl-C end the process at once, in one line, with exit code 75 or 130.

    For a command that has written nothing yet, until it watches for signals itself. A signal that
    the process was started to ignore stays ignored.
    """
    for number in _FIRST_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end_now)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FIRST_SIGNALS)


def use_default_signals() -> None:
    """Undoes `end_at_first_signal`: Ctrl-C raises KeyboardInterrupt, SIGTERM ends the process."""
    if signal.getsignal(signal.SIGINT) is _end_now:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGTERM) is _end_now:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def hold_first_signals() -> None:
    """Makes these signals wait, while the process starts again, for `end_at_first_signal`."""
    held = {number for number in _FIRST_SIGNALS if signal.getsignal(number) is _end_now}
    signal.pthread_sigmask(signal.SIG_BLOCK, held)


def _end_now(number: int, frame: FrameType | None) -> None:
    # An exception might end up in the error handling of a module that is being imported.
    is_stop = number == signal.SIGTERM
    with contextlib.suppress(OSError):
        os.write(2, f"{_STOPPED_LINE if is_stop else _INTERRUPTED_LINE}\n".encode())
    os._exit(EXIT_STOPPED if is_stop else EXIT_INTERRUPTED)


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
