"""Which files of a listing go together: by their names without suffix."""

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Protocol

from data_prep.sources.cases import BadCase
from data_prep.sources.files import Listing, SourceFile, is_volume, stem


class _Named(Protocol):
    """An image or label."""

    @property
    def name(self) -> str:
        """What errors call it."""


def volumes_in(listing: Listing, folder: PurePosixPath) -> dict[PurePosixPath, str]:
    """Files of volumes in a folder, and their names, as `unique` takes them."""
    return {file: stem(file) for file in listing.by_folder.get(folder, ()) if is_volume(file)}


def pictures_in(listing: Listing, folder: PurePosixPath) -> dict[PurePosixPath, str]:
    """PNG files in a folder, and their names, as `unique` takes them."""
    return {file: stem(file) for file in listing.by_folder.get(folder, ()) if is_picture(file)}


def is_picture(file: PurePosixPath) -> bool:
    """Whether it is named as PNG."""
    return file.suffix.lower() == ".png"


def unique(
    listing: Listing, named: Mapping[PurePosixPath, str]
) -> tuple[dict[str, SourceFile], list[BadCase]]:
    """The files by name, and the names that several files have."""
    of_name: dict[str, list[PurePosixPath]] = {}
    for file, name in named.items():
        of_name.setdefault(name, []).append(file)
    single = {name: listing.file(found[0]) for name, found in of_name.items() if len(found) == 1}
    double = [
        BadCase(name, f"two files for {found[0].parent / name}: remove one")
        for name, found in of_name.items()
        if len(found) > 1
    ]
    return single, double


def names_of(files: Iterable[str], bad: Iterable[BadCase]) -> set[str]:
    """Names of good and bad files."""
    return {*files, *(case.volume_id for case in bad)}


def without_partner(
    files: Mapping[str, _Named], others: Iterable[str], folder: str
) -> list[BadCase]:
    """The files whose names are not among `others`; `folder` is where those are looked for."""
    return [
        BadCase(name, f"{files[name].name} has no partner in '{folder}/': add or remove it")
        for name in sorted(files.keys() - set(others))
    ]
