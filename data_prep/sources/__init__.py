"""Where volumes come from: a zip or folder in any of `layouts.LAYOUTS`, which is recognised."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from data_prep.sources import patients
from data_prep.sources.cases import (
    BadCase,
    Case,
    CaseFacts,
    Source,
    cut_to_slices,
    read_case,
    read_facts,
    whole_volume,
)
from data_prep.sources.dicom_series import DicomImage
from data_prep.sources.files import BESIDE, Listing, SourceFile, is_volume, list_files, printable
from data_prep.sources.layouts import ALL_LAYOUTS, LAST_LAYOUT, LAYOUTS
from data_prep.sources.options import Options
from data_prep.sources.pairing import is_picture
from mbh_jax.errors import UserError

__all__ = [
    "LAYOUTS",
    "BadCase",
    "Case",
    "CaseFacts",
    "Options",
    "Source",
    "SourceFile",
    "cut_to_slices",
    "open_source",
    "printable",
    "read_case",
    "read_facts",
    "whole_volume",
]


def open_source(path: Path, layout: str | None = None, options: Options | None = None) -> Source:
    """Finds the cases of a zip or folder.

    Args:
        path: where to look; the data set may lie below it.
        layout: one of `LAYOUTS`; recognised from its files if None.
        options: how to read it.

    Raises:
        UserError: if there is no data set, or more than one, or two volumes of one name, or an
            option that means nothing to it.
    """
    listing = list_files(path)
    found = [
        (name, root)
        for name in ([layout] if layout else [one for one in LAYOUTS if one != LAST_LAYOUT])
        for root in sorted(LAYOUTS[name].find(listing))
    ]
    if not found and not layout:
        found = [(LAST_LAYOUT, root) for root in LAYOUTS[LAST_LAYOUT].find(listing)]
    if not found:
        wanted = LAYOUTS[layout].what if layout else "one of " + ", ".join(LAYOUTS)
        raise UserError(
            f"{path}: no data set found: give {wanted} (see docs/data_prep.md); "
            f"{listing.describe()}"
        )
    if len(found) > 1:
        listed = ", ".join(f"{name} in {root}" for name, root in found)
        raise UserError(f"{path}: several data sets ({listed}): give one, or --layout")
    ((name, root),) = found
    options = options or Options()
    for option in dataclasses.fields(options):
        is_given = getattr(options, option.name) != option.default
        if is_given and option.name not in (*ALL_LAYOUTS, *LAYOUTS[name].options):
            raise UserError(
                f"--{option.name}: means nothing to {path}, of layout {name}: remove it, or give "
                "another --layout"
            )
    cases, bad_cases, notes = LAYOUTS[name].cases(listing, root, options)
    if not (cases or bad_cases):
        reasons = "".join(f"; {note}" for note in notes[:5])
        raise UserError(f"{path}: holds no scan that can be converted{reasons}")
    if options.series and not any(isinstance(case.image, DicomImage) for case in cases):
        raise UserError(f"--series: {path} holds no DICOM: remove it")
    bad_cases += [
        BadCase(case.volume_id, f"{case.image.name}: its name is not UTF-8: rename it")
        for case in cases
        if case.volume_id != printable(case.volume_id)
    ]
    cases = [case for case in cases if case.volume_id == printable(case.volume_id)]
    cases.sort(key=lambda case: case.volume_id)
    for first, second in itertools.pairwise(cases):
        if first.volume_id == second.volume_id:
            raise UserError(
                f"{path}: two volumes named {first.volume_id} ({first.image.name} and "
                f"{second.image.name}): rename or remove one"
            )
    own_list = root / patients.PATIENTS_FILE
    cases, patient_notes = patients.assign(
        cases,
        options.patients,
        listing.file(own_list) if own_list in listing.files else None,
    )
    return Source(
        printable(path.resolve().name),
        name,
        tuple(cases),
        tuple(sorted(BadCase(*map(printable, bad)) for bad in bad_cases)),
        (*notes, *_ignored(listing, root), *patient_notes),
    )


def _ignored(listing: Listing, root: PurePosixPath) -> Iterator[str]:
    """Says if folders with volumes, pictures or DICOM hold files that are none of these."""
    dicom = set(listing.dicom)
    below = [file for file in listing.files if root in file.parents]
    used = {file for file in below if is_volume(file) or is_picture(file) or file in dicom}
    folders = {file.parent for file in used}
    others = [
        file
        for file in below
        if file.parent in folders and file not in used and file.suffix.lower() not in BESIDE
    ]
    if others:
        yield f"{len(others)} files are ignored, such as {printable(str(others[0]))}"
