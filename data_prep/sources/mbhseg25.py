"""MBH-Seg25's layout: a folder a case, with the image and each annotator's label."""

import re
from pathlib import PurePosixPath

from data_prep.sources.cases import BadCase, Case, Cases, NiftiLabel
from data_prep.sources.files import Listing, SourceFile, is_volume, normal_form, stem
from data_prep.sources.options import Options
from mbh_jax.errors import UserError

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
    good: list[Case] = []
    bad: list[BadCase] = []
    for folder in sorted(images.keys() | labels_of.keys()):
        volume_id, labels = normal_form(folder.name), labels_of.get(folder, {})
        if folder not in images or not labels:
            lacks = "image.nii.gz" if labels else "label_annot_<number>.nii.gz"
            bad.append(BadCase(volume_id, f"{folder} has no {lacks}: add it or remove the folder"))
        elif options.annotator == "majority":
            label = NiftiLabel(tuple(labels[name] for name in sorted(labels)))
            good.append(Case(volume_id, volume_id, images[folder], label))
        else:
            good += [
                Case(
                    f"{volume_id}_annot_{name}" if options.annotator == "all" else volume_id,
                    volume_id,
                    images[folder],
                    file,
                )
                for name, file in labels.items()
                if options.annotator in ("all", name)
            ]
    return good, bad
