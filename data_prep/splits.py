"""Which volume goes to training, validation and test: what `--split` may say, and what it does.

    official             BHSD's own 96/96; validation is drawn from its training side, by patient
    patient              0.7, 0.15 and 0.15 of the patients, stratified by the classes they have
    patient:0.8,0.15,0.05    the same with other shares
    kfold:5/0            the first of five stratified groups of patients is for test, the next one
                         for validation, the rest for training; 5/1 to 5/4 go round
    given                as the source has it, in folders train, valid and test, or imagesTr and
                         imagesTs; what is missing is drawn from train, by patient
    slice                slices shuffled and divided 80:15:5, whoever the patient: patients leak
    my_split.json        {"train": [...], "validation": [...], "test": [...]}: volume or patient ids

No patient is ever in two splits, except by `slice`, and by `given` where the source does so.
`bhsd_official_split.json` holds the names of BHSD's 96 training and 96 test volumes, facts copied
from `dataset.json` of the authors' repository (Wu et al., MLMI 2023, arXiv:2308.11298).
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_prep import split_listing
from data_prep.sources import Case, CaseFacts, cut_to_slices
from data_prep.stratification import stratify
from mbh_jax import files
from mbh_jax.data.index import SPLIT_NAMES
from mbh_jax.errors import UserError
from mbh_jax.labels import FOREGROUND

PATIENT_FRACTIONS = (0.7, 0.15, 0.15)
"""Share of the patients in training, validation and test, unless said otherwise."""

GIVEN_FRACTION = 0.15
"""Share of the source's training patients that a split takes which the source has not."""

OFFICIAL_VALIDATION_FRACTION = 0.15
"""Share of the official training patients that validation takes."""

SLICE_FRACTIONS = (0.8, 0.15, 0.05)
"""Shares of the slices with blood in the original project: 1,894, 355 and 119."""

SYNTAX = (
    "official, patient, patient:0.8,0.15,0.05, kfold:5/0, given, slice or the path of a .json file"
)

DIVIDING_METHODS = ("given", "slice")
"""Those that may put a patient on several sides."""


class SplitRule(NamedTuple):
    """A way to divide cases.

    Attributes:
        metadata: how the split was made, for metadata.json.
        split_of: gives the split of each volume id, of all cases and a seed.
        by_slice: whether each slice is a separate case.
    """

    metadata: Mapping[str, Any]
    split_of: Callable[[Sequence[CaseFacts], int], Mapping[str, str]]
    by_slice: bool = False


def parse(text: str) -> SplitRule:
    """Reads what `--split` was given (see the module's docstring), a JSON file included.

    Raises:
        UserError: if it cannot be understood.
    """
    if text == "official":
        metadata = {"method": "official", "validation_fraction": OFFICIAL_VALIDATION_FRACTION}
        return SplitRule(metadata, _official)
    if match := re.fullmatch(r"patient(?::(.*))?", text):
        fractions = PATIENT_FRACTIONS if match[1] is None else _fractions(match[1])
        metadata = {"method": "patient", "fractions": list(fractions)}
        return SplitRule(metadata, partial(_by_patient, fractions))
    if match := re.fullmatch(r"kfold:(\d+)/(\d+)", text):
        num_folds, fold = int(match[1]), int(match[2])
        if num_folds < 3 or fold >= num_folds:
            raise UserError(
                f"--split {text}: give kfold:5/0 to kfold:5/4, or another number of folds from 3 up"
            )
        metadata = {"method": "kfold", "num_folds": num_folds, "fold": fold}
        return SplitRule(metadata, partial(_kfold, num_folds, fold))
    if text == "given":
        return SplitRule({"method": "given"}, _given)
    if text == "slice":
        metadata = {"method": "slice", "fractions": list(SLICE_FRACTIONS)}
        return SplitRule(metadata, _shuffled, by_slice=True)
    if text.endswith(".json"):
        path = Path(files.user_path(text, "--split"))
        listing = split_listing.read(path)
        return SplitRule({"method": "file", "file": path.name}, partial(_listed, listing))
    raise UserError(f"--split {text}: give {SYNTAX}")


def default_rule(cases: Sequence[Case]) -> SplitRule:
    """The rule for cases without a `--split`.

    `given` if the source has a training part and another one; `official` if all are BHSD's and both
    its sides are there; else `patient`.
    """
    given = {case.given_split for case in cases}
    if None not in given and "train" in given and len(given) > 1:
        return parse("given")
    ids = {case.volume_id for case in cases}
    sides = official_sides()
    known = ids <= sides["train"] | sides["test"]
    is_official = known and ids & sides["train"] and ids & sides["test"]
    return parse("official" if is_official else "patient")


def split_cases(
    facts: Sequence[CaseFacts], rule: SplitRule, seed: int
) -> dict[str, list[CaseFacts]]:
    """Divides cases into `SPLIT_NAMES`; by slice, cases are cut to volumes of one slice first.

    Args:
        facts: all cases.
        rule: how, see `parse`.
        seed: of what the rule leaves to chance.

    Returns:
        Each split's cases, in the order of `facts`.

    Raises:
        UserError: if the rule does not fit the cases, or a split would be empty.
    """
    if rule.by_slice:
        facts = [one for fact in facts for one in cut_to_slices(fact)]
    split_of = rule.split_of(facts, seed)
    return {
        split: [fact for fact in facts if split_of[fact.case.volume_id] == split]
        for split in SPLIT_NAMES
    }


def leak_warning(divided: Mapping[str, Sequence[CaseFacts]]) -> str | None:
    """What to say if patients are on several sides."""
    patients = Counter(
        patient_id
        for facts in divided.values()
        for patient_id in {fact.case.patient_id for fact in facts}
    )
    leaking = sum(count > 1 for count in patients.values())
    if not leaking:
        return None
    return (
        f"warning: {leaking} of {len(patients)} patients are in several splits: neighbouring "
        "slices of one bleed are trained on and tested, so scores show how well patients are "
        "remembered and not how well new ones are read: compare them with work that was split so, "
        "and with nothing else"
    )


@cache
def official_sides() -> Mapping[str, frozenset[str]]:
    """Volume ids of BHSD's official `train` (96) and `test` (96) sides."""
    text = resources.files("data_prep").joinpath("bhsd_official_split.json").read_text()
    return {side: frozenset(names) for side, names in json.loads(text).items()}


def classes_of_patients(facts: Sequence[CaseFacts]) -> dict[str, frozenset[int]]:
    """The kinds of blood in any of a patient's volumes, by patient id in ascending order."""
    classes: dict[str, frozenset[int]] = {}
    for fact in sorted(facts, key=lambda fact: fact.case.volume_id):
        present = fact.pixels_per_class.sum(axis=0)
        found = frozenset(label for label in FOREGROUND if present[label])
        patient_id = fact.case.patient_id
        classes[patient_id] = classes.get(patient_id, frozenset()) | found
    return dict(sorted(classes.items()))


def _by_volume(facts: Sequence[CaseFacts], split_of_patient: Mapping[str, str]) -> dict[str, str]:
    return {fact.case.volume_id: split_of_patient[fact.case.patient_id] for fact in facts}


def _by_patient(
    fractions: Sequence[float], facts: Sequence[CaseFacts], seed: int
) -> dict[str, str]:
    shares = dict(zip(SPLIT_NAMES, fractions, strict=True))
    return _by_volume(facts, stratify(classes_of_patients(facts), shares, seed))


def _official(facts: Sequence[CaseFacts], seed: int) -> dict[str, str]:
    sides = official_sides()
    side_of: dict[str, str] = {}
    for fact in facts:
        volume_id = fact.case.volume_id
        side = next((side for side, names in sides.items() if volume_id in names), None)
        if side is None:
            raise UserError(
                f"--split official: {volume_id} is not one of BHSD's 192 volumes: give "
                "--split patient"
            )
        side_of[fact.case.patient_id] = side
    for side in sides:
        if side not in side_of.values():
            raise UserError(
                f"--split official: none of the volumes is on BHSD's {side} side: give "
                "--split patient"
            )
    train = {
        patient_id: classes
        for patient_id, classes in classes_of_patients(facts).items()
        if side_of[patient_id] == "train"
    }
    shares = {
        "train": 1 - OFFICIAL_VALIDATION_FRACTION,
        "validation": OFFICIAL_VALIDATION_FRACTION,
    }
    return _by_volume(facts, side_of | stratify(train, shares, seed))


def _kfold(num_folds: int, fold: int, facts: Sequence[CaseFacts], seed: int) -> dict[str, str]:
    """Folds depend on the seed and not on `fold`, so that each patient is tested exactly once."""
    folds = [f"fold {number}" for number in range(num_folds)]
    shares = dict.fromkeys(folds, 1 / num_folds)
    fold_of = stratify(classes_of_patients(facts), shares, seed)
    split_of_fold = dict.fromkeys(folds, "train")
    split_of_fold[folds[(fold + 1) % num_folds]] = "validation"
    split_of_fold[folds[fold]] = "test"
    return _by_volume(facts, {name: split_of_fold[fold_of[name]] for name in fold_of})


def _given(facts: Sequence[CaseFacts], seed: int) -> dict[str, str]:
    split_of: dict[str, str] = {}
    splits_of_patient: dict[str, set[str]] = {}
    for fact in facts:
        split = fact.case.given_split
        if split is None:
            raise UserError(
                f"--split given: the source does not say where {fact.case.volume_id} belongs: "
                "give --split patient"
            )
        split_of[fact.case.volume_id] = split
        splits_of_patient.setdefault(fact.case.patient_id, set()).add(split)
    if missing := missing_splits([fact.case for fact in facts]):
        only_train = [
            fact for fact in facts if splits_of_patient[fact.case.patient_id] == {"train"}
        ]
        shares = {"train": 1 - GIVEN_FRACTION * len(missing)} | dict.fromkeys(
            missing, GIVEN_FRACTION
        )
        split_of |= _by_volume(only_train, stratify(classes_of_patients(only_train), shares, seed))
    return _checked_not_empty(split_of, "--split given: the source has nothing for")


def missing_splits(cases: Sequence[Case]) -> list[str]:
    """The splits other than train for which a source has no volumes, or none with voxel labels."""
    labelled = [case for case in cases if case.label is not None] or cases
    present = {case.given_split for case in labelled}
    return [split for split in SPLIT_NAMES if split not in present and split != "train"]


def _shuffled(facts: Sequence[CaseFacts], seed: int) -> dict[str, str]:
    order = np.random.default_rng(seed).permutation(len(facts))
    ends = np.rint(np.cumsum(SLICE_FRACTIONS) * len(facts)).astype(int)
    if min(np.diff(ends, prepend=0)) < 1:
        raise UserError(f"--split slice: {len(facts)} slices are too few for three splits")
    numbers = np.searchsorted(ends, np.argsort(order), side="right")
    return {
        fact.case.volume_id: SPLIT_NAMES[number]
        for fact, number in zip(facts, numbers, strict=True)
    }


def _listed(listing: Mapping[str, str], facts: Sequence[CaseFacts], seed: int) -> dict[str, str]:
    del seed
    split_of = split_listing.divide(listing, [fact.case for fact in facts])
    return _checked_not_empty(split_of, "--split: none of the volumes is listed under")


def _checked_not_empty(split_of: dict[str, str], message: str) -> dict[str, str]:
    for split in SPLIT_NAMES:
        if split not in split_of.values():
            raise UserError(f"{message} {split}: add one, or give --split patient")
    return split_of


def _fractions(text: str) -> tuple[float, ...]:
    try:
        fractions = tuple(float(part) for part in text.split(","))
    except ValueError:
        fractions = ()
    if len(fractions) != 3 or not min(fractions) > 0 or not abs(sum(fractions) - 1) <= 1e-6:
        raise UserError(
            f"--split: shares {text!r}: give three numbers above 0 for train,validation,test that "
            "add up to 1, such as 0.8,0.15,0.05"
        )
    return fractions
