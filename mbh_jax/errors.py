"""The one exception for what a user can get wrong, and how a command ends on it."""

import contextlib
import os
import sys
from collections.abc import Iterator


class UserError(Exception):
    """Something the user can mend: one line that says what, where and how to mend it."""


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends the process with `error: ...` on stderr and exit code 1 on a `UserError`.

    So does what the system refuses (a full disk, a folder that may not be written). Ctrl-C ends it
    with exit code 130. Any other exception keeps its traceback: it is a defect of the program.
    """
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except OSError as error:
        if error.errno is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{os.strerror(error.errno)}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
