"""nnU-Net's raw data: imagesTr, labelsTr, imagesTs, labelsTs and dataset.json."""

import json
from pathlib import PurePosixPath
from typing import NamedTuple

from data_prep.sources.cases import BadCase, Case, Cases, VolumeLabel
from data_prep.sources.files import Listing, is_volume
from data_prep.sources.options import Options
from data_prep.sources.pairing import names_of, unique, volumes_in, without_partner
from mbh_jax.errors import UserError
from mbh_jax.labels import CLASS_NAMES, LABELS

_SPLIT_OF_SIDE = {"Tr": "train", "Ts": "test"}
_IGNORE = "ignore"
"""nnU-Net's name for voxels that nobody has labelled."""


class _Labels(NamedTuple):
    """What dataset.json says of label values.

    Attributes:
        value_of: our label for each value.
        ignore: the value of `_IGNORE`, if there is one.
    """

    value_of: tuple[int, ...]
    ignore: int | None


def find(listing: Listing) -> set[PurePosixPath]:
    """The folders that hold such data."""
    folders = tuple(f"{kind}{side}" for kind in ("images", "labels") for side in _SPLIT_OF_SIDE)
    return {
        file.parent.parent
        for file in listing.files
        if is_volume(file) and file.parent.name in folders
    }


def cases(listing: Listing, root: PurePosixPath, options: Options) -> Cases:
    """The scans in `root`: what lies in imagesTs is for test.

    Scans in imagesTs may lack labels. Those in imagesTr may not, unless there are no labels at all.
    """
    del options
    values = _read_labels(listing, root)
    good: list[Case] = []
    bad: list[BadCase] = []
    for side, split in _SPLIT_OF_SIDE.items():
        named = {}
        for file, full_name in volumes_in(listing, root / f"images{side}").items():
            name, _, channel = full_name.rpartition("_")
            if channel != "0000":
                raise UserError(
                    f"{listing.path}: {file} is not channel 0000: give one CT channel, named "
                    "<case>_0000.nii.gz"
                )
            named[file] = name
        images, bad_images = unique(listing, named)
        labels, bad_labels = unique(listing, volumes_in(listing, root / f"labels{side}"))
        bad += [*bad_images, *bad_labels]
        bad += without_partner(labels, names_of(images, bad_images), f"images{side}")
        if side == "Tr" and labels:
            bad += without_partner(images, names_of(labels, bad_labels), f"labels{side}")
            images = {name: file for name, file in images.items() if name in labels}
        for volume_id, image in images.items():
            found = labels.get(volume_id)
            label = VolumeLabel((found,), values.value_of, values.ignore) if found else None
            good.append(Case(volume_id, volume_id, image, label, given_split=split))
    return Cases(good, bad)


def _read_labels(listing: Listing, root: PurePosixPath) -> _Labels:
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
    ignore = next((value for name, value in named.items() if name.lower() == _IGNORE), None)
    named = {name: value for name, value in named.items() if name.lower() != _IGNORE}
    ours = {name.lower(): value for value, name in enumerate(CLASS_NAMES)}
    ours |= {label.long_name.lower(): value for value, label in enumerate(LABELS)}
    for name in named:
        if name.lower() not in ours:
            raise UserError(
                f"{file.name}: label {name!r} is none of {', '.join(CLASS_NAMES)}: rename it"
            )
    if sorted(named.values()) != list(range(len(named))):
        raise UserError(f"{file.name}: label values {sorted(named.values())}: number them from 0")
    by_value = sorted(named, key=lambda name: named[name])
    return _Labels(tuple(ours[name.lower()] for name in by_value), ignore)
