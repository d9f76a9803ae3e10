"""The log of this project: one plain line for each event, on standard error."""

import contextlib
import logging
import sys
from collections.abc import Iterator

import absl.logging

log = logging.getLogger("mbh_jax")


def start_logging(*, debug: bool = False) -> None:
    """Shows this project's messages, and of the libraries' only warnings and errors."""
    for earlier in list(log.handlers):
        log.removeHandler(earlier)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log.addHandler(handler)
    log.setLevel(logging.DEBUG if debug else logging.INFO)
    log.propagate = False
    absl.logging.set_verbosity(absl.logging.WARNING)


@contextlib.contextmanager
def only_warn(what: str) -> Iterator[None]:
    """Turns an error in its block into a warning, for what a run can do without.

    Args:
        what: what is then missing, such as "the pictures of epoch 3".
    """
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        log.warning("warning: %s could not be written, the run goes on (%s)", what, reason)
