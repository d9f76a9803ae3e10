"""Whose each volume is: as the user or a list says, or by patterns of names.

Volumes of one patient must stay in one split, or scores say how well patients are remembered. Names
are recognised as

    ID_<patient>_ID_<study>             BHSD
    sub-<patient>_ses-2, sub-<patient>_...                 BIDS
    patient3_scan1, case12_slice_3      what stands before scan, session, slice and the like, if it
                                        holds a digit
    0001_02, case12_3                   number_number, or name and number_number, if all names are
                                        like that and there are at least three patients

Of DICOM the header says it, before names do: patients are hashes of PatientID.

Any other volume counts as a patient by itself, which `assign` says.
"""

import csv
import dataclasses
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from data_prep.sources.cases import Case
from data_prep.sources.dicom_series import DicomImage
from data_prep.sources.files import SourceFile, normal_form
from data_prep.sources.pictures import PngImage
from mbh_jax import files
from mbh_jax.data.schema import VolumeFacts
from mbh_jax.errors import UserError

PATIENTS_FILE = "patients.csv"
"""A list that lies in a source itself; exports write it."""

COLUMNS = ("volume_id", "patient_id")
"""Of a list of patients."""

_WORDS = (
    "scan|session|ses|visit|study|series|exam|slice|image|img|frame|timepoint|time|tp|followup|fu"
)
_CLEAR = (
    re.compile(r"(ID_[0-9a-z]+)_ID_[0-9a-z]+.*"),
    re.compile(r"(sub-[0-9A-Za-z]+)(?:_.*)?"),
)
"""Patterns of names whose first group is the patient."""

_WORDED = re.compile(rf"(.*?\d.*?)[_-](?:{_WORDS})[_-]?\d*(?:[_-].*)?", re.IGNORECASE)
"""The same, unless all names have one and the same group: then it names the data set."""

_LIKELY = (re.compile(r"(\d+)[_-]\d+"), re.compile(r"([A-Za-z]+[_-]?\d+)[_-]\d+"))
"""The same, if all names match and the groups are `_MIN_PATIENTS` or more."""

_MIN_PATIENTS = 3
"""Fewer cannot be divided into three splits."""

Lookup = Callable[[Case], str | None]
"""Gives a case's patient, or None if it does not say."""


def list_rows(volumes: Iterable[VolumeFacts]) -> list[dict[str, str]]:
    """The rows of `PATIENTS_FILE`."""
    return [{"volume_id": info.volume_id, "patient_id": info.patient_id} for info in volumes]


def assign(
    cases: Sequence[Case], given: str | None, listed: SourceFile | None
) -> tuple[list[Case], tuple[str, ...]]:
    """Gives each case its patient.

    Args:
        cases: whose `patient_id` is the name that says which patient it is.
        given: the path of a CSV with the columns `COLUMNS`, or a regular expression that matches
            names and whose first group is the patient; None if nothing is given.
        listed: the source's own `PATIENTS_FILE`, if there is one.

    Returns:
        The cases, and lines that say how patients were found.

    Raises:
        UserError: if `given` cannot be read or says nothing of a case.
    """
    if given is not None:
        lookup = _by_csv(given) if given.lower().endswith(".csv") else _by_regex(given)
        found = _looked_up(cases, lookup)
        for case in cases:
            if case.volume_id not in found:
                raise UserError(f"--patients {given}: says nothing of {case.volume_id}: add it")
        return _with_patients(cases, found), (_counts(found, f"by --patients {given}"),)
    found = {}
    if listed is not None and (own_list := _by_own_list(listed)):
        found = _looked_up(cases, own_list)
    notes = [_counts(found, f"by {PATIENTS_FILE}")] if found else []
    if by_header := _by_headers([case for case in cases if case.volume_id not in found]):
        found |= by_header
        notes.append(_counts(by_header, "by PatientID of DICOM, hashed"))
    found |= _by_names([case for case in cases if case.volume_id not in found], notes)
    return _with_patients(cases, found), tuple(notes)


def _looked_up(cases: Sequence[Case], lookup: Lookup) -> dict[str, str]:
    return {case.volume_id: patient for case in cases if (patient := lookup(case))}


def _by_headers(cases: Sequence[Case]) -> dict[str, str]:
    return {
        case.volume_id: case.image.patient
        for case in cases
        if isinstance(case.image, DicomImage) and case.image.patient
    }


def _by_names(cases: Sequence[Case], notes: list[str]) -> dict[str, str]:
    """Patients by patterns of names; adds what was recognised to `notes`."""
    found: dict[str, str] = {}
    rest = list(cases)
    for pattern in (*_CLEAR, _WORDED, *_LIKELY):
        matches = {case.volume_id: pattern.fullmatch(case.patient_id) for case in rest}
        matched = {volume_id: match[1] for volume_id, match in matches.items() if match}
        patients = len(set(matched.values()))
        if pattern is _WORDED and len(matched) == len(cases) > patients == 1:
            continue
        if pattern in _LIKELY and (len(matched) < len(rest) or patients < _MIN_PATIENTS):
            continue
        if matched:
            example = next(iter(matched))
            notes.append(_counts(matched, f"by names: {example} is of patient {matched[example]}"))
        found |= matched
        rest = [case for case in rest if case.volume_id not in matched]
    names = list(dict.fromkeys(case.patient_id for case in rest))
    if len(names) > 1:
        is_pictures = all(isinstance(c.image, PngImage) and len(c.image.files) == 1 for c in rest)
        notes.append(
            f"warning: {len(rest)} {'pictures' if is_pictures else 'volumes'} are taken as "
            f"{len(names)} patients ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''}): "
            "give --patients if several are of one patient"
        )
    return found


def _counts(found: Mapping[str, str], how: str) -> str:
    return f"patients {how} ({len(found)} volumes of {len(set(found.values()))} patients)"


def _with_patients(cases: Sequence[Case], found: Mapping[str, str]) -> list[Case]:
    return [
        dataclasses.replace(case, patient_id=found.get(case.volume_id, case.patient_id))
        for case in cases
    ]


def _by_regex(given: str) -> Lookup:
    try:
        pattern = re.compile(given)
    except re.error as error:
        raise UserError(
            f"--patients {given}: neither a .csv file nor a regular expression ({error})"
        ) from None
    if not pattern.groups:
        raise UserError(
            f"--patients {given}: give a regular expression with the patient in brackets, such as "
            r"'(p\d+)_.*'"
        )

    def lookup(case: Case) -> str | None:
        match = pattern.search(case.patient_id)
        return match[1] if match else None

    return lookup


def _by_csv(given: str) -> Lookup:
    try:
        text = Path(files.user_path(given, "--patients")).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--patients {given}: cannot be read ({error})") from None
    patient_of = _parse(text)
    if patient_of is None:
        raise UserError(
            f"--patients {given}: give a line of column names with {' and '.join(COLUMNS)}, and "
            "each volume once"
        )
    return lambda case: patient_of.get(case.volume_id, patient_of.get(case.patient_id))


def _by_own_list(listed: SourceFile) -> Lookup | None:
    """None if it is a file of something else."""
    with listed.open() as stream:
        patient_of = _parse(stream.read().decode("utf-8-sig", "replace"))
    if patient_of is None:
        return None
    return lambda case: patient_of.get(case.volume_id, patient_of.get(case.patient_id))


def _parse(text: str) -> dict[str, str] | None:
    """Patients by volume id; None if a column or a value is missing, or a volume has two."""
    try:
        rows = list(csv.DictReader(io.StringIO(normal_form(text))))
    except csv.Error:
        return None
    patient_of: dict[str, str] = {}
    for row in rows:
        if not set(COLUMNS) <= row.keys():
            return None
        volume_id, patient_id = ((row[column] or "").strip() for column in COLUMNS)
        if not volume_id:
            return None
        if patient_of.setdefault(volume_id, patient_id) != patient_id:
            return None
    return patient_of or None
