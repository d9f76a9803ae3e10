"""Zip files with checksums: whole or absent, and with the same bytes for the same content."""

import hashlib
import zipfile
from collections.abc import Mapping

from etils import epath

from mbh_jax import files
from mbh_jax.errors import UserError

CHECKSUMS_FILE = "SHA256SUMS"
"""The member that holds the SHA-256 of all others, as `sha256sum --check` reads it."""

_DATE = (1980, 1, 1, 0, 0, 0)
"""Of every member: the earliest that a zip file can state."""

_PERMISSIONS = 0o644 << 16


def write(path: epath.PathLike, members: Mapping[str, bytes]) -> None:
    """Writes a zip file, uncompressed, with the checksums of its members as its first one.

    Args:
        path: the file; one that is there is replaced.
        members: content by name.
    """
    sums = "".join(
        f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(members.items())
    )
    with files.atomic_path(path) as partial, zipfile.ZipFile(partial, "w") as archive:
        for name, data in [(CHECKSUMS_FILE, sums.encode()), *sorted(members.items())]:
            entry = zipfile.ZipInfo(name, _DATE)
            entry.create_system = 3  # Unix, on every system.
            entry.external_attr = _PERMISSIONS
            archive.writestr(entry, data)


def read(path: epath.PathLike, expected: tuple[str, ...], *names: str) -> list[bytes]:
    """Reads members of a zip file that `write` wrote, and checks their checksums.

    Args:
        path: the file.
        expected: names of all its members, without the checksums.
        names: the members to read.

    Raises:
        UserError: there is no such file, it has other members, or it is damaged or was changed.
    """
    path = epath.Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            _check_members(path, archive, expected)
            lines = archive.read(CHECKSUMS_FILE).decode().splitlines()
            contents = [archive.read(name) for name in names]
    except (zipfile.BadZipFile, EOFError, RuntimeError, ValueError) as error:
        # An encrypted member is a RuntimeError; checksums that are no text are a ValueError.
        raise UserError(
            f"{path}: not a whole zip file ({error}): export it or copy it again"
        ) from None
    for name, content in zip(names, contents, strict=True):
        if f"{hashlib.sha256(content).hexdigest()}  {name}" not in lines:
            raise UserError(
                f"{path}: {name} does not match its checksum, so it is damaged or was changed: "
                "export it or copy it again"
            )
    return contents


def _check_members(path: epath.Path, archive: zipfile.ZipFile, expected: tuple[str, ...]) -> None:
    found, wanted = sorted(archive.namelist()), sorted([*expected, CHECKSUMS_FILE])
    if found != wanted:
        missing = [name for name in wanted if name not in found]
        problem = f"lacks {missing[0]}" if missing else "has other files too"
        raise UserError(
            f"{path}: not a bundle ({problem}): give a workdir, or a file that "
            "python -m mbh_jax.export wrote with --format=bundle"
        )
    # Also keeps a small file from unpacking to one that fills the memory.
    for entry in archive.infolist():
        if entry.compress_type != zipfile.ZIP_STORED:
            raise UserError(
                f"{path}: {entry.filename} was compressed by another program: give the file as "
                "python -m mbh_jax.export wrote it"
            )
