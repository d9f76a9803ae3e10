"""Files of a source: in a folder, or in a zip that is read without unpacking it."""

import contextlib
import os
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from mbh_jax.errors import UserError

VOLUME_SUFFIXES = (".nii.gz", ".nii")
_SUFFIX = re.compile(r"\.(nii|nii\.gz|png)$", re.IGNORECASE)

_ENCRYPTED = 0x1
"""Bit of a zip member's flags."""


@dataclass(frozen=True)
class SourceFile:
    """A file in a folder or, if `archive` is given, a member of that zip."""

    path: str
    archive: str | None = None

    @property
    def name(self) -> str:
        """What errors call it."""
        return f"{self.archive}: {self.path}" if self.archive else self.path

    @contextlib.contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Opens it for reading.

        Raises:
            UserError: if it is damaged or gone.
        """
        try:
            with contextlib.ExitStack() as stack:
                if self.archive:
                    archive = stack.enter_context(zipfile.ZipFile(self.archive))
                    yield cast(BinaryIO, stack.enter_context(archive.open(self.path)))
                else:
                    yield stack.enter_context(Path(self.path).open("rb"))
        except zipfile.BadZipFile as error:
            raise UserError(f"{self.name}: damaged in the zip ({error}): fetch it again") from None
        except KeyError:
            raise UserError(f"{self.name}: no longer in the zip: run it again") from None
        except NotImplementedError as error:
            raise UserError(
                f"{self.name}: packed in a way Python cannot read ({error}): unpack the zip with "
                "the program that made it and give the folder"
            ) from None
        except OSError as error:
            raise UserError(
                f"{self.name}: cannot be read ({error.strerror or error}): check the file and its "
                "permissions"
            ) from None


@dataclass(frozen=True)
class Listing:
    """What a source holds.

    Attributes:
        path: the folder or zip.
        is_zip: which of the two it is.
        files: names of all files below it that are not hidden, with "/", in ascending order.
    """

    path: Path
    is_zip: bool
    files: tuple[PurePosixPath, ...]

    def file(self, name: PurePosixPath) -> SourceFile:
        """One of `files`."""
        if self.is_zip:
            return SourceFile(str(name), str(self.path))
        return SourceFile(str(self.path / name))


def list_files(path: Path) -> Listing:
    """Lists a folder or zip.

    Raises:
        UserError: if it is neither, or a zip that is damaged, encrypted, or not to be trusted.
    """
    if path.is_dir():
        names = [PurePosixPath(file.relative_to(path).as_posix()) for file in _files_below(path)]
    elif path.is_file():
        names = _zip_members(path)
    else:
        raise UserError(f"{path}: no such file or folder: give label_192.zip or a folder")
    return Listing(path, not path.is_dir(), tuple(sorted(filter(_is_shown, names))))


def is_volume(file: PurePosixPath) -> bool:
    """Whether it is named as NIfTI."""
    return file.name.lower().endswith(VOLUME_SUFFIXES)


def stem(file: PurePosixPath) -> str:
    """A file's name without .nii, .nii.gz or .png, in capitals or not."""
    return _SUFFIX.sub("", file.name)


def _files_below(folder: Path) -> Iterator[Path]:
    """Files, also in linked folders; links that lead nowhere too, so that they are reported."""
    entered: set[str] = set()

    def refuse(error: OSError) -> None:
        raise UserError(
            f"{error.filename}: cannot be read ({error.strerror}): check its permissions"
        )

    for parent, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        folders.sort()
        # A link to a folder above would never end.
        place = os.path.realpath(parent)
        if place in entered:
            folders.clear()
            continue
        entered.add(place)
        files = (Path(parent, name) for name in names)
        yield from (file for file in files if file.is_file() or not file.exists())


def _is_shown(file: PurePosixPath) -> bool:
    return not file.name.startswith(".") and "__MACOSX" not in file.parts


def _zip_members(path: Path) -> list[PurePosixPath]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
    except (zipfile.BadZipFile, NotImplementedError):
        raise UserError(f"{path}: not a whole zip file: fetch it again, or give a folder") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    seen: set[str] = set()
    for member in members:
        file = PurePosixPath(member.filename)
        if file.is_absolute() or ".." in file.parts:
            raise UserError(
                f"{path}: {member.filename!r} climbs out of the zip: not a data set to trust, "
                "fetch it from its publisher"
            )
        if member.flag_bits & _ENCRYPTED:
            raise UserError(
                f"{path}: {member.filename} is encrypted: unpack the zip with its password and "
                "give the folder"
            )
        if member.filename in seen:
            raise UserError(f"{path}: two files named {member.filename}: remove one")
        seen.add(member.filename)
    return [PurePosixPath(name) for name in seen]
