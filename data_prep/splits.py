"""Which patient goes to training, validation and test. No patient is ever on two sides.

`bhsd_official_split.json` holds the names of BHSD's 96 training and 96 test volumes, facts copied
from `dataset.json` of the authors' repository (Wu et al., MLMI 2023, arXiv:2308.11298).
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources

import numpy as np

from data_prep.sources import CaseFacts
from mbh_jax.data.index import SPLIT_NAMES
from mbh_jax.errors import UserError
from mbh_jax.labels import FOREGROUND

METHODS = ("official", "patient")
"""`official`: BHSD's own 96/96, validation drawn from its training; `patient`: by fractions."""

DEFAULT_FRACTIONS = (0.7, 0.15, 0.15)
"""Share of the patients in training, validation and test."""


@cache
def official_sides() -> Mapping[str, frozenset[str]]:
    """Volume ids of BHSD's official `train` (96) and `test` (96) sides."""
    text = resources.files("data_prep").joinpath("bhsd_official_split.json").read_text()
    return {side: frozenset(names) for side, names in json.loads(text).items()}


def default_method(volume_ids: Sequence[str]) -> str:
    """`official` if all volumes are BHSD's and both its sides are there, else `patient`."""
    ids = set(volume_ids)
    sides = official_sides()
    known = ids <= sides["train"] | sides["test"]
    return "official" if known and ids & sides["train"] and ids & sides["test"] else "patient"


def check_fractions(fractions: Sequence[float]) -> None:
    """Raises UserError unless these are three shares above 0 that add up to 1."""
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise UserError(
            f"fractions {','.join(f'{value:g}' for value in fractions)}: give three numbers above "
            "0 for train,validation,test that add up to 1"
        )


def split_cases(
    facts: Sequence[CaseFacts], method: str, fractions: Sequence[float], seed: int
) -> dict[str, list[CaseFacts]]:
    """Divides cases into `SPLIT_NAMES`, stratified by the classes that patients have.

    Args:
        facts: all cases.
        method: one of `METHODS`.
        fractions: share of patients in training, validation and test (see `check_fractions`); of
            these `official` takes the second as validation's share of the official training side.
        seed: of the random order in which patients are considered.

    Returns:
        Each split's cases in the order of `facts`.

    Raises:
        UserError: if there are too few patients, or `official` is asked of other volumes than
            BHSD's.
    """
    classes_of = classes_of_patients(facts)
    if method == "official":
        side_of = _official_side_of_patients(facts)
        train = {name: value for name, value in classes_of.items() if side_of[name] == "train"}
        shares = {"train": 1 - fractions[1], "validation": fractions[1]}
        split_of = {name: "test" for name in classes_of if side_of[name] == "test"}
        split_of |= stratify(train, shares, seed)
    else:
        split_of = stratify(classes_of, dict(zip(SPLIT_NAMES, fractions, strict=True)), seed)
    return {
        split: [fact for fact in facts if split_of[fact.case.patient_id] == split]
        for split in SPLIT_NAMES
    }


def classes_of_patients(facts: Sequence[CaseFacts]) -> dict[str, frozenset[int]]:
    """The kinds of blood in any of a patient's volumes, by patient id in ascending order."""
    classes: dict[str, frozenset[int]] = {}
    for fact in sorted(facts, key=lambda fact: fact.case.volume_id):
        present = fact.pixels_per_class.sum(axis=0)
        found = frozenset(label for label in FOREGROUND if present[label])
        patient_id = fact.case.patient_id
        classes[patient_id] = classes.get(patient_id, frozenset()) | found
    return dict(sorted(classes.items()))


def stratify(
    classes_of: Mapping[str, frozenset[int]], shares: Mapping[str, float], seed: int
) -> dict[str, str]:
    """Iterative stratification (Sechidis, Tsoumakas and Vlahavas, ECML PKDD 2011, Algorithm 1).

    The rarest class that is still to be placed goes first: each of its patients to the part that
    lacks this class most, then to the one that lacks patients most, then by chance. A part left
    empty gets a patient of the largest one, of those with the fewest classes.

    Args:
        classes_of: the classes that each patient has.
        shares: each part's share of the patients, adding up to 1.
        seed: of the order of patients and of ties.

    Returns:
        The part of each patient.

    Raises:
        UserError: if there are fewer patients than parts.
    """
    if len(classes_of) < len(shares):
        raise UserError(
            f"{len(classes_of)} patients cannot be divided into {', '.join(shares)}: give at least "
            f"{len(shares)}"
        )
    rng = np.random.default_rng(seed)
    parts = list(shares)
    remaining = [list(classes_of)[index] for index in rng.permutation(len(classes_of))]
    wanted_patients = {part: shares[part] * len(remaining) for part in parts}
    patients_with = {
        label: sum(label in classes for classes in classes_of.values()) for label in FOREGROUND
    }
    wanted = {
        part: {label: shares[part] * patients_with[label] for label in FOREGROUND} for part in parts
    }
    part_of: dict[str, str] = {}

    def place(patient_id: str, part: str) -> None:
        part_of[patient_id] = part
        remaining.remove(patient_id)
        wanted_patients[part] -= 1
        for label in classes_of[patient_id]:
            wanted[part][label] -= 1

    while remaining:
        left = [
            (sum(label in classes_of[patient_id] for patient_id in remaining), label)
            for label in FOREGROUND
        ]
        rarest = min(((count, label) for count, label in left if count), default=(0, None))[1]
        chosen = [name for name in remaining if rarest is None or rarest in classes_of[name]]
        for patient_id in chosen:
            lacks = {
                part: (0.0 if rarest is None else wanted[part][rarest], wanted_patients[part])
                for part in parts
            }
            most = max(lacks.values())
            tied = [part for part in parts if lacks[part] == most]
            place(patient_id, tied[rng.integers(len(tied))])

    for part in parts:
        if part not in part_of.values():
            sizes = {name: list(part_of.values()).count(name) for name in parts}
            largest = max(parts, key=lambda name: sizes[name])
            movable = [name for name in classes_of if part_of[name] == largest]
            part_of[min(movable, key=lambda name: len(classes_of[name]))] = part
    return part_of


def _official_side_of_patients(facts: Sequence[CaseFacts]) -> dict[str, str]:
    sides = official_sides()
    side_of: dict[str, str] = {}
    for fact in facts:
        volume_id = fact.case.volume_id
        side = next((side for side, names in sides.items() if volume_id in names), None)
        if side is None:
            raise UserError(
                f"split official: {volume_id} is not one of BHSD's 192 volumes: give "
                "--split patient"
            )
        side_of[fact.case.patient_id] = side
    if set(side_of.values()) != set(sides):
        missing = next(side for side in sides if side not in side_of.values())
        raise UserError(
            f"split official: none of the volumes is on BHSD's {missing} side: give --split patient"
        )
    return side_of
