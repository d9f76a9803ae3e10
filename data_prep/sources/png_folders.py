"""Folders of PNG slices: images/ and masks/, alone or in train/, valid/ and test/."""

import itertools
from collections.abc import Mapping
from pathlib import PurePosixPath

from data_prep.sources.cases import BadCase, Case, Cases
from data_prep.sources.files import Listing, SourceFile
from data_prep.sources.options import Options
from data_prep.sources.pairing import is_picture, names_of, pictures_in, unique, without_partner
from data_prep.sources.pictures import PngImage, PngMask, volume_and_slice

GIVEN_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "val", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""The split that a folder's name stands for, in capitals or not."""

_IMAGES, _MASKS = "images", "masks"


def find(listing: Listing) -> set[PurePosixPath]:
    """The folders that hold such data, above train, valid and test if there are any."""
    return {
        folder.parent if folder.name.lower() in GIVEN_SPLITS else folder
        for folder in _folders(listing)
    }


def cases(listing: Listing, root: PurePosixPath, options: Options) -> Cases:
    """The volumes in `root`, each of all pictures in one folder that are its slices."""
    rgb_map = tuple(options.rgb_map.items()) if options.rgb_map else None
    good: list[Case] = []
    bad: list[BadCase] = []
    for folder in sorted(_folders(listing)):
        if folder == root:
            given_split = None
        elif folder.parent == root and folder.name.lower() in GIVEN_SPLITS:
            given_split = GIVEN_SPLITS[folder.name.lower()]
        else:
            continue
        images, bad_images = unique(listing, pictures_in(listing, folder / _IMAGES))
        masks, bad_masks = unique(listing, pictures_in(listing, folder / _MASKS))
        bad += [*bad_images, *bad_masks]
        bad += without_partner(images, names_of(masks, bad_masks), _MASKS)
        bad += without_partner(masks, names_of(images, bad_images), _IMAGES)
        slices_of: dict[str, list[tuple[int, str]]] = {}
        for name in sorted(images.keys() & masks.keys()):
            volume_name, number = volume_and_slice(name)
            slices_of.setdefault(volume_name, []).append((number, name))
        for volume_name, slices in slices_of.items():
            slices.sort()
            names = [name for _, name in slices]
            if len({number for number, _ in slices}) < len(slices):
                bad.append(_double_slice(images, volume_name, slices))
                continue
            good.append(
                Case(
                    f"{volume_name}_{given_split}" if given_split else volume_name,
                    volume_name,
                    PngImage(tuple(images[name] for name in names), options.flip_rows),
                    PngMask(tuple(masks[name] for name in names), rgb_map, options.flip_rows),
                    given_split=given_split,
                )
            )
    return Cases(good, bad)


def _folders(listing: Listing) -> set[PurePosixPath]:
    """Those that hold images/ or masks/ with pictures."""
    return {
        file.parent.parent
        for file in listing.files
        if is_picture(file) and file.parent.name in (_IMAGES, _MASKS)
    }


def _double_slice(
    images: Mapping[str, SourceFile], volume_name: str, slices: list[tuple[int, str]]
) -> BadCase:
    """The first two of `slices`, (number, name) in order, that have one number."""
    number, first, second = next(
        (number, first, second)
        for (number, first), (other, second) in itertools.pairwise(slices)
        if number == other
    )
    return BadCase(
        volume_name,
        f"{images[first].name} and {second}.png are both slice {number} of {volume_name}: "
        "remove one",
    )
