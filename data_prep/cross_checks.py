"""What can be wrong between the volumes of a dataset: splits, patients, copies of slices."""

from collections.abc import Iterator, Mapping, Sequence

from data_prep.checks import Finding
from data_prep.splits import DIVIDING_METHODS
from mbh_jax.data.index import SPLIT_NAMES
from mbh_jax.data.schema import VolumeInfo
from mbh_jax.labels import CLASS_NAMES, FOREGROUND


def split_findings(volumes: Sequence[VolumeInfo], method: str) -> Iterator[Finding]:
    """Checks that splits share no patient, and what they hold.

    Args:
        volumes: the volume table.
        method: how the dataset was divided; those of `DIVIDING_METHODS` may divide patients.
    """
    splits_of: dict[str, set[str]] = {}
    seen: set[str] = set()
    for info in volumes:
        splits_of.setdefault(info.patient_id, set()).add(info.split)
        if info.volume_id in seen:
            yield Finding(info.volume_id, "identity", "two volumes of this id", fatal=True)
        seen.add(info.volume_id)
    divided = {patient: splits for patient, splits in splits_of.items() if len(splits) > 1}
    if divided and method in DIVIDING_METHODS:
        message = f"split {method}: {len(divided)} patients are in several splits"
        yield Finding("dataset", "patients", f"{message}, so test scores say little", fatal=False)
    else:
        for patient, splits in divided.items():
            names = " and ".join(name for name in SPLIT_NAMES if name in splits)
            yield Finding(patient, "patients", f"patient is in {names}", fatal=True)
    present = {split: _classes(volumes, split) for split in SPLIT_NAMES}
    if not any(present.values()):
        labelled = any(info.has_label for info in volumes)
        lacking = "blood" if labelled else "voxel labels"
        yield Finding("dataset", "blood", f"no volume has {lacking}: nothing to learn", fatal=True)
    elif not present["train"]:
        yield Finding("train", "blood", "no volume has blood: nothing to learn", fatal=True)
    for split in SPLIT_NAMES:
        if not any(info.split == split for info in volumes):
            yield Finding(split, "split", "no volumes", fatal=True)
        elif absent := [CLASS_NAMES[value] for value in FOREGROUND if value not in present[split]]:
            yield Finding(split, "split", f"no volume has {', '.join(absent)}", fatal=False)


def duplicate_findings(
    volumes: Sequence[VolumeInfo], hashes: Mapping[str, Sequence[tuple[int, int]]]
) -> Iterator[Finding]:
    """Slices of the same pixels.

    Args:
        volumes: the volume table.
        hashes: the places (volume number, slice index) of each hash of an image.
    """
    for places in hashes.values():
        first, *others = places
        for other in others:
            one, two = volumes[first[0]], volumes[other[0]]
            message = f"slice {other[1]} has the pixels of "
            message += f"slice {first[1]}" if one is two else f"{one.volume_id} slice {first[1]}"
            if one.patient_id != two.patient_id:
                message += f" of another patient ({one.split} and {two.split})"
            fatal = one.split != two.split
            yield Finding(two.volume_id, "duplicate pixels", message, fatal)


def _classes(volumes: Sequence[VolumeInfo], split: str) -> set[int]:
    """The kinds of blood in a split."""
    return {
        value
        for info in volumes
        if info.split == split
        for value in FOREGROUND
        if info.pixels_per_class[:, value].any()
    }
