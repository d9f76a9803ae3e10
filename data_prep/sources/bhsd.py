"""BHSD's layouts: scans with voxel labels, and scans with a label of the whole volume.

A scan is a file of a volume, or a folder with a series in DICOM. Its label is one of the same name,
a volume or a DICOM SEG; a SEG may also lie in the folder of the series.
"""

import itertools
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from data_prep.sources import dicom_folders
from data_prep.sources.cases import BadCase, Case, Cases
from data_prep.sources.dicom_series import DicomImage, DicomSeg
from data_prep.sources.files import Listing, SourceFile, is_volume
from data_prep.sources.options import Options
from data_prep.sources.pairing import names_of, unique, volumes_in, without_partner
from mbh_jax.errors import UserError

Image = SourceFile | DicomImage
Label = SourceFile | DicomSeg

IMAGES = "images"
LABELS = ("ground truths", "labels")
"""Folders that hold files of the same names: BHSD's name for labels first, then the usual one."""

CASE_LABELS = ("anybleed", "nobleed")
"""BHSD's folders of scans without voxel labels, named by what is known of them."""


def find(listing: Listing) -> set[PurePosixPath]:
    """The folders that hold scans with voxel labels."""
    return _above(listing, (IMAGES, LABELS[0]))


def cases(listing: Listing, root: PurePosixPath, options: Options) -> Cases:
    """The scans in `root`."""
    labels_folder = _labels_folder(listing, root)
    images, bad_images, notes, segs = _images(listing, root / IMAGES, options)
    labels, bad_labels = _labels(listing, root / labels_folder, segs)
    bad = [
        *bad_images,
        *bad_labels,
        *without_partner(images, names_of(labels, bad_labels), labels_folder),
        *without_partner(labels, names_of(images, bad_images), IMAGES),
    ]
    good = [
        Case(volume_id, volume_id, images[volume_id], labels[volume_id])
        for volume_id in images.keys() & labels.keys()
    ]
    return Cases(good, bad, notes)


def find_unlabelled(listing: Listing) -> set[PurePosixPath]:
    """The folders that hold scans without voxel labels."""
    return _above(listing, CASE_LABELS)


def unlabelled_cases(listing: Listing, root: PurePosixPath, options: Options) -> Cases:
    """The scans in `root`."""
    good: list[Case] = []
    bad: list[BadCase] = []
    notes: tuple[str, ...] = ()
    for case_label in CASE_LABELS:
        images, bad_images, more_notes, segs = _images(listing, root / case_label, options)
        bad += bad_images
        notes += more_notes
        if segs:
            notes += (
                f"the segmentations in {len(segs)} folders of '{case_label}/' are not read: to use "
                f"them as labels, move the scans to '{IMAGES}/'",
            )
        good += [
            Case(volume_id, volume_id, image, None, case_label=case_label)
            for volume_id, image in images.items()
        ]
    return Cases(good, bad, notes)


class _Images(NamedTuple):
    """Scans by name, bad ones, notes, and the segmentations that lie in folders of DICOM."""

    good: dict[str, Image]
    bad: list[BadCase]
    notes: tuple[str, ...]
    segs: dict[str, tuple[DicomSeg, ...]]


def _images(listing: Listing, folder: PurePosixPath, options: Options) -> _Images:
    files, bad = unique(listing, volumes_in(listing, folder))
    series = dicom_folders.images_in(listing, folder, options)
    folders = {name: case.image for name, case in series.good.items()}
    images, double = _merged(files, folders, folder)
    segs = {name: case.segs for name, case in series.good.items() if case.segs}
    return _Images(images, [*bad, *series.bad, *double], series.notes, segs)


def _labels(
    listing: Listing, folder: PurePosixPath, inside: Mapping[str, tuple[DicomSeg, ...]]
) -> tuple[dict[str, Label], list[BadCase]]:
    """Labels by name; `inside` are segmentations in folders of series."""
    files, bad = unique(listing, volumes_in(listing, folder))
    beside, bad_segs = dicom_folders.segs_in(listing, folder)
    labels, double = _merged(files, beside, folder)
    bad += [*bad_segs, *double]
    for name, segs in inside.items():
        given = [*segs, *([labels.pop(name)] if name in labels else [])]
        if len(given) > 1:
            bad.append(BadCase(name, dicom_folders.several(given)))
        else:
            labels[name] = segs[0]
    return labels, bad


def _merged(
    files: Mapping[str, SourceFile],
    others: Mapping[str, DicomImage] | Mapping[str, DicomSeg],
    folder: PurePosixPath,
) -> tuple[dict[str, Any], list[BadCase]]:
    """What lies in a folder as a file or as DICOM, and the names that are there twice."""
    double = files.keys() & others.keys()
    bad = [BadCase(name, f"two files for {folder / name}: remove one") for name in sorted(double)]
    both = {**files, **others}
    return {name: one for name, one in both.items() if name not in double}, bad


def _labels_folder(listing: Listing, root: PurePosixPath) -> str:
    """The one of `LABELS` that is there.

    Raises:
        UserError: both are.
    """
    there = [name for name in LABELS if any(root / name in file.parents for file in listing.files)]
    if len(there) > 1:
        raise UserError(
            f"{listing.path}: both '{LABELS[0]}/' and '{LABELS[1]}/' beside '{IMAGES}/': keep one"
        )
    return there[0] if there else LABELS[0]


def _above(listing: Listing, names: tuple[str, ...]) -> set[PurePosixPath]:
    """The parents of folders of these names that hold volumes, or DICOM at any depth."""
    folders = {file.parent for file in listing.files if is_volume(file)}
    for file in listing.dicom:
        parents = reversed(file.parents)  # The outermost one counts.
        folders |= set(itertools.islice((one for one in parents if one.name in names), 1))
    return {folder.parent for folder in folders if folder.name in names}
