"""Files beside masks: which label value is which class, and whose each case is."""

import csv
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mbh_jax.errors import UserError
from mbh_jax.labels import CLASS_NAMES


def read_label_map(path: Path) -> dict[int, int]:
    """Our label of each label value of other masks, from JSON.

    Args:
        path: `{"1": "SDH", ...}`, value to short name, or nnU-Net's dataset.json, whose "labels"
            are `{"background": 0, "SDH": 1, ...}`. Several values may be of one class; value 0 is
            background.

    Raises:
        UserError: it cannot be read, names a class that there is not, has a value that is no whole
            number (a region of nnU-Net), or gives 0 to blood.
    """
    try:
        content: Any = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a JSON file that can be read ({_reason(error)})") from None
    listed = content.get("labels", content) if isinstance(content, dict) else None
    if not isinstance(listed, dict) or not listed:
        raise UserError(f'{path}: give {{"1": "EDH", ...}}, or nnU-Net\'s dataset.json')
    by_value = all(key.isdecimal() for key in listed)
    pairs = listed.items() if by_value else [(value, name) for name, value in listed.items()]
    labels = {0: 0}
    for value, name in pairs:
        if name not in CLASS_NAMES:
            raise UserError(f"{path}: class {name!r}: give one of {', '.join(CLASS_NAMES)}")
        if not str(value).isdecimal():
            raise UserError(f"{path}: {name} has the value {value!r}: give a whole number")
        label = CLASS_NAMES.index(name)
        if int(value) == 0 and label != 0:
            raise UserError(f"{path}: value 0 is {name}: 0 must be background")
        labels[int(value)] = label
    return labels


def _reason(error: Exception) -> str:
    """What went wrong, without the path, which stands before it."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def read_patients(path: Path, cases: Collection[str]) -> dict[str, str]:
    """The patient of each case, from a CSV with the columns "volume_id" and "patient_id".

    That is the patients.csv which `data_prep` reads, and writes with its exports.

    Args:
        path: the file; cases that are not asked for may stand in it.
        cases: names of the cases.

    Raises:
        UserError: it cannot be read, lacks a column or a case, or names two patients for one.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV file that can be read ({_reason(error)})") from None
    patients: dict[str, str] = {}
    for row in rows:
        case, patient = row.get("volume_id"), row.get("patient_id")
        if not case or not patient:
            raise UserError(f"{path}: give volume_id and patient_id as columns, with no empty cell")
        if patients.setdefault(case, patient) != patient:
            raise UserError(f"{path}: {case} is of {patients[case]} and of {patient}: give one")
    if missing := sorted(set(cases) - patients.keys()):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"{path}: has no patient for {missing[0]}{more}: add a row")
    return patients
