"""DICOM in folders: each folder a case, or a study, a disc or an archive with any folders."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from data_prep.sources.cases import BadCase, Case, Cases
from data_prep.sources.dicom_series import (
    DicomImage,
    DicomSeg,
    Kind,
    pseudonym,
    read_kind,
    shows,
)
from data_prep.sources.files import Listing, SourceFile, normal_form, printable
from data_prep.sources.options import Options
from mbh_jax.errors import UserError
from mbh_jax.imageio import dicom, seg_read

_SEG_SUFFIXES = (".seg.dcm", ".dcm")


class DicomCase(NamedTuple):
    """A folder with a series, and the segmentations that lie in it too."""

    image: DicomImage
    segs: tuple[DicomSeg, ...]


class DicomCases(NamedTuple):
    """What the folders in a folder hold, by their names."""

    good: dict[str, DicomCase]
    bad: list[BadCase]
    notes: tuple[str, ...] = ()


def images_in(listing: Listing, folder: PurePosixPath, options: Options) -> DicomCases:
    """The DICOM cases in a folder, each a folder of any depth in it.

    Raises:
        UserError: they are in a zip, or pydicom is not installed.
    """
    good: dict[str, DicomCase] = {}
    bad: list[BadCase] = []
    named_after_patients = 0
    for name, files in _by_name(listing, folder).items():
        if loose := [file for file in files if file.parent == folder]:
            reason = (
                f"{listing.path / loose[0]}: a DICOM file directly in '{folder.name}/': give each "
                "scan a folder there, or --layout dicom"
            )
            bad.append(BadCase(name, reason))
            continue
        kinds = {file: read_kind(listing.file(file)) for file in files}
        patient_ids = {kind.patient_id for kind in kinds.values() if kind.patient_id}
        images = tuple(listing.file(file) for file, kind in kinds.items() if not kind.is_seg)
        place = str(listing.path / folder / name)
        if len(patient_ids) > 1:
            reason = f"{place}: images of {len(patient_ids)} patients: give each scan a folder"
            bad.append(BadCase(name, reason))
            continue
        patient = pseudonym("patient", "".join(patient_ids))
        segs = tuple(DicomSeg(listing.file(file)) for file, kind in kinds.items() if kind.is_seg)
        image = DicomImage(place, images, wanted=options.series, patient=patient)
        good[name] = DicomCase(image, segs)
        named_after_patients += any(_says_patient(name, kind) for kind in kinds.values())
    notes: tuple[str, ...] = ()
    if named_after_patients:
        notes = (
            f"warning: {named_after_patients} folders of '{folder.name}/' have names that hold the "
            "PatientID or PatientName of their files, and the dataset takes them over: rename them "
            "unless they are pseudonyms",
        )
    return DicomCases(good, bad, notes)


def segs_in(listing: Listing, folder: PurePosixPath) -> tuple[dict[str, DicomSeg], list[BadCase]]:
    """Segmentations in a folder, each a file or alone in a folder, by the names of their cases.

    Raises:
        UserError: they are in a zip.
    """
    good: dict[str, DicomSeg] = {}
    bad: list[BadCase] = []
    for name, files in _by_name(listing, folder).items():
        if len(files) > 1:
            reason = (
                f"{listing.path / folder / name}: {len(files)} DICOM files for one label: keep one"
            )
            bad.append(BadCase(name, reason))
        else:
            good[name] = DicomSeg(listing.file(files[0]))
    return good, bad


def find(listing: Listing) -> set[PurePosixPath]:
    """The whole listing, if it holds DICOM files."""
    return {PurePosixPath()} if listing.dicom else set()


def cases(listing: Listing, root: PurePosixPath, options: Options) -> Cases:
    """Every axial CT series below `root`, with the segmentation that refers to it, if any."""
    files = [file for file in _checked_dicom(listing) if root in file.parents]
    kinds = {listing.file(file).path: read_kind(listing.file(file)) for file in files}
    segs = [DicomSeg(listing.file(file)) for file in files if kinds[listing.file(file).path].is_seg]
    not_segs = [Path(path) for path, kind in kinds.items() if not kind.is_seg]
    found = dicom.find_series(not_segs, wanted=options.series)
    by_path = {Path(listing.file(file).path): listing.file(file) for file in files}
    bad = [BadCase(path.name, problem) for path, problem in found.damaged.items()]
    referenced, bad_segs = _references(segs)
    bad += bad_segs
    good: list[Case] = []
    used: set[DicomSeg] = set()
    for series in found.series:
        paths = list(dict.fromkeys(image.path for image in series.images))
        kind = kinds[str(paths[0])]
        image = DicomImage(
            str(paths[0].parent),
            tuple(by_path[path] for path in paths),
            series=series.name,
            wanted=options.series,
            patient=pseudonym("patient", kind.patient_id) or pseudonym("study", kind.study),
        )
        labels = [label for label, images in referenced.items() if shows(series, images)]
        used.update(labels)
        if len(labels) > 1:
            bad.append(BadCase(series.name, several(labels)))
            continue
        good.append(Case(series.name, series.name, image, labels[0] if labels else None))
    return Cases(good, bad, (*dicom.describe(found.left_out), *_unused(referenced, used)))


def _references(segs: Iterable[DicomSeg]) -> tuple[dict[DicomSeg, set[str]], list[BadCase]]:
    """The images that each segmentation refers to; one that refers to none is bad."""
    referenced = {}
    bad = []
    for label in segs:
        problem = f"{label.name}: a DICOM SEG that refers to no images: fetch it again"
        images: set[str] = set()
        try:
            images = seg_read.referenced_images(Path(label.file.path))
        except UserError as error:
            problem = str(error)
        if images:
            referenced[label] = images
        else:
            bad.append(BadCase(PurePosixPath(label.name).name, problem))
    return referenced, bad


def several(labels: Sequence[SourceFile | DicomSeg]) -> str:
    """Why a case with several labels is bad."""
    return f"{labels[0].name} and {labels[1].name} are labels of one scan: keep one"


def _unused(segs: Iterable[DicomSeg], used: set[DicomSeg]) -> Iterator[str]:
    unused = [label for label in segs if label not in used]
    if unused:
        yield (
            f"{len(unused)} segmentations refer to no series that is converted, such as "
            f"{printable(PurePosixPath(unused[0].name).name)}"
        )


def _by_name(listing: Listing, folder: PurePosixPath) -> Mapping[str, list[PurePosixPath]]:
    """The DICOM files below a folder by the name of their case: a folder's or a file's."""
    found: dict[str, list[PurePosixPath]] = {}
    if any(folder in file.parents for file in listing.dicom):
        _checked_dicom(listing)
    for file in listing.dicom:
        if folder in file.parents:
            found.setdefault(_case_name(file.relative_to(folder)), []).append(file)
    return found


def _case_name(file: PurePosixPath) -> str:
    """Of a file in a folder the folder's name, of another file its own without suffix."""
    name = file.parts[0]
    if len(file.parts) == 1:
        suffix = next((s for s in _SEG_SUFFIXES if name.lower().endswith(s)), "")
        name = name[: len(name) - len(suffix)]
    return normal_form(name)


def _checked_dicom(listing: Listing) -> tuple[PurePosixPath, ...]:
    if listing.members is not None:
        raise UserError(
            f"{listing.path}: holds DICOM, which is not read from a zip: unpack it and give the "
            "folder"
        )
    return listing.dicom


def _says_patient(name: str, kind: Kind) -> bool:
    """Whether the name of a folder holds an identifier of the patient, if that is long enough."""
    words = [kind.patient_id, *kind.patient_name.replace("^", " ").split()]
    return any(len(word) >= 4 and word.lower() in name.lower() for word in words)
