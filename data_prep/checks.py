"""What can be wrong with one head CT and its labels, as findings in one line each.

Pure functions of arrays and tables; `data_prep.verify` runs them over a dataset. A fatal finding
makes a dataset unfit; another one is a reason to look at the case.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from mbh_jax.data.schema import LabelledVolume, VolumeInfo
from mbh_jax.imageio.volume import affine_spacing_mm, voxel_volume_ml
from mbh_jax.labels import CLASS_NAMES, FOREGROUND, NUM_CLASSES

AIR_BELOW_HU = -300
"""Below soft tissue and fat (-100) with noise, above what is air only in part."""

MIN_COVERAGE_MM = 80.0
"""A head measures 110 to 160 mm from skull base to vertex."""

HU_LIMITS = (-1100, 3071)
"""Air with noise, and the most that 12 bits of a scanner hold."""

MAX_BLOOD_HU = 100.0
"""Clotted blood reaches 90 HU; what is denser is calcified, bone or contrast agent."""

IN_PLANE_LIMITS_MM = (0.2, 1.5)
SLICE_LIMITS_MM = (0.3, 12.0)
"""Usual spacing: what lies beyond is worth a look."""

POSSIBLE_IN_PLANE_MM = (0.05, 5.0)
POSSIBLE_SLICE_MM = (0.1, 30.0)
"""Spacing that no head CT exceeds: what lies beyond is in another unit, and mL would be wrong."""

_BRAIN_HU = (15, 60)
_MIN_BRAIN_FRACTION = 0.01
_MIN_VOXELS = 20
"""Fewer voxels of a class say too little about its density."""
_MAX_OUTSIDE_FRACTION = 0.05
_SAME_MM = 1e-3


@dataclass(frozen=True, order=True)
class Finding:
    """Something found wrong.

    Attributes:
        case: volume or patient id, file name, split, or "dataset".
        check: what was checked, in a few words.
        message: what was found.
        fatal: whether the dataset is unfit for training because of it.
    """

    case: str
    check: str
    message: str
    fatal: bool


def volume_findings(labelled: LabelledVolume, single_slices: bool) -> Iterator[Finding]:
    """Checks the pixels and geometry of one volume.

    Args:
        labelled: the volume.
        single_slices: volumes are single slices on purpose, and cover no head.
    """

    def finding(check: str, message: str, fatal: bool = False) -> Finding:
        return Finding(labelled.volume_id, check, message, fatal)

    hu, label = labelled.hu, labelled.label
    if label.max() >= NUM_CLASSES:
        message = f"label value {label.max()}: labels are 0 to {NUM_CLASSES - 1}"
        yield finding("label range", message, fatal=True)
    if hu.min() == hu.max():
        yield finding("empty image", f"all voxels are {hu.min()} HU", fatal=True)
        return
    for message in hu_notes(hu):
        yield finding("HU range", message)
    fatal, geometry = geometry_notes(labelled.affine, in_mm=labelled.spacing_known)
    for message in geometry:
        yield finding("spacing", message, fatal)
    if labelled.spacing_known and not fatal and not single_slices:
        coverage = coverage_mm(labelled.affine, len(hu))
        if coverage < MIN_COVERAGE_MM:
            yield finding("coverage", f"{coverage:.0f} mm of the head, less than 80 mm")
    if outside := outside_note(hu, label):
        yield finding("blood outside the head", outside)
    for message in density_notes(hu, label):
        yield finding("blood density", message)


def coverage_mm(affine: np.ndarray, num_slices: int) -> float:
    """Extent at right angles to the slices: a tilted gantry's sheared stack is less thick.

    The distance of two slices is |det| of the affine over the area of an in-plane voxel face.
    """
    columns = np.asarray(affine, np.float64)[:3, :3]
    face_mm2 = np.linalg.norm(np.cross(columns[:, 0], columns[:, 1]))
    return float(num_slices * abs(np.linalg.det(columns)) / face_mm2)


def geometry_notes(affine: np.ndarray, *, in_mm: bool = True) -> tuple[bool, list[str]]:
    """Whether an affine is unusable, and what is odd about its spacing.

    Args:
        affine: (4, 4).
        in_mm: whether it tells true millimetres.
    """
    affine = np.asarray(affine, np.float64)
    if not np.isfinite(affine).all() or not voxel_volume_ml(affine) > 0:
        return True, ["the affine is not finite or has no volume"]
    if not in_mm:
        return False, []
    *in_plane, between = affine_spacing_mm(affine)
    notes = []
    impossible = False
    for spacing, (low, high), (least, most), where in (
        (min(in_plane), IN_PLANE_LIMITS_MM, POSSIBLE_IN_PLANE_MM, "in plane"),
        (max(in_plane), IN_PLANE_LIMITS_MM, POSSIBLE_IN_PLANE_MM, "in plane"),
        (between, SLICE_LIMITS_MM, POSSIBLE_SLICE_MM, "between slices"),
    ):
        note = f"{spacing:.3g} mm {where}, usual are {low:g} to {high:g} mm"
        if not least <= spacing <= most:
            impossible = True
            note += ": in another unit, or a header that is wrong"
        if not low <= spacing <= high and note not in notes:
            notes.append(note)
    return impossible, notes


def hu_notes(hu: np.ndarray) -> list[str]:
    """What is odd about the Hounsfield units of a volume that is not constant."""
    low, high = int(hu.min()), int(hu.max())
    notes = []
    if low < HU_LIMITS[0] or high > HU_LIMITS[1]:
        notes.append(
            f"{low} to {high} HU, a scanner's are {HU_LIMITS[0]} to {HU_LIMITS[1]}: padding, metal "
            "or no HU"
        )
    if low > AIR_BELOW_HU:
        notes.append(f"{low} to {high} HU without air: clamped before conversion, or no HU")
    brain = ((hu >= _BRAIN_HU[0]) & (hu <= _BRAIN_HU[1])).mean()
    if brain < _MIN_BRAIN_FRACTION:
        notes.append(
            f"{brain:.2%} of the voxels are in {_BRAIN_HU[0]} to {_BRAIN_HU[1]} HU: no brain, or "
            "no HU"
        )
    return notes


def head_mask(hu: np.ndarray) -> np.ndarray:
    """The largest thing that is not air in a slice (H,W), its holes filled: (H,W) bool.

    Images clamped at 0 HU have no air: there, what is above the lowest value counts.
    """
    solid = hu > max(AIR_BELOW_HU, int(hu.min()))
    parts, num_parts = ndimage.label(solid)
    if num_parts == 0:
        return solid
    largest = np.argmax(np.bincount(parts.ravel())[1:]) + 1
    return ndimage.binary_fill_holes(parts == largest)


def outside_note(hu: np.ndarray, label: np.ndarray) -> str | None:
    """A line if more than a twentieth of the blood of a volume lies outside its head."""
    bleeding = np.flatnonzero(label.any(axis=(1, 2)))
    outside = {
        int(number): int((label[number].astype(bool) & ~head_mask(hu[number])).sum())
        for number in bleeding
    }
    fraction = sum(outside.values()) / max(int(np.count_nonzero(label)), 1)
    if fraction <= _MAX_OUTSIDE_FRACTION:
        return None
    worst = max(outside, key=lambda number: outside[number])
    return f"{fraction:.0%} of the blood lies outside the head, most of it in slice {worst}"


def density_notes(hu: np.ndarray, label: np.ndarray) -> list[str]:
    """Kinds of blood whose median is less dense than the volume's brain, or denser than blood."""
    brain = hu[(label == 0) & (hu >= _BRAIN_HU[0]) & (hu <= _BRAIN_HU[1])]
    brain_hu = float(np.median(brain)) if brain.size else float(_BRAIN_HU[0])
    notes = []
    for value in FOREGROUND:
        blood = hu[label == value]
        if blood.size < _MIN_VOXELS:
            continue
        median = float(np.median(blood))
        name = CLASS_NAMES[value]
        if median <= brain_hu:
            notes.append(
                f"{name} of median {median:.0f} HU is no denser than brain ({brain_hu:.0f})"
            )
        elif median > MAX_BLOOD_HU:
            notes.append(f"{name} of median {median:.0f} HU is denser than blood")
    return notes


def record_findings(info: VolumeInfo, records: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Compares a volume's decoded records, in stored order, with its row in metadata.json.

    Args:
        info: the row.
        records: as many as the volume has slices.
    """

    def finding(check: str, message: str) -> Finding:
        return Finding(info.volume_id, check, message, fatal=True)

    order = [int(record["slice_index"]) for record in records]
    if order != list(range(info.num_slices)):
        yield finding("slice order", f"stored are slices {_shown(order)} of {info.num_slices}")
        return
    texts = {"volume_id": info.volume_id, "patient_id": info.patient_id}
    for key, expected in texts.items():
        found = {_text(record[key]) for record in records} - {expected}
        if found:
            yield finding("identity", f"records of {key} {', '.join(sorted(found))}")
    for record, counts_of_row in zip(records, info.pixels_per_class, strict=True):
        where = f"slice {int(record['slice_index'])}"
        if int(record["num_slices"]) != info.num_slices:
            message = f"{where} says it is of {int(record['num_slices'])} slices"
            yield finding("slice order", message)
        if record["image"].shape != info.shape[1:] or record["label"].shape != info.shape[1:]:
            message = f"{where}: image {record['image'].shape}, label {record['label'].shape}"
            yield finding("shape", f"{message}, metadata.json {info.shape[1:]}")
        counts = np.bincount(record["label"].ravel(), minlength=NUM_CLASSES) * info.has_label
        if not np.array_equal(counts, record["pixels_per_class"]):
            yield finding("pixel counts", f"{where}: stored counts are not those of its label")
        elif not np.array_equal(counts, counts_of_row):
            yield finding("pixel counts", f"{where}: metadata.json's are not those of its label")
        if not np.array_equal(record["affine"], info.affine):
            yield finding("spacing", f"{where}: affine differs from metadata.json's")
        spacing_mm = affine_spacing_mm(record["affine"])
        if not np.allclose(record["spacing_mm"], spacing_mm, rtol=0, atol=_SAME_MM):
            yield finding("spacing", f"{where}: spacing is not that of its affine")
    if not np.allclose(info.listed_spacing_mm, info.spacing_mm, rtol=0, atol=_SAME_MM):
        yield finding("spacing", "metadata.json's spacing is not that of its affine")


def _shown(numbers: Sequence[int]) -> str:
    listed = ", ".join(map(str, numbers[:8]))
    return listed + (", ..." if len(numbers) > 8 else "")


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
