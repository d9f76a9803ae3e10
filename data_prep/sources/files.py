"""Files of a source: in a folder, or in a zip that is read without unpacking it."""

import contextlib
import functools
import os
import re
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from mbh_jax.errors import UserError
from mbh_jax.imageio import dicom_file
from mbh_jax.imageio.readers import READERS, suffix_of

_SUFFIXES = (*READERS, ".png")
_SUFFIX = re.compile(f"({'|'.join(map(re.escape, _SUFFIXES))})$", re.IGNORECASE)

BESIDE = (".csv", ".json", ".md", ".raw", ".txt", ".xlsx", ".zraw")
"""Suffixes of files that are not expected to be volumes: texts, and voxels of .mhd and .nhdr."""
_NOT_DICOM = (*_SUFFIXES, *BESIDE, ".jpg", ".jpeg", ".zip")

_DRIVE = re.compile(r"[A-Za-z]:")
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
            with self._open() as stream:
                yield stream
        except zipfile.BadZipFile as error:
            raise UserError(f"{self.name}: damaged in the zip ({error}): fetch it again") from None
        except OSError as error:
            raise UserError(
                f"{self.name}: cannot be read ({error.strerror or error}): check the file and its "
                "permissions"
            ) from None

    def _open(self) -> BinaryIO:
        if not self.archive:
            return Path(self.path).open("rb")
        try:
            state = Path(self.archive).stat()
            archive = _open_zip(self.archive, state.st_mtime_ns, state.st_size)
            return cast(BinaryIO, archive.open(self.path))
        except KeyError:
            raise UserError(f"{self.name}: no longer in the zip: run it again") from None
        except NotImplementedError as error:
            raise UserError(
                f"{self.name}: packed in a way Python cannot read ({error}): unpack the zip with "
                "the program that made it and give the folder"
            ) from None


@dataclass(frozen=True)
class Listing:
    """What a source holds.

    Attributes:
        path: the folder or zip.
        files: names of all files below it that are not hidden, with "/", in ascending order.
        members: what the zip itself calls each of `files`; None if it is a folder.
    """

    path: Path
    files: tuple[PurePosixPath, ...]
    members: Mapping[PurePosixPath, str] | None = None

    def file(self, name: PurePosixPath) -> SourceFile:
        """One of `files`."""
        if self.members is not None:
            return SourceFile(self.members[name], str(self.path))
        return SourceFile(str(self.path / name))

    @functools.cached_property
    def by_folder(self) -> Mapping[PurePosixPath, list[PurePosixPath]]:
        """`files` by the folder that they lie in."""
        folders: dict[PurePosixPath, list[PurePosixPath]] = {}
        for file in self.files:
            folders.setdefault(file.parent, []).append(file)
        return folders

    @functools.cached_property
    def dicom(self) -> tuple[PurePosixPath, ...]:
        """Those of `files` that are DICOM by their content or named so, and those beside them that
        cannot be read, so that all are reported. Files named as something else are not opened."""
        found, unreadable = [], []
        for name in self.files:
            if name.name.lower().endswith(_NOT_DICOM) or name.name.upper() == "DICOMDIR":
                continue
            try:
                with self.file(name).open() as stream:
                    if dicom_file.starts_as_dicom(stream) or dicom_file.is_named_dicom(name):
                        found.append(name)
            except UserError:
                unreadable.append(name)
        folders = {name.parent for name in found}
        return tuple(sorted([*found, *(name for name in unreadable if name.parent in folders)]))

    def describe(self) -> str:
        """What is there, for a user who expected a data set."""
        if not self.files:
            return "it holds no files"
        first_of: dict[str, PurePosixPath] = {}
        for file in self.files:
            first_of.setdefault(file.suffix.lower(), file)
        counts = Counter(file.suffix.lower() for file in self.files)
        kinds = [
            f"{count} {suffix or 'without suffix'} such as {printable(str(first_of[suffix]))}"
            for suffix, count in counts.most_common(3)
        ]
        more = ", and others" if len(counts) > len(kinds) else ""
        known = f"; names must end in one of {', '.join(_SUFFIXES)}, or files be DICOM"
        if any(file.name.lower().endswith(_SUFFIXES) for file in self.files):
            known = ""
        return f"it holds files: {', '.join(kinds)}{more}{known}"


def list_files(path: Path) -> Listing:
    """Lists a folder or zip.

    Raises:
        UserError: if it is neither, or a zip that is damaged, encrypted, or not to be trusted.
    """
    if path.is_dir():
        names = [PurePosixPath(file.relative_to(path).as_posix()) for file in _files_below(path)]
        return Listing(path, tuple(sorted(filter(_is_shown, names))))
    if path.is_file():
        members = _zip_members(path)
        return Listing(path, tuple(sorted(filter(_is_shown, members))), members)
    raise UserError(f"{path}: no such file or folder: give label_192.zip or a folder")


def is_volume(file: PurePosixPath) -> bool:
    """Whether it is named as a volume: NIfTI, MetaImage or NRRD."""
    return bool(suffix_of(file))


def stem(file: PurePosixPath) -> str:
    """A file's name without the suffix of a volume or picture, in `normal_form`."""
    return normal_form(_SUFFIX.sub("", file.name))


def normal_form(name: str) -> str:
    """A name with composed letters (Unicode NFC): a Mac writes "a" and two dots for one letter."""
    return unicodedata.normalize("NFC", name)


def printable(text: str) -> str:
    """`text` with escapes in place of bytes that are no UTF-8, which can be printed and stored."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


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


@functools.lru_cache(maxsize=2)
def _open_zip(path: str, mtime_ns: int, size: int) -> zipfile.ZipFile:
    """Opens a zip once a process, not once a member: its list of members takes long to read."""
    del mtime_ns, size  # A zip that has changed is opened again.
    return zipfile.ZipFile(path)


def _zip_members(path: Path) -> dict[PurePosixPath, str]:
    """What the zip calls its files, by their names with "/" (old Windows programs write "\\")."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError):
        raise UserError(f"{path}: not a whole zip file: fetch it again, or give a folder") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    named: dict[PurePosixPath, str] = {}
    for member in members:
        name = member.filename.replace("\\", "/")
        if name.endswith("/"):
            continue
        file = PurePosixPath(name)
        if file.is_absolute() or ".." in file.parts or _DRIVE.match(name):
            raise UserError(
                f"{path}: {member.filename!r} climbs out of the zip: not a data set to trust, "
                "fetch it from its publisher"
            )
        if member.flag_bits & _ENCRYPTED:
            raise UserError(
                f"{path}: {member.filename} is encrypted: unpack the zip with its password and "
                "give the folder"
            )
        if file in named:
            raise UserError(f"{path}: two files named {file}: remove one")
        named[file] = member.filename
    return named
