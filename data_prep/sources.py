"""Where labelled volumes come from: BHSD's zip, read without unpacking it, or its folder.

A source lists `Case`s. Everything read from a case is a function of the case alone, so that cases
may be read in any order and by any process.
"""

import contextlib
import dataclasses
import functools
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

import numpy as np

from mbh_jax import volume_io
from mbh_jax.errors import UserError

IMAGES, LABELS = "images", "ground truths"
"""BHSD's two folders, which hold files of the same names."""

_SUFFIXES = (".nii.gz", ".nii")
_BHSD_NAME = re.compile(r"(ID_[0-9a-z]+)_ID_[0-9a-z]+")
_SAME_PLACE_MM = 0.01
"""Two affines that put every voxel this close count as equal."""


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
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"{self.name}: cannot be read ({reason})") from None


@dataclass(frozen=True)
class Case:
    """One volume: its image, its label and whose it is.

    With `slice_index` (0 the most inferior) it is that one slice, see `cut_to_slices`.
    """

    volume_id: str
    patient_id: str
    image: SourceFile
    label: SourceFile
    slice_index: int | None = None


@dataclass(frozen=True)
class Source:
    """All cases of a source, by volume id.

    Attributes:
        name: file or folder name, without its path.
        layout: how its files are laid out, here always "bhsd".
    """

    name: str
    layout: str
    cases: tuple[Case, ...]


@dataclass(frozen=True)
class CaseFacts:
    """What headers and labels say about a case before its image is read.

    Attributes:
        shape: slices, rows, columns in the program's orientation.
        pixels_per_class: (slices, classes) int64.
        notes: what is worth saying about it.
    """

    case: Case
    shape: tuple[int, int, int]
    pixels_per_class: np.ndarray
    notes: tuple[str, ...]


def open_source(path: Path) -> Source:
    """Finds the cases of `path`: a zip, or a folder, with BHSD's two folders at or below its root.

    Raises:
        UserError: if there are none, or a file is without its partner.
    """
    if path.is_dir():
        archive = None
        names = [
            file.relative_to(path).as_posix() for file in sorted(path.rglob("*")) if file.is_file()
        ]
    elif path.is_file():
        archive = str(path)
        try:
            with zipfile.ZipFile(path) as opened:
                names = [member.filename for member in opened.infolist() if not member.is_dir()]
        except zipfile.BadZipFile:
            raise UserError(f"{path}: not a whole zip file: fetch it again") from None
    else:
        raise UserError(f"{path}: no such file or folder: give label_192.zip or its folder")

    folder_of: dict[str, dict[str, dict[str, str]]] = {}
    for name in names:
        file = PurePosixPath(name)
        if file.parent.name in (IMAGES, LABELS) and _is_volume(file):
            kinds = folder_of.setdefault(str(file.parent.parent), {IMAGES: {}, LABELS: {}})
            volume_id = _stem(file)
            if volume_id in kinds[file.parent.name]:
                raise UserError(f"{path}: two files for {file.parent / volume_id}: remove one")
            kinds[file.parent.name][volume_id] = name
    if not folder_of:
        raise UserError(
            f"{path}: no NIfTI volumes in '{IMAGES}/' and '{LABELS}/': give label_192.zip or its "
            "folder"
        )
    if len(folder_of) > 1:
        raise UserError(f"{path}: several data sets ({', '.join(sorted(folder_of))}): give one")
    ((_, kinds),) = folder_of.items()
    for kind, other in ((IMAGES, LABELS), (LABELS, IMAGES)):
        for volume_id in sorted(kinds[kind].keys() - kinds[other].keys()):
            raise UserError(
                f"{path}: {kinds[kind][volume_id]} has no partner in '{other}/': add or remove it"
            )

    def source_file(name: str) -> SourceFile:
        return SourceFile(name, archive) if archive else SourceFile(str(path / name))

    cases = tuple(
        Case(
            volume_id,
            patient_of(volume_id),
            source_file(kinds[IMAGES][volume_id]),
            source_file(kinds[LABELS][volume_id]),
        )
        for volume_id in sorted(kinds[IMAGES])
    )
    return Source(path.resolve().name, "bhsd", cases)


def patient_of(volume_id: str) -> str:
    """The patient of a volume: the first ID of BHSD's `ID_x_ID_y`, else the volume itself."""
    match = _BHSD_NAME.fullmatch(volume_id)
    return match[1] if match else volume_id


def read_headers(case: Case) -> tuple[volume_io.Header, volume_io.Header]:
    """Headers of a case's image and label: the cheap check of a case.

    Raises:
        UserError: if either is not a readable volume, or their shapes disagree.
    """
    with case.image.open() as stream:
        image = volume_io.read_header(stream, case.image.name)
    with case.label.open() as stream:
        label = volume_io.read_header(stream, case.label.name)
    if image.shape != label.shape:
        raise UserError(
            f"{case.label.name}: label of shape {label.shape}, its image {image.shape}: they must "
            "be equal"
        )
    return image, label


def read_facts(case: Case) -> CaseFacts:
    """Reads a case's headers and whole label.

    Raises:
        UserError: as `read_headers`, and if the label cannot be read or holds impossible values.
    """
    image, _ = read_headers(case)
    with case.label.open() as stream:
        label, label_header = volume_io.read_label_like(stream, image, case.label.name)
    notes = []
    distance_mm = volume_io.affine_distance_mm(image.affine, label_header.affine, image.shape)
    if distance_mm > _SAME_PLACE_MM:
        notes.append(
            f"affines of image and label differ by up to {distance_mm:.1f} mm on the same grid "
            f"({image.axcodes} and {label_header.axcodes}): the image's is kept"
        )
    slices, rows, columns = label.shape
    return CaseFacts(case, (slices, rows, columns), volume_io.pixels_per_class(label), tuple(notes))


def read_case(case: Case) -> volume_io.LabelledVolume:
    """Reads a case whole, in the program's orientation.

    Raises:
        UserError: naming the file that cannot be read.
    """
    if case.slice_index is not None:
        return _read_slice(case, case.slice_index)
    image, _ = read_headers(case)
    with case.image.open() as stream:
        volume = volume_io.read_volume(stream, case.image.name)
    with case.label.open() as stream:
        label, _ = volume_io.read_label_like(stream, image, case.label.name)
    return volume_io.LabelledVolume(case.volume_id, case.patient_id, volume, label)


def cut_to_slices(facts: CaseFacts) -> list[CaseFacts]:
    """A case for each slice of a case: volumes of one slice, with the place and spacing it had."""
    _, rows, columns = facts.shape
    return [
        CaseFacts(
            dataclasses.replace(
                facts.case,
                volume_id=f"{facts.case.volume_id}_slice_{slice_index:03d}",
                slice_index=slice_index,
            ),
            (1, rows, columns),
            facts.pixels_per_class[slice_index : slice_index + 1],
            facts.notes,
        )
        for slice_index in range(facts.shape[0])
    ]


def _read_slice(case: Case, slice_index: int) -> volume_io.LabelledVolume:
    labelled = _read_kept(dataclasses.replace(case, volume_id="", slice_index=None))
    to_slice = np.eye(4)
    to_slice[2, 3] = slice_index
    volume = volume_io.Volume(
        labelled.volume.hu[slice_index : slice_index + 1],
        labelled.volume.affine @ to_slice,
        labelled.volume.stored_axcodes,
    )
    label = labelled.label[slice_index : slice_index + 1]
    return volume_io.LabelledVolume(case.volume_id, case.patient_id, volume, label)


@functools.lru_cache(maxsize=1)
def _read_kept(case: Case) -> volume_io.LabelledVolume:
    """`read_case`, kept for the next slice of the same volume."""
    return read_case(case)


def _is_volume(file: PurePosixPath) -> bool:
    hidden = file.name.startswith(".") or "__MACOSX" in file.parts
    return file.name.endswith(_SUFFIXES) and not hidden


def _stem(file: PurePosixPath) -> str:
    return file.name.removesuffix(".gz").removesuffix(".nii")
