"""How a command ends: the exceptions that end it in one line, and its exit codes."""

import contextlib
import os
import sys
from collections.abc import Iterator

EXIT_ERROR = 1
EXIT_LOST_PROCESS = 74
"""Another process of the run ended: start all again (`EX_IOERR` of sysexits.h)."""
EXIT_STOPPED = 75
"""Stopped on request: start again to go on (`EX_TEMPFAIL` of sysexits.h)."""
EXIT_INTERRUPTED = 130


class UserError(Exception):
    """Something the user can mend: one line that says what, where and how to mend it."""


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """The run was asked to stop (SIGTERM, Ctrl-C), and what it had done is saved."""


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends the process with one line on stderr and an exit code of this module.

    A `UserError`, and what the system refuses (a full disk, a folder that may not be written):
    1. `Stopped`: 75. Ctrl-C where nothing is to be saved: 130. Any other exception keeps its
    traceback: it is a defect of the program.
    """
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(EXIT_ERROR) from None
    except OSError as error:
        if error.errno is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{os.strerror(error.errno)}", file=sys.stderr)
        raise SystemExit(EXIT_ERROR) from None
    except Stopped:
        print("stopped on request: the same command goes on from here", file=sys.stderr)
        raise SystemExit(EXIT_STOPPED) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(EXIT_INTERRUPTED) from None
