"""A division listed in a file: `{"train": [...], "validation": [...], "test": [...]}` in JSON.

The names are volume ids or patient ids.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_prep.sources import Case
from data_prep.sources.files import normal_form
from mbh_jax.data.index import SPLIT_NAMES
from mbh_jax.errors import UserError


def read(path: Path) -> dict[str, str]:
    """The split of each name in the file.

    Raises:
        UserError: if it cannot be read, is laid out otherwise or lists a name twice.
    """
    try:
        lists = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--split {path}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise UserError(f"--split {path}: not JSON ({error})") from None
    is_lists = isinstance(lists, dict) and all(
        isinstance(names, list) and all(isinstance(name, str) for name in names)
        for names in lists.values()
    )
    if not is_lists or set(lists) != set(SPLIT_NAMES):
        raise UserError(
            f"--split {path}: give an object with three lists of volume or patient ids: "
            f"{', '.join(SPLIT_NAMES)}"
        )
    lists = {split: [normal_form(name) for name in names] for split, names in lists.items()}
    counts = Counter(name for names in lists.values() for name in names)
    for name, count in counts.items():
        if count > 1:
            raise UserError(f"--split {path}: {name} is listed {count} times: keep one")
    return {name: split for split, names in lists.items() for name in names}


def divide(listing: Mapping[str, str], cases: Sequence[Case]) -> dict[str, str]:
    """The split of each volume id: as its own name is listed or, if it is not, its patient's.

    Listed names that no case has are ignored, so that a listing serves parts of a data set.

    Args:
        listing: of `read`.
        cases: all that are to be divided.

    Raises:
        UserError: if a case is not listed, or a patient would be in two splits.
    """
    split_of: dict[str, str] = {}
    split_of_patient: dict[str, str] = {}
    for case in cases:
        volume_id, patient_id = case.volume_id, case.patient_id
        split = listing.get(volume_id, listing.get(patient_id))
        if split is None:
            raise UserError(
                f"--split: {volume_id} is not listed: add it or its patient {patient_id}"
            )
        other = split_of_patient.setdefault(patient_id, split)
        if other != split:
            raise UserError(
                f"--split: patient {patient_id} is in both {other} and {split}: keep all of a "
                "patient's volumes on one side"
            )
        split_of[volume_id] = split
    return split_of
