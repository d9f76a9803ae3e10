"""Where volumes come from: a zip or folder in any of `layouts.LAYOUTS`, which is recognised."""

import dataclasses
import itertools
from pathlib import Path

from data_prep.sources.cases import (
    BadCase,
    Case,
    CaseFacts,
    Source,
    cut_to_slices,
    patient_of,
    read_case,
    read_facts,
    whole_volume,
)
from data_prep.sources.files import SourceFile, list_files
from data_prep.sources.layouts import LAYOUTS, Options
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
    "patient_of",
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
        UserError: if there is no data set, or more than one, or two volumes of one name.
    """
    listing = list_files(path)
    found = [
        (name, root)
        for name in ([layout] if layout else LAYOUTS)
        for root in sorted(LAYOUTS[name].find(listing))
    ]
    if not found:
        wanted = LAYOUTS[layout].what if layout else "one of " + ", ".join(LAYOUTS)
        raise UserError(f"{path}: no data set found: give {wanted} (see docs/data_prep.md)")
    if len(found) > 1:
        listed = ", ".join(f"{name} in {root}" for name, root in found)
        raise UserError(f"{path}: several data sets ({listed}): give one, or --layout")
    ((name, root),) = found
    options = options or Options()
    for option in dataclasses.fields(options):
        is_given = getattr(options, option.name) != option.default
        if is_given and option.name not in LAYOUTS[name].options:
            raise UserError(
                f"--{option.name}: means nothing to {path}, of layout {name}: remove it, or give "
                "another --layout"
            )
    cases, bad_cases = LAYOUTS[name].cases(listing, root, options)
    cases.sort(key=lambda case: case.volume_id)
    for first, second in itertools.pairwise(cases):
        if first.volume_id == second.volume_id:
            raise UserError(
                f"{path}: two volumes named {first.volume_id} ({first.image.name} and "
                f"{second.image.name}): rename or remove one"
            )
    return Source(path.resolve().name, name, tuple(cases), tuple(sorted(bad_cases)))
