"""Scans by their file's suffix, and where they are in a folder."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from mbh_jax.errors import UserError
from mbh_jax.imageio import nifti
from mbh_jax.imageio.volume import Volume

READERS: dict[str, Callable[[Path], Volume]] = {
    ".nii.gz": nifti.read_volume,
    ".nii": nifti.read_volume,
}
"""What reads a scan, by the end of the file's name in lower case."""


class Scan(NamedTuple):
    """A scan to be read.

    Attributes:
        name: what its results are called: its path below the folder that was searched, without the
            suffix and with "_" between the folders.
        path: the file.
    """

    name: str
    path: Path

    def read(self) -> Volume:
        """Reads it.

        Raises:
            UserError: it cannot be read.
        """
        return READERS[_suffix(self.path)](self.path)


def find_scans(path: Path) -> list[Scan]:
    """The scans in a file, a folder or a folder of folders, ordered by their names.

    Raises:
        UserError: there are none, or two of them have one name.
    """
    if path.is_file():
        if not _suffix(path):
            raise UserError(f"{path}: not a scan: give {', '.join(READERS)} or a folder of them")
        return [Scan(_stem(path), path)]
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder")
    scans: dict[str, Path] = {}
    for file in sorted(_files_below(path)):
        name = "_".join([*file.relative_to(path).parts[:-1], _stem(file)])
        if name in scans:
            raise UserError(f"{scans[name]} and {file} are both called {name}: rename one")
        scans[name] = file
    if not scans:
        raise UserError(f"{path}: holds no scan ({', '.join(READERS)})")
    return [Scan(name, file) for name, file in scans.items()]


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and _suffix(Path(name)):
                yield Path(parent, name)


def _suffix(path: Path) -> str:
    """The suffix that a reader is known for, or an empty text."""
    return next((suffix for suffix in READERS if path.name.lower().endswith(suffix)), "")


def _stem(path: Path) -> str:
    return path.name[: len(path.name) - len(_suffix(path))]
