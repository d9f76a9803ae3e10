"""MBH-Seg25's layout: a folder a case, with the image and each annotator's label."""

import re
from pathlib import PurePosixPath

from data_prep.sources.cases import BadCase, Case, Cases, VolumeLabel
from data_prep.sources.files import Listing, is_volume, normal_form, stem
from data_prep.sources.options import Options
from data_prep.sources.pairing import unique, volumes_in
from mbh_jax.errors import UserError

_IMAGE = "image"
_ANNOTATOR = re.compile(r"label_annot_(\w+)")


def find(listing: Listing) -> set[PurePosixPath]:
    """The folders that hold such data."""
    return {
        file.parent.parent
        for file in listing.files
        if is_volume(file) and _ANNOTATOR.fullmatch(stem(file))
    }


def cases(listing: Listing, root: PurePosixPath, options: Options) -> Cases:
    """The scans in `root`; `options.annotator` says which labels."""
    folders = {
        file.parent
        for file in listing.files
        if file.parent.parent == root
        and is_volume(file)
        and (stem(file) == _IMAGE or _ANNOTATOR.fullmatch(stem(file)))
    }
    good: list[Case] = []
    bad: list[BadCase] = []
    left_out: list[str] = []
    annotators: set[str] = set()
    for folder in sorted(folders):
        volume_id = normal_form(folder.name)
        files, double = unique(listing, volumes_in(listing, folder))
        matches = {name: _ANNOTATOR.fullmatch(name) for name in sorted(files)}
        labels = {match[1]: files[name] for name, match in matches.items() if match}
        annotators |= labels.keys()
        if double:
            bad.append(BadCase(volume_id, double[0].reason))
        elif _IMAGE not in files or not labels:
            lacks = "image.nii.gz" if labels else "label_annot_<number>.nii.gz"
            bad.append(BadCase(volume_id, f"{folder} has no {lacks}: add it or remove the folder"))
        elif options.annotator == "majority":
            label = VolumeLabel(tuple(labels.values()))
            good.append(Case(volume_id, volume_id, files[_IMAGE], label))
        elif options.annotator == "all":
            good += [
                Case(f"{volume_id}_annot_{name}", volume_id, files[_IMAGE], label)
                for name, label in labels.items()
            ]
        elif options.annotator in labels:
            good.append(Case(volume_id, volume_id, files[_IMAGE], labels[options.annotator]))
        else:
            left_out.append(volume_id)
    if options.annotator not in ("majority", "all", *annotators):
        raise UserError(
            f"--annotator {options.annotator}: give majority, all or one of "
            f"{', '.join(sorted(annotators))}"
        )
    if not left_out:
        return Cases(good, bad)
    note = (
        f"{len(left_out)} cases are left out, which annotator {options.annotator} has not labelled"
    )
    return Cases(good, bad, (f"{note}, such as {left_out[0]}",))
