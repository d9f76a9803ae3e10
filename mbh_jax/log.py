"""The log of this project: one plain line an event, on standard error."""

import logging
import sys

import absl.logging

log = logging.getLogger("mbh_jax")


def start_logging(*, debug: bool = False) -> None:
    """Shows this project's messages, and of the libraries' only warnings and errors."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log.addHandler(handler)
    log.setLevel(logging.DEBUG if debug else logging.INFO)
    log.propagate = False
    absl.logging.set_verbosity(absl.logging.WARNING)
