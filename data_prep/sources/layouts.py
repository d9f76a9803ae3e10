"""How data sets are laid out, recognised from their files.

Each layout is a pair of functions: `find` gives the folders in a listing that hold such a data set,
and `cases` lists one's cases. Folders and files that belong to no layout are ignored.
"""

import itertools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

from data_prep.sources.cases import BadCase, Case, NiftiLabel, patient_of
from data_prep.sources.files import Listing, SourceFile, is_volume, stem
from data_prep.sources.pairing import (
    by_stem,
    is_picture,
    names_of,
    pictures_in,
    volumes_in,
    without_partner,
)
from data_prep.sources.pictures import PngImage, PngMask, volume_and_slice
from mbh_jax.errors import UserError
from mbh_jax.imageio.png import CLASS_RGB, Rgb
from mbh_jax.labels import CLASS_NAMES, LABELS

BHSD_IMAGES, BHSD_LABELS = "images", "ground truths"
"""BHSD's two folders, which hold files of the same names."""

CASE_LABELS = ("anybleed", "nobleed")
"""BHSD's folders of scans without voxel labels, named by what is known of them."""

_GIVEN_SPLITS = {"train": "train", "valid": "validation", "test": "test"}
_NNUNET_FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")
_ANNOTATOR = re.compile(r"label_annot_(\w+)")


@dataclass(frozen=True)
class Options:
    """What a user can choose about how files are read.

    Attributes:
        annotator: of MBH-Seg25: "majority", "all", or one annotator's number.
        rgb_map: label of each colour of PNG masks.
        flip_rows: whether PNG pictures are upside down.
    """

    annotator: str = "majority"
    rgb_map: Mapping[Rgb, int] | None = None
    flip_rows: bool = False


Cases = tuple[list[Case], list[BadCase]]


class Layout(NamedTuple):
    """See the module's docstring.

    Attributes:
        what: the files, for errors.
        options: those of `Options` that apply to this layout.
    """

    find: Callable[[Listing], set[PurePosixPath]]
    cases: Callable[[Listing, PurePosixPath, Options], Cases]
    what: str
    options: tuple[str, ...] = ()


def _find_bhsd(listing: Listing) -> set[PurePosixPath]:
    return {
        file.parent.parent
        for file in listing.files
        if is_volume(file) and file.parent.name in (BHSD_IMAGES, BHSD_LABELS)
    }


def _bhsd(listing: Listing, root: PurePosixPath, options: Options) -> Cases:
    del options
    images, bad_images = by_stem(listing, volumes_in(listing, root / BHSD_IMAGES))
    labels, bad_labels = by_stem(listing, volumes_in(listing, root / BHSD_LABELS))
    bad = [
        *bad_images,
        *bad_labels,
        *without_partner(images, names_of(labels, bad_labels), BHSD_LABELS),
        *without_partner(labels, names_of(images, bad_images), BHSD_IMAGES),
    ]
    cases = [
        Case(volume_id, patient_of(volume_id), images[volume_id], labels[volume_id])
        for volume_id in images.keys() & labels.keys()
    ]
    return cases, bad


def _find_unlabelled(listing: Listing) -> set[PurePosixPath]:
    return {
        file.parent.parent
        for file in listing.files
        if is_volume(file) and file.parent.name in CASE_LABELS
    }


def _unlabelled(listing: Listing, root: PurePosixPath, options: Options) -> Cases:
    del options
    cases, bad = [], []
    for case_label in CASE_LABELS:
        images, bad_images = by_stem(listing, volumes_in(listing, root / case_label))
        bad += bad_images
        cases += [
            Case(volume_id, patient_of(volume_id), image, None, case_label=case_label)
            for volume_id, image in images.items()
        ]
    return cases, bad


def _find_png(listing: Listing) -> set[PurePosixPath]:
    folders = {
        file.parent.parent
        for file in listing.files
        if is_picture(file) and file.parent.name in ("images", "masks")
    }
    return {folder.parent if folder.name in _GIVEN_SPLITS else folder for folder in folders}


def _png(listing: Listing, root: PurePosixPath, options: Options) -> Cases:
    rgb_map = tuple((options.rgb_map or CLASS_RGB).items())
    cases, bad = [], []
    for folder, given_split in [
        (root, None),
        *((root / name, split) for name, split in _GIVEN_SPLITS.items()),
    ]:
        images, bad_images = by_stem(listing, pictures_in(listing, folder / "images"))
        masks, bad_masks = by_stem(listing, pictures_in(listing, folder / "masks"))
        bad += [*bad_images, *bad_masks]
        bad += without_partner(images, names_of(masks, bad_masks), "masks")
        bad += without_partner(masks, names_of(images, bad_images), "images")
        slices_of: dict[str, list[tuple[int, str]]] = {}
        for name in sorted(images.keys() & masks.keys()):
            patient_id, number = volume_and_slice(name)
            slices_of.setdefault(patient_id, []).append((number, name))
        for patient_id, slices in slices_of.items():
            slices.sort()
            names = [name for _, name in slices]
            if len({number for number, _ in slices}) < len(slices):
                bad.append(_double_slice(images, patient_id, slices))
                continue
            cases.append(
                Case(
                    f"{patient_id}_{given_split}" if given_split else patient_id,
                    patient_of(patient_id),
                    PngImage(tuple(images[name] for name in names), options.flip_rows),
                    PngMask(tuple(masks[name] for name in names), rgb_map, options.flip_rows),
                    given_split=given_split,
                )
            )
    return cases, bad


def _double_slice(
    images: Mapping[str, SourceFile], patient_id: str, slices: list[tuple[int, str]]
) -> BadCase:
    """The first two of `slices`, (number, name) in order, that have one number."""
    number, first, second = next(
        (number, first, second)
        for (number, first), (other, second) in itertools.pairwise(slices)
        if number == other
    )
    return BadCase(
        patient_id,
        f"{images[first].name} and {second}.png are both slice {number} of {patient_id}: "
        "remove one",
    )


def _find_nnunet(listing: Listing) -> set[PurePosixPath]:
    return {
        file.parent.parent
        for file in listing.files
        if is_volume(file) and file.parent.name in _NNUNET_FOLDERS
    }


def _nnunet(listing: Listing, root: PurePosixPath, options: Options) -> Cases:
    del options
    value_of = _nnunet_labels(listing, root)
    cases, bad = [], []
    for side in ("Tr", "Ts"):
        files = {}
        for file in volumes_in(listing, root / f"images{side}"):
            name, _, channel = stem(file).rpartition("_")
            if channel != "0000":
                raise UserError(
                    f"{listing.path}: {file} is not channel 0000: give one CT channel, named "
                    "<case>_0000.nii.gz"
                )
            files[file.with_name(file.name.replace(stem(file), name))] = file
        images, bad_images = by_stem(listing, files)
        labels, bad_labels = by_stem(listing, volumes_in(listing, root / f"labels{side}"))
        bad += [*bad_images, *bad_labels]
        bad += without_partner(labels, names_of(images, bad_images), f"images{side}")
        for volume_id, image in images.items():
            found = labels.get(volume_id)
            label = NiftiLabel((found,), value_of) if found else None
            cases.append(Case(volume_id, patient_of(volume_id), image, label))
    return cases, bad


def _nnunet_labels(listing: Listing, root: PurePosixPath) -> tuple[int, ...]:
    """Our label for each value in the files, from dataset.json's names of them."""
    path = root / "dataset.json"
    if path not in listing.files:
        raise UserError(
            f"{listing.path}: {path} is missing, which says what each label stands for: add it"
        )
    file = listing.file(path)
    try:
        with file.open() as stream:
            named = {str(name): int(v) for name, v in json.load(stream)["labels"].items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(
            f'{file.name}: no readable "labels": give {{"background": 0, "EDH": 1, ...}}'
        ) from None
    ours = {name.lower(): value for value, name in enumerate(CLASS_NAMES)}
    ours |= {label.long_name.lower(): value for value, label in enumerate(LABELS)}
    for name in named:
        if name.lower() not in ours:
            raise UserError(
                f"{file.name}: label {name!r} is none of {', '.join(CLASS_NAMES)}: rename it"
            )
    if sorted(named.values()) != list(range(len(named))):
        raise UserError(f"{file.name}: label values {sorted(named.values())}: number them from 0")
    return tuple(ours[name.lower()] for name in sorted(named, key=lambda name: named[name]))


def _find_mbhseg25(listing: Listing) -> set[PurePosixPath]:
    return {
        file.parent.parent
        for file in listing.files
        if is_volume(file) and _ANNOTATOR.fullmatch(stem(file))
    }


def _mbhseg25(listing: Listing, root: PurePosixPath, options: Options) -> Cases:
    labels_of: dict[PurePosixPath, dict[str, SourceFile]] = {}
    images: dict[PurePosixPath, SourceFile] = {}
    for file in listing.files:
        if file.parent.parent != root or not is_volume(file):
            continue
        if stem(file) == "image":
            images[file.parent] = listing.file(file)
        elif match := _ANNOTATOR.fullmatch(stem(file)):
            labels_of.setdefault(file.parent, {})[match[1]] = listing.file(file)
    annotators = sorted({annotator for labels in labels_of.values() for annotator in labels})
    if options.annotator not in ("majority", "all", *annotators):
        raise UserError(
            f"--annotator {options.annotator}: give majority, all or one of {', '.join(annotators)}"
        )
    cases, bad = [], []
    for folder in sorted(images.keys() | labels_of.keys()):
        volume_id, labels = folder.name, labels_of.get(folder, {})
        if folder not in images or not labels:
            lacks = "image.nii.gz" if labels else "label_annot_<number>.nii.gz"
            bad.append(BadCase(volume_id, f"{folder} has no {lacks}: add it or remove the folder"))
        elif options.annotator == "majority":
            label = NiftiLabel(tuple(labels[name] for name in sorted(labels)))
            cases.append(Case(volume_id, patient_of(volume_id), images[folder], label))
        else:
            cases += [
                Case(
                    f"{volume_id}_annot_{name}" if options.annotator == "all" else volume_id,
                    patient_of(volume_id),
                    images[folder],
                    file,
                )
                for name, file in labels.items()
                if options.annotator in ("all", name)
            ]
    return cases, bad


LAYOUTS: Mapping[str, Layout] = {
    "bhsd": Layout(_find_bhsd, _bhsd, f"images/ and '{BHSD_LABELS}/' with NIfTI"),
    "unlabelled": Layout(_find_unlabelled, _unlabelled, "anybleed/ and nobleed/ with NIfTI"),
    "png": Layout(
        _find_png,
        _png,
        "images/ and masks/ with PNG, or train, valid, test with them",
        options=("rgb_map", "flip_rows"),
    ),
    "nnunet": Layout(_find_nnunet, _nnunet, "imagesTr/, labelsTr/ and dataset.json"),
    "mbhseg25": Layout(
        _find_mbhseg25,
        _mbhseg25,
        "<case>/image and <case>/label_annot_<number>",
        options=("annotator",),
    ),
}
"""By the name that `--layout` takes."""
