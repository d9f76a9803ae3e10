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
            are `{"background": 0, "SDH": 1, ...}`. Value 0 is background.

    Raises:
        UserError: it cannot be read, or names a class that there is not.
    """
    try:
        content: Any = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a JSON file that can be read ({error})") from None
    wanted = '{"1": "EDH", ...}, or nnU-Net\'s dataset.json'
    if not isinstance(content, dict):
        raise UserError(f"{path}: give {wanted}")
    listed = content.get("labels", content)
    if not isinstance(listed, dict) or not listed:
        raise UserError(f"{path}: give {wanted}")
    by_value = all(str(key).isdigit() for key in listed)
    pairs = listed.items() if by_value else [(value, name) for name, value in listed.items()]
    labels = {0: 0}
    for value, name in pairs:
        if not str(value).isdigit() or str(name) not in CLASS_NAMES:
            names = ", ".join(CLASS_NAMES)
            raise UserError(f"{path}: {value!r} is {name!r}: give one of {names}")
        labels[int(value)] = CLASS_NAMES.index(str(name))
    return labels


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
        raise UserError(f"{path}: not a CSV file that can be read ({error})") from None
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
