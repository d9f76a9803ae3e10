"""CT series in DICOM files, and DICOM SEG, as images and labels of cases."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_prep.sources.files import SourceFile
from mbh_jax.errors import UserError
from mbh_jax.imageio import dicom, dicom_file, seg_read
from mbh_jax.imageio.dicom import Series
from mbh_jax.imageio.stored import Header
from mbh_jax.imageio.volume import Volume

_SPACING_NOTE = (
    "a grid cannot say where slices lie that are missing, unevenly spaced or shifted: its spacing "
    "counts as unknown, and millilitres and distances of it are left out"
)


@dataclass(frozen=True)
class DicomImage:
    """A CT series.

    Attributes:
        name: the folder, for errors.
        files: DICOM files, of which those of other series and kinds are left out.
        series: the name of the series, if `files` hold several and it is one of them.
        wanted: take only series whose description holds this text, see `dicom.find_series`.
        patient: what stands for the patient in the dataset, or an empty text.
    """

    name: str
    files: tuple[SourceFile, ...]
    series: str | None = None
    wanted: str | None = None
    patient: str = ""


@dataclass(frozen=True)
class DicomSeg:
    """A DICOM SEG: the label of a CT series."""

    file: SourceFile

    @property
    def name(self) -> str:
        """What errors call it."""
        return self.file.name


class Kind(NamedTuple):
    """What decides where a DICOM file belongs.

    Attributes:
        is_seg: whether it is a DICOM SEG.
        patient_id: as the file says, without spaces around; never written anywhere.
        patient_name: the same.
        study: its StudyInstanceUID.
    """

    is_seg: bool
    patient_id: str
    patient_name: str
    study: str


def read_kind(file: SourceFile) -> Kind:
    """Reads it from the header of a DICOM file; of a damaged one all is empty.

    Raises:
        UserError: pydicom is not installed.
    """
    sop_class, *texts = dicom_file.read_texts(
        Path(file.path), ("SOPClassUID", "PatientID", "PatientName", "StudyInstanceUID")
    )
    return Kind(sop_class in seg_read.SEG_CLASSES, *texts)


def pseudonym(kind: str, identifier: str) -> str:
    """What stands for an identifier of a patient or study: the same text for the same one.

    Args:
        kind: "patient" or "study".
        identifier: of the header; an empty one gives an empty text.
    """
    if not identifier:
        return ""
    return f"{kind}_{hashlib.sha256(f'{kind}:{identifier}'.encode()).hexdigest()[:12]}"


def read_series(image: DicomImage, label: Any = None) -> tuple[Series, tuple[str, ...]]:
    """Finds the one series of a case by the headers of its files.

    Of several series, the one that `label` refers to if that is a DICOM SEG.

    Returns:
        The series, and what was left out, a line each.

    Raises:
        UserError: there is none, more than one is left, or a file is damaged.
    """
    found = dicom.find_series([Path(file.path) for file in image.files], wanted=image.wanted)
    for problem in found.damaged.values():
        raise UserError(problem)
    series: Sequence[Series] = found.series
    if image.series is not None:
        series = [one for one in series if one.name == image.series]
    if len(series) > 1 and isinstance(label, DicomSeg):
        referenced = seg_read.referenced_images(Path(label.file.path))
        series = [one for one in series if shows(one, referenced)]
        if not series:
            raise UserError(
                f"{label.name}: refers to none of the series in {image.name}: give the "
                "segmentation of one of them"
            )
    notes = tuple(line for line in dicom.describe(found.left_out) if "SEG, not CT" not in line)
    if not series:
        reasons = "".join(f"; {note}" for note in notes[:5])
        raise UserError(f"{image.name}: holds no axial CT series of a head{reasons}")
    if len(series) > 1:
        names = ", ".join(one.name for one in series[:5])
        raise UserError(
            f"{image.name}: holds {len(series)} CT series ({names}): keep one in the folder, or "
            "give --series and a part of its name"
        )
    return series[0], notes


def shows(series: Series, referenced: set[str]) -> bool:
    """Whether one of the images that a segmentation refers to is of a series."""
    return any(image.sop_uid in referenced for image in series.images)


def read_image(series: Series) -> tuple[Volume, Header, tuple[str, ...]]:
    """Reads the pixels of a series.

    Returns:
        The volume, its grid as a header, to compare with a label in a file of another format, and
        notes.

    Raises:
        UserError: as `dicom.read_volume`.
    """
    volume = dicom.read_volume(series)
    slices = series.stack.slices
    rows, columns = slices[0].shape
    notes = volume.notes if volume.slice_mm is None else (*volume.notes, _SPACING_NOTE)
    return volume, Header((columns, rows, len(slices)), series.stack.affine), notes


def read_label(label: DicomSeg, series: Series) -> np.ndarray:
    """Reads a segmentation, as `seg_read.read_seg`."""
    return seg_read.read_seg(Path(label.file.path), series)
