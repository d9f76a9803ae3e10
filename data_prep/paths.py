"""Paths from command lines."""

import argparse
from pathlib import Path


def local_path(text: str) -> Path:
    """A path from a command line, with `~` for the home folder as a shell reads it.

    Raises:
        ArgumentTypeError: if it is empty, which would mean the current folder.
    """
    if not text:
        raise argparse.ArgumentTypeError("is empty: give a file or folder")
    return Path(text).expanduser()
