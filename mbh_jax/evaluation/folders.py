"""Masks in folders: which prediction belongs to which reference, read and scored in processes.

Whoever made the masks is scored by the same rules. Nothing of the training stack is imported.
"""

import functools
import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mbh_jax.errors import UserError
from mbh_jax.evaluation.calibration import VolumeCalibration, volume_calibration
from mbh_jax.evaluation.case_table import Masks, ScoredCase, score_masks
from mbh_jax.imageio import nifti_file, png, stored
from mbh_jax.imageio.volume import (
    affine_distance_mm,
    affine_spacing_mm,
    turn_affine_to_program,
    turn_to_program,
)
from mbh_jax.labels import CLASS_NAMES, NUM_CLASSES
from mbh_jax.runtime.workers import worker_processes

SUFFIXES = (".nii.gz", ".nii", ".png")
"""What a mask is known by, in lower case."""

SAME_GRID_VOXELS = 0.25
"""Two masks lie on one grid if no voxel is further apart than this."""

MIN_CASES_IN_PROCESSES = 4
"""Fewer cases are scored sooner than processes have started."""

LabelMap = Mapping[int, int]


class Pair(NamedTuple):
    """A case: its reference, and its prediction, or None where that is missing."""

    case: str
    reference: Path
    prediction: Path | None


def find_pairs(predictions: Path, references: Path) -> tuple[list[Pair], list[str]]:
    """The cases of a folder of references, and the names of predictions without a reference.

    A mask is called by its file's name without the suffix.

    Raises:
        UserError: a folder does not exist or holds no masks, two masks of a folder have one name,
            or no name is in both.
    """
    predicted, true = _masks(predictions), _masks(references)
    if not predicted.keys() & true.keys():
        raise UserError(
            f"{predictions} and {references} have no names in common (such as "
            f"{min(predicted)} and {min(true)}): a prediction must be called as its reference is"
        )
    pairs = [Pair(case, path, predicted.get(case)) for case, path in sorted(true.items())]
    return pairs, sorted(predicted.keys() - true.keys())


def _masks(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        suffix = next((end for end in SUFFIXES if path.name.lower().endswith(end)), None)
        if suffix is None or path.name.startswith(".") or not path.is_file():
            continue
        name = path.name[: -len(suffix)]
        if name in found:
            raise UserError(f"{found[name]} and {path} are both called {name}: remove one")
        found[name] = path
    if not found:
        raise UserError(f"{folder}: holds no masks ({', '.join(SUFFIXES)})")
    return found


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


def score_folders(
    pairs: Sequence[Pair],
    *,
    label_map: LabelMap | None = None,
    rules: Sequence[str] = (),
    by_index: bool = False,
    workers: int | None = None,
) -> Iterator[ScoredCase]:
    """Scores cases in their order; a missing prediction counts as one without blood.

    Args:
        pairs: of `find_pairs`.
        label_map: our label of each value of both masks; None: they are ours.
        rules: challenges whose own scores are added.
        by_index: compare voxels of equal index although affines differ; those of the reference
            give the millimetres.
        workers: processes that read and score; None: one for each core, and none beside this one
            for fewer cases than `MIN_CASES_IN_PROCESSES`.

    Raises:
        UserError: a mask cannot be read, has labels that there are not, or another grid; or a
            worker was killed.
    """
    score = functools.partial(
        score_pair, label_map=label_map, rules=tuple(rules), by_index=by_index
    )
    if workers is None:
        is_small = len(pairs) < MIN_CASES_IN_PROCESSES
        workers = 1 if is_small else min(len(os.sched_getaffinity(0)), len(pairs))
    with worker_processes(workers) as map_in_order:
        yield from map_in_order(score, pairs)


def score_pair(
    pair: Pair, *, label_map: LabelMap | None, rules: tuple[str, ...], by_index: bool
) -> ScoredCase:
    """Reads and scores one case; see `score_folders`."""
    reference, affine, _ = _read(pair.reference, label_map)
    if pair.prediction is None:
        return score_masks(Masks(pair.case, reference, np.zeros_like(reference), affine, rules))
    prediction, predicted_affine, axcodes = _read(pair.prediction, label_map)
    if prediction.shape != reference.shape:
        raise UserError(
            f"{pair.prediction}: {_shape(prediction)}, its reference {pair.reference.name} "
            f"{_shape(reference)}: give masks on one grid"
        )
    if (affine is None) != (predicted_affine is None):
        raise UserError(f"{pair.prediction}: a picture and a volume: give masks of one kind")
    if affine is not None and predicted_affine is not None and not by_index:
        apart_mm = affine_distance_mm(affine, predicted_affine, reference.shape[::-1])
        if apart_mm > SAME_GRID_VOXELS * affine_spacing_mm(affine).min():
            raise UserError(
                f"{pair.prediction}: by the affines its voxels lie up to {apart_mm:.1f} mm from "
                f"those of {pair.reference.name}: give masks on one grid, or --by_index"
            )
    scored = score_masks(Masks(pair.case, reference, prediction, affine, rules))
    probabilities = pair.prediction.with_name(f"{pair.case}.npz")
    if label_map is None and axcodes and probabilities.is_file():
        return scored._replace(calibration=_calibration(probabilities, reference, axcodes))
    return scored


def _calibration(path: Path, reference: np.ndarray, axcodes: str) -> VolumeCalibration:
    """Of probabilities as `mbh_jax.predict --save_probabilities` and nnU-Net write them."""
    try:
        with np.load(path) as archive:
            stored_axes = archive["probabilities"]
        by_class = [turn_to_program(one.transpose(2, 1, 0), axcodes) for one in stored_axes]
        probabilities = np.stack(by_class, -1)
        if probabilities.shape != (*reference.shape, NUM_CLASSES):
            raise ValueError(f"shape {stored_axes.shape}")
        return volume_calibration(probabilities, reference)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: not the probabilities of its mask ({error}): give (6, k, j, i), or remove it"
        ) from None


def read_pair(pair: Pair, label_map: LabelMap | None) -> tuple[np.ndarray, np.ndarray]:
    """Reference and prediction of a case, (slices, rows, columns) uint8 each."""
    reference, *_ = _read(pair.reference, label_map)
    if pair.prediction is None:
        return reference, np.zeros_like(reference)
    return reference, _read(pair.prediction, label_map)[0]


def _shape(mask: np.ndarray) -> str:
    return " x ".join(map(str, mask.shape[::-1]))


def _read(path: Path, label_map: LabelMap | None) -> tuple[np.ndarray, np.ndarray | None, str]:
    """Labels (slices, rows, columns) uint8, affine and stored orientation, which pictures lack."""
    name = str(path)
    if path.name.lower().endswith(".png"):
        if label_map is not None:
            raise UserError(f"{path}: --labels is for volumes: a picture has colours")
        with path.open("rb") as stream:
            return png.read_labels(stream, None, name)[np.newaxis], None, ""
    header, voxels = nifti_file.read_stored(path, name)
    if label_map is not None:
        voxels = _translated(voxels, label_map, name)
    affine = turn_affine_to_program(header.affine, header.shape)
    return stored.to_label(header, voxels, name), affine, header.axcodes


def _translated(voxels: np.ndarray, label_map: LabelMap, name: str) -> np.ndarray:
    values, inverse = np.unique(voxels, return_inverse=True)
    if unknown := [value for value in values.tolist() if value not in label_map]:
        raise UserError(f"{name}: label value {unknown[0]:g} is not in --labels")
    ours = np.array([label_map[int(value)] for value in values], np.uint8)
    return ours[inverse].reshape(voxels.shape)
