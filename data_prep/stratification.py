"""Dividing patients into parts so that every class is in each part by its share."""

from collections.abc import Mapping

import numpy as np

from mbh_jax.errors import UserError
from mbh_jax.labels import FOREGROUND


def stratify(
    classes_of: Mapping[str, frozenset[int]], shares: Mapping[str, float], seed: int
) -> dict[str, str]:
    """Iterative stratification (Sechidis, Tsoumakas and Vlahavas, ECML PKDD 2011, Algorithm 1).

    The rarest class that is still to be placed goes first: each of its patients to the part that
    lacks this class most, then to the one that lacks patients most, then by chance. Beyond the
    paper, a class's last patients are kept for parts that have none of it, so that a rare class is
    in every part where it can be, and a part left empty gets a patient of the largest one, of those
    with the fewest classes.

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
    seen_in: dict[str, set[int]] = {part: set() for part in parts}

    def place(patient_id: str, part: str) -> None:
        part_of[patient_id] = part
        remaining.remove(patient_id)
        wanted_patients[part] -= 1
        seen_in[part] |= classes_of[patient_id]
        for label in classes_of[patient_id]:
            wanted[part][label] -= 1

    while remaining:
        left = [
            (sum(label in classes_of[patient_id] for patient_id in remaining), label)
            for label in FOREGROUND
        ]
        rarest = min(((count, label) for count, label in left if count), default=(0, None))[1]
        chosen = [name for name in remaining if rarest is None or rarest in classes_of[name]]
        for number, patient_id in enumerate(chosen):
            without = [part for part in parts if rarest and rarest not in seen_in[part]]
            open_parts = without if 0 < len(chosen) - number <= len(without) else parts
            lacks = {
                part: (0.0 if rarest is None else wanted[part][rarest], wanted_patients[part])
                for part in open_parts
            }
            most = max(lacks.values())
            tied = [part for part in open_parts if lacks[part] == most]
            place(patient_id, tied[rng.integers(len(tied))])

    for part in parts:
        if part not in part_of.values():
            sizes = {name: list(part_of.values()).count(name) for name in parts}
            largest = max(parts, key=lambda name: sizes[name])
            movable = [name for name in classes_of if part_of[name] == largest]
            part_of[min(movable, key=lambda name: len(classes_of[name]))] = part
    return part_of
