"""Scans by their files (NIfTI, MetaImage, NRRD, DICOM, pictures) and where they are in a folder."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np

from mbh_jax.errors import UserError
from mbh_jax.imageio import (
    dicom,
    dicom_file,
    dicom_header,
    metaimage,
    nifti,
    nrrd_file,
    pictures,
    stored,
)
from mbh_jax.imageio.stored import Header
from mbh_jax.imageio.volume import Volume
from mbh_jax.log import log

READERS: dict[str, Callable[[Path], tuple[Header, np.ndarray]]] = {
    **dict.fromkeys((".nii.gz", ".nii"), lambda path: nifti.read_stored(path, str(path))),
    **dict.fromkeys((".mha", ".mhd"), metaimage.read_stored),
    **dict.fromkeys((".nrrd", ".nhdr"), nrrd_file.read_stored),
}
"""What reads the header and the stored voxels of a volume, by the end of the file's name in lower
case. DICOM needs no suffix."""

_KINDS = f"{', '.join((*READERS, *pictures.SUFFIXES))}, DICOM"


class Scan(NamedTuple):
    """A scan to be read.

    Attributes:
        name: what its results are called: its path below the folder that was searched, without the
            suffix and with "_" between the folders; of a DICOM series its description and a hash.
        path: the file; of a DICOM series the first slice.
        series: the DICOM series, or None.
        problem: why it cannot be read, where that is known already.
        flip_rows: whether it is a picture that is upside down.
    """

    name: str
    path: Path
    series: dicom.Series | None = None
    problem: str = ""
    flip_rows: bool = False

    @property
    def is_picture(self) -> bool:
        """Whether it is a picture of one slice (PNG, JPEG or TIFF)."""
        return self.series is None and pictures.is_picture(self.path)

    def read(self) -> Volume:
        """Reads it.

        Raises:
            UserError: it cannot be read.
        """
        if self.problem:
            raise UserError(self.problem)
        if self.series is not None:
            return dicom.read_volume(self.series)
        if self.is_picture:
            return pictures.read_volume(self.path, flip_rows=self.flip_rows)
        return stored.to_volume(*READERS[suffix_of(self.path)](self.path), str(self.path))


def find_scans(path: Path, *, series: str | None = None, skip: Path | None = None) -> list[Scan]:
    """The scans in a file, a folder or a folder of folders, ordered by their names.

    DICOM files are found by their content, whatever they are called. Images that are no axial CT
    slices are left out, and logged with the reason. So are pictures beside scans, such as those on
    discs with a viewer; in a folder without other scans, each picture is one.

    Args:
        path: where to look; a DICOMDIR stands for its folder.
        series: of DICOM series, only those whose name holds this text.
        skip: a folder that is not searched, such as that of the results.

    Raises:
        UserError: there are none, or two of them have one name.
    """
    if path.is_file() and _is_known_by_name(path):
        return [Scan(_stem(path), path)]
    if path.is_file() and path.name.upper() == "DICOMDIR":
        path = path.parent
    if path.is_file():
        if not dicom_file.is_dicom(path):
            raise UserError(f"{path}: not a scan: give {_KINDS} or a folder of them")
        files = [path]
    elif path.is_dir():
        files = sorted(_files_below(path, skip))
    else:
        raise UserError(f"{path}: no such file or folder")
    by_name = [file for file in files if _is_known_by_name(file)]
    known = [
        Scan("_".join([*file.relative_to(path).parts[:-1], _stem(file)]), file) for file in by_name
    ]
    scans = [scan for scan in known if not scan.is_picture]
    found_pictures = [scan for scan in known if scan.is_picture]
    series_scans, left_out = _dicom_scans(sorted({*files} - {*by_name}), series)
    scans += series_scans
    if not scans and not left_out:
        scans = found_pictures
    elif found_pictures:
        left_out.append(
            f"left out: {len(found_pictures)} pictures beside scans, such as "
            f"{found_pictures[0].path}"
        )
    if not scans:
        reasons = "".join(f"; {line}" for line in left_out[:5])
        raise UserError(f"{path}: holds no scan ({_KINDS}){reasons}")
    for line in left_out:
        log.info(line)
    named: dict[str, Path] = {}
    for scan in scans:
        if scan.name in named:
            raise UserError(
                f"{named[scan.name]} and {scan.path} are both called {scan.name}: rename one"
            )
        named[scan.name] = scan.path
    return sorted(scans)


def read_scan(path: Path, *, series: str | None = None) -> Volume:
    """Reads the one scan in a file or folder.

    Raises:
        UserError: there is none or more than one, or it cannot be read.
    """
    scans = find_scans(path, series=series)
    if problem := next((scan.problem for scan in scans if scan.problem), ""):
        raise UserError(problem)
    if len(scans) > 1:
        names = ", ".join(scan.name for scan in scans[:5])
        raise UserError(f"{path}: holds {len(scans)} scans ({names}): give one of them")
    return scans[0].read()


def _dicom_scans(files: list[Path], wanted: str | None) -> tuple[list[Scan], list[str]]:
    """The series in those of the files that are DICOM, and lines about what is left out."""
    scans: list[Scan] = []
    dicom_files: list[Path] = []
    for file in files:
        try:
            if dicom_file.is_dicom(file):
                dicom_files.append(file)
        except OSError as error:
            problem = f"{file}: cannot be read ({os.strerror(error.errno or 0)})"
            scans.append(_unreadable(file, problem))
    if not dicom_files:
        return scans, []
    found = dicom.find_series(dicom_files, wanted=wanted)
    scans += [_unreadable(file, problem) for file, problem in found.damaged.items()]
    scans += [Scan(one.name, one.stack.slices[0].path, one) for one in found.series]
    return scans, dicom.describe(found.left_out)


def _unreadable(file: Path, problem: str) -> Scan:
    return Scan(dicom_header.series_name("unreadable", str(file)), file, problem=problem)


def _files_below(folder: Path, skip: Path | None) -> Iterator[Path]:
    skipped = skip.resolve() if skip else None
    for parent, folders, names in os.walk(folder):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and Path(parent, name).resolve() != skipped
        ]
        for path in (Path(parent, name) for name in names if not name.startswith(".")):
            # A pipe would be waited for. A link to nothing is a scan that cannot be read.
            if path.is_file() or not path.exists():
                yield path


def _is_known_by_name(path: Path) -> bool:
    """Whether a file's suffix says what it is; a DICOM file may be called like a picture."""
    if pictures.is_picture(path):
        with contextlib.suppress(OSError):
            return not dicom_file.is_dicom(path)
    return bool(suffix_of(path))


def suffix_of(path: PurePath) -> str:
    """The suffix that a reader of volumes is known for, or an empty text."""
    return next((suffix for suffix in READERS if path.name.lower().endswith(suffix)), "")


def _stem(path: Path) -> str:
    suffix = suffix_of(path) or path.suffix
    return path.name[: len(path.name) - len(suffix)]
