"""BHSD's layouts: scans with voxel labels, and scans with a label of the whole volume."""

from pathlib import PurePosixPath

from data_prep.sources.cases import Case, Cases
from data_prep.sources.files import Listing, is_volume
from data_prep.sources.options import Options
from data_prep.sources.pairing import names_of, unique, volumes_in, without_partner

IMAGES, LABELS = "images", "ground truths"
"""BHSD's two folders, which hold files of the same names."""

CASE_LABELS = ("anybleed", "nobleed")
"""BHSD's folders of scans without voxel labels, named by what is known of them."""


def find(listing: Listing) -> set[PurePosixPath]:
    """The folders that hold scans with voxel labels."""
    return {
        file.parent.parent
        for file in listing.files
        if is_volume(file) and file.parent.name in (IMAGES, LABELS)
    }


def cases(listing: Listing, root: PurePosixPath, options: Options) -> Cases:
    """The scans in `root`."""
    del options
    images, bad_images = unique(listing, volumes_in(listing, root / IMAGES))
    labels, bad_labels = unique(listing, volumes_in(listing, root / LABELS))
    bad = [
        *bad_images,
        *bad_labels,
        *without_partner(images, names_of(labels, bad_labels), LABELS),
        *without_partner(labels, names_of(images, bad_images), IMAGES),
    ]
    good = [
        Case(volume_id, volume_id, images[volume_id], labels[volume_id])
        for volume_id in images.keys() & labels.keys()
    ]
    return Cases(good, bad)


def find_unlabelled(listing: Listing) -> set[PurePosixPath]:
    """The folders that hold scans without voxel labels."""
    return {
        file.parent.parent
        for file in listing.files
        if is_volume(file) and file.parent.name in CASE_LABELS
    }


def unlabelled_cases(listing: Listing, root: PurePosixPath, options: Options) -> Cases:
    """The scans in `root`."""
    del options
    good, bad = [], []
    for case_label in CASE_LABELS:
        images, bad_images = unique(listing, volumes_in(listing, root / case_label))
        bad += bad_images
        good += [
            Case(volume_id, volume_id, image, None, case_label=case_label)
            for volume_id, image in images.items()
        ]
    return Cases(good, bad)
