"""Cases of a source: where a volume's voxels are, which patient's it is, and how it is read.

What is read from a case depends on the case alone, so that cases may be read in any order and by
any process.
"""

import dataclasses
import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from data_prep.sources import dicom_series, pictures, volumes
from data_prep.sources.dicom_series import DicomImage, DicomSeg
from data_prep.sources.files import SourceFile
from data_prep.sources.pictures import PngImage, PngMask
from mbh_jax.data.schema import LabelledVolume
from mbh_jax.errors import UserError
from mbh_jax.imageio.stored import Header


@dataclass(frozen=True)
class VolumeLabel:
    """Label volumes of one image, one an annotator; of several, the majority counts.

    Attributes:
        files: at least one.
        value_of: our label for each value in the files; the value itself if empty.
        ignore: a value of voxels that nobody has labelled.
    """

    files: tuple[SourceFile, ...]
    value_of: tuple[int, ...] = ()
    ignore: int | None = None


@dataclass(frozen=True)
class Case:
    """One volume: its image, its label and its patient.

    With `slice_index` (0 the most inferior) it is that one slice, see `cut_to_slices`.

    Attributes:
        patient_id: until `data_prep.sources.patients` has assigned patients, the name that says
            which one it is.
        label: None if it has no voxel labels.
        case_label: what is known of an unlabelled volume as a whole: "anybleed" or "nobleed".
        given_split: the split that the source itself puts it in, if it does.
    """

    volume_id: str
    patient_id: str
    image: SourceFile | DicomImage | PngImage
    label: SourceFile | VolumeLabel | DicomSeg | PngMask | None
    slice_index: int | None = None
    case_label: str = ""
    given_split: str | None = None


class BadCase(NamedTuple):
    """A case that cannot be used, and why in one line."""

    volume_id: str
    reason: str


class Cases(NamedTuple):
    """What a layout finds; `notes` are what is worth saying about it."""

    good: list[Case]
    bad: list[BadCase]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """All cases of a source, by volume id.

    Attributes:
        name: file or folder name, without its path.
        layout: how its files are laid out.
        cases: those whose files are there.
        bad_cases: those whose files are not.
        notes: what is worth saying about it, in one line each.
    """

    name: str
    layout: str
    cases: tuple[Case, ...]
    bad_cases: tuple[BadCase, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CaseFacts:
    """What is known of a case once it has been read and checked.

    Attributes:
        shape: slices, rows, columns in the program's orientation.
        pixels_per_class: (slices, classes) int64; zeros without voxel labels.
        notes: what is worth saying about it.
    """

    case: Case
    shape: tuple[int, int, int]
    pixels_per_class: np.ndarray
    notes: tuple[str, ...]


def read_facts(case: Case) -> CaseFacts:
    """Reads a case whole, to check it.

    Raises:
        UserError: as `read_case`.
    """
    labelled, notes = _read(case)
    return CaseFacts(case, labelled.shape, labelled.pixels_per_class, notes)


def read_case(case: Case) -> LabelledVolume:
    """Reads a case whole, in the program's orientation.

    Raises:
        UserError: naming the file that cannot be read, does not fit its partner or cannot be a CT.
    """
    if case.slice_index is not None:
        return _read_slice(case, case.slice_index)
    labelled, _ = _read(case)
    return labelled


def cut_to_slices(facts: CaseFacts) -> list[CaseFacts]:
    """A case for each slice of a case: volumes of one slice, with its place and spacing."""
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


def whole_volume(case: Case) -> Case:
    """The volume that a case of one slice was cut from; equal for all slices of a volume."""
    return dataclasses.replace(case, volume_id="", slice_index=None)


def _read_slice(case: Case, slice_index: int) -> LabelledVolume:
    labelled = _read_kept(whole_volume(case))
    to_slice = np.eye(4)
    to_slice[2, 3] = slice_index
    return dataclasses.replace(
        labelled,
        volume_id=case.volume_id,
        shape=(1, *labelled.shape[1:]),
        affine=labelled.affine @ to_slice,
        hu=labelled.hu[slice_index : slice_index + 1],
        label=labelled.label[slice_index : slice_index + 1],
    )


@functools.lru_cache(maxsize=1)
def _read_kept(case: Case) -> LabelledVolume:
    """`read_case`, kept for the next slice of the same volume."""
    return read_case(case)


def _read(case: Case) -> tuple[LabelledVolume, tuple[str, ...]]:
    """A whole case and its notes."""
    header = series = None
    notes: tuple[str, ...]
    if isinstance(case.image, PngImage):
        volume, notes = pictures.read_image(case.image)
    elif isinstance(case.image, DicomImage):
        series, left_out = dicom_series.read_series(case.image, case.label)
        volume, header, notes = dicom_series.read_image(series)
        notes = (*left_out, *notes)
    else:
        volume, header = volumes.read_image(case.image)
        notes = volume.notes
    low, high = int(volume.hu.min()), int(volume.hu.max())
    if low == high:
        raise UserError(
            f"{case.image.name}: all voxels are {low}: give the CT in HU, or remove the case"
        )
    if case.label is None:
        label = np.zeros(volume.shape, np.uint8)
    elif isinstance(case.label, PngMask):
        label = pictures.read_mask(case.label, volume.shape[1:])
    elif isinstance(case.label, DicomSeg):
        if series is None:
            raise UserError(
                f"{case.label.file.name}: a DICOM SEG refers to images in DICOM, and "
                f"{case.image.name} is none: give the series, or the label as NIfTI"
            )
        label = dicom_series.read_label(case.label, series)
    else:
        assert header is not None
        label, label_notes = _read_label(case.label, header)
        notes = (*notes, *label_notes)
    labelled = LabelledVolume.of(
        volume,
        label,
        volume_id=case.volume_id,
        patient_id=case.patient_id,
        has_label=case.label is not None,
        case_label=case.case_label,
        spacing_known=not isinstance(case.image, PngImage) and volume.slice_mm is None,
    )
    return labelled, notes


def _read_label(
    source: SourceFile | VolumeLabel, image: Header
) -> tuple[np.ndarray, tuple[str, ...]]:
    volume_label = VolumeLabel((source,)) if isinstance(source, SourceFile) else source
    labels: list[np.ndarray] = []
    notes: list[str] = []
    for file in volume_label.files:
        label, label_notes = volumes.read_label(file, image, ignore=volume_label.ignore)
        labels.append(label)
        notes += label_notes
    label = labels[0] if len(labels) == 1 else majority(labels)
    if volume_label.value_of:
        if label.max() >= len(volume_label.value_of):
            raise UserError(
                f"{volume_label.files[0].name}: label value {label.max()} is not in dataset.json: "
                "add it under 'labels'"
            )
        label = np.asarray(volume_label.value_of, np.uint8)[label]
    return label, tuple(dict.fromkeys(notes))


def majority(labels: list[np.ndarray]) -> np.ndarray:
    """The label that most annotators give each voxel; where several tie, the smallest of them.

    Args:
        labels: uint8 arrays of one shape.
    """
    votes = np.zeros(labels[0].shape, np.uint8)
    winner = np.zeros(labels[0].shape, np.uint8)
    for value in range(1 + max(int(label.max()) for label in labels)):
        count = np.sum([label == value for label in labels], axis=0, dtype=np.uint8)
        more = count > votes
        winner[more] = value
        np.maximum(votes, count, out=votes)
    return winner
