"""The numbers of `data_prep.statistics`: what a converted dataset holds.

Millilitres are voxels times |det| of the affine; docs/data_prep.md says what that means for a
tilted gantry. "Brain" is what bone encloses and no label covers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from data_prep import dataset
from data_prep.checks import coverage_mm
from mbh_jax.data.index import SPLIT_NAMES, SliceIndex
from mbh_jax.imageio.volume import voxel_volume_ml
from mbh_jax.labels import CLASS_NAMES, FOREGROUND

HU_BINS = np.arange(-1024, 3072)
"""HU of each bin of a histogram; what lies outside counts to the outermost."""

NUM_HEIGHTS = 20
"""Parts of equal height that a scan is divided into, from inferior to superior."""

MIN_HEIGHT_SLICES = 5
"""Scans of fewer slices are excerpts, whose slices may come from anywhere in the head."""

BLOOD = tuple(CLASS_NAMES[value] for value in FOREGROUND)

_BONE_HU = 200
_RIM_PIXELS = 5
_PERCENTILES = (5, 25, 50, 75, 95)

VolumeRow = dict[str, Any]


def volume_rows(index: SliceIndex) -> list[VolumeRow]:
    """Facts of each volume; what needs millimetres is NaN where spacing is not known.

    `ml_<class>` and `ml_blood` are NaN without voxel labels. `coverage_mm` is at right angles to
    the slices and `tilt_deg` the angle between their normal and the scanner's axis.
    """
    rows = []
    for number, info in enumerate(index.volumes):
        in_mm = 1.0 if info.spacing_known else np.nan
        ml = index.pixels_per_class[index.volume == number].sum(axis=0) * (
            voxel_volume_ml(info.affine) * in_mm if info.has_label else np.nan
        )
        row = {
            "volume_id": info.volume_id,
            "patient_id": info.patient_id,
            "split": info.split,
            "slices": info.num_slices,
            "rows": info.shape[1],
            "columns": info.shape[2],
            "spacing_column_mm": float(info.spacing_mm[0]) * in_mm,
            "spacing_row_mm": float(info.spacing_mm[1]) * in_mm,
            "spacing_slice_mm": float(info.spacing_mm[2]) * in_mm,
            "voxel_ul": 1000 * voxel_volume_ml(info.affine) * in_mm,
            "coverage_mm": coverage_mm(info.affine, info.num_slices) * in_mm,
            "tilt_deg": tilt_deg(info.affine) * in_mm,
        }
        row |= {f"ml_{CLASS_NAMES[value]}": float(ml[value]) for value in FOREGROUND}
        row["ml_blood"] = float(ml[list(FOREGROUND)].sum())
        rows.append(row)
    return rows


def tilt_deg(affine: np.ndarray) -> float:
    """Angle between the normal of the slices and the scanner's axis, 0 to 90 degrees."""
    column, row = np.asarray(affine, np.float64)[:3, :2].T
    normal = np.cross(column, row)
    return float(np.degrees(np.arccos(min(1.0, abs(normal[2]) / np.linalg.norm(normal)))))


def split_counts(index: SliceIndex) -> dict[str, dict[str, Any]]:
    """Patients, volumes and slices of each split, and those that hold each kind of blood."""
    counts: dict[str, dict[str, Any]] = {}
    for number, split in enumerate(SPLIT_NAMES):
        in_split = index.split == number
        held = index.pixels_per_class[in_split][:, list(FOREGROUND)] > 0
        volume = index.volume[in_split]
        volumes = [info for info in index.volumes if info.split == split]
        counts[split] = {
            "patients": len({info.patient_id for info in volumes}),
            "volumes": len(volumes),
            "slices": int(in_split.sum()),
            "slices_with_blood": int(held.any(axis=1).sum()),
            "volumes_with_blood": len(np.unique(volume[held.any(axis=1)])),
            "slices_with": dict(zip(BLOOD, held.sum(axis=0).tolist(), strict=True)),
            "volumes_with": {
                name: len(np.unique(volume[held[:, column]])) for column, name in enumerate(BLOOD)
            },
        }
    return counts


def height_shares(index: SliceIndex) -> np.ndarray:
    """Share of the slices at each height of a scan that hold each kind of blood.

    Returns:
        (5, `NUM_HEIGHTS`) float64, from inferior to superior; NaN where there are no slices of
        scans of `MIN_HEIGHT_SLICES` or more.
    """
    num_slices = np.array([info.num_slices for info in index.volumes])[index.volume]
    counted = num_slices >= MIN_HEIGHT_SLICES
    height = ((index.slice_index + 0.5) / num_slices * NUM_HEIGHTS).astype(int)[counted]
    held = index.pixels_per_class[counted][:, list(FOREGROUND)] > 0
    slices = np.bincount(height, minlength=NUM_HEIGHTS)
    with np.errstate(invalid="ignore"):
        return np.stack(
            [np.bincount(height, column, minlength=NUM_HEIGHTS) / slices for column in held.T]
        )


def hu_histograms(index: SliceIndex) -> dict[str, np.ndarray]:
    """Voxels at each HU of `HU_BINS` of "brain" and of each kind of blood, int64."""
    histograms = {name: np.zeros(len(HU_BINS), np.int64) for name in ("brain", *BLOOD)}
    for _, labelled in dataset.read_volumes(index, "HU"):
        bins = np.clip(labelled.hu, HU_BINS[0], HU_BINS[-1]) - HU_BINS[0]
        for value in FOREGROUND:
            found = bins[labelled.label == value]
            histograms[CLASS_NAMES[value]] += np.bincount(found, minlength=len(HU_BINS))
        for hu, label, plane in zip(labelled.hu, labelled.label, bins, strict=True):
            found = plane[inside_skull(hu) & (label == 0)]
            histograms["brain"] += np.bincount(found, minlength=len(HU_BINS))
    return histograms


def inside_skull(hu: np.ndarray) -> np.ndarray:
    """What bone encloses in a slice (H,W), but for a rim where bone blurs into it: (H,W) bool.

    Gaps in the bone of less than twice the rim are closed; nothing where the skull is wide open.
    """
    bone = ndimage.binary_dilation(hu > _BONE_HU, iterations=_RIM_PIXELS)
    return ndimage.binary_fill_holes(bone) & ~bone


def histogram_summary(histogram: np.ndarray) -> dict[str, Any]:
    """Voxels, mean, standard deviation and percentiles of a histogram over `HU_BINS`, in HU."""
    voxels = int(histogram.sum())
    if not voxels:
        return {"voxels": 0}
    mean = float((HU_BINS * histogram).sum() / voxels)
    variance = float(((HU_BINS - mean) ** 2 * histogram).sum() / voxels)
    cumulative = np.cumsum(histogram)
    percentiles = {
        f"p{percent}": int(HU_BINS[np.searchsorted(cumulative, percent / 100 * voxels)])
        for percent in _PERCENTILES
    }
    return {"voxels": voxels, "mean": mean, "sd": variance**0.5, **percentiles}


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Number, mean, least, most and percentiles of the values that are not NaN."""
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    if not len(known):
        return {"n": 0}
    percentiles = zip(_PERCENTILES, np.percentile(known, _PERCENTILES), strict=True)
    return {
        "n": len(known),
        "mean": known.mean(),
        "min": known.min(),
        **{f"p{percent}": value for percent, value in percentiles},
        "max": known.max(),
    }


def statistics(
    index: SliceIndex, rows: Sequence[VolumeRow], histograms: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """The content of statistics.json.

    Args:
        index: the dataset.
        rows: of `volume_rows`.
        histograms: of `hu_histograms`.
    """
    millilitres = {name: [row[f"ml_{name}"] for row in rows] for name in (*BLOOD, "blood")}
    geometry = (
        *("spacing_column_mm", "spacing_row_mm", "spacing_slice_mm"),
        *("voxel_ul", "coverage_mm", "tilt_deg"),
    )
    return {
        "fingerprint": index.fingerprint,
        "split": index.split_method,
        "counts": split_counts(index),
        "blood_ml_where_present": {
            name: summary([value for value in values if value > 0])
            for name, values in millilitres.items()
        },
        "hu": {name: histogram_summary(histogram) for name, histogram in histograms.items()},
        "slices_a_volume": summary([row["slices"] for row in rows]),
        **{name: summary([row[name] for row in rows]) for name in geometry},
        "share_of_slices_by_height": dict(zip(BLOOD, height_shares(index), strict=True)),
    }
