"""Masks in folders: which prediction belongs to which reference, read and scored in processes.

Whoever made the masks is scored by the same rules. Nothing of the training stack is imported.
"""

import dataclasses
import functools
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

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
from mbh_jax.labels import NUM_CLASSES
from mbh_jax.runtime.workers import worker_processes

VOLUME_SUFFIXES: tuple[str, ...] = (".nii.gz", ".nii")
PICTURE_SUFFIXES: tuple[str, ...] = (".png",)
"""What masks are known by, in lower case; pictures are masks only in a folder without volumes."""

SAME_GRID_VOXELS = 0.25
"""Two masks lie on one grid if no voxel is further apart than this."""

_PICTURE_FIX = "give the class colours or grey 0 to 5, without smoothed edges"

MIN_CASES_IN_PROCESSES = 4
"""Fewer cases are scored sooner than processes have started."""

LabelMap = Mapping[int, int]


class Reading(NamedTuple):
    """How masks are read.

    Attributes:
        reference_labels: our label of each value of a reference; None: they are ours.
        prediction_labels: likewise of a prediction.
        by_index: compare voxels of equal stored index although the affines differ; that of the
            reference gives the millimetres.
    """

    reference_labels: LabelMap | None = None
    prediction_labels: LabelMap | None = None
    by_index: bool = False


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
    paths = sorted(folder.iterdir())
    for suffixes in (VOLUME_SUFFIXES, PICTURE_SUFFIXES):
        for path in paths:
            suffix = next((end for end in suffixes if path.name.lower().endswith(end)), None)
            if suffix is None or path.name.startswith("."):
                continue
            if not _is_text(str(path)):
                raise UserError(f"{str(path)!a}: a name that is not UTF-8: rename it")
            if path.is_dir():
                raise UserError(f"{path}: a folder: give the mask itself as a file")
            name = path.name[: -len(suffix)]
            if name in found:
                raise UserError(f"{found[name]} and {path} are both called {name}: remove one")
            found[name] = path
        if found:
            return found  # Pictures beside volumes show them, as those of `mbh_jax.predict` do.
    ends = ", ".join((*VOLUME_SUFFIXES, *PICTURE_SUFFIXES))
    raise UserError(f"{folder}: holds no masks ({ends})")


def _is_text(name: str) -> bool:
    """Whether it can be written as UTF-8; a file's name may be any bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def score_folders(
    pairs: Sequence[Pair],
    reading: Reading,
    *,
    rules: Sequence[str] = (),
    workers: int | None = None,
) -> Iterator[ScoredCase]:
    """Scores cases in their order; a missing prediction counts as one without blood.

    Args:
        pairs: of `find_pairs`.
        reading: how masks are read.
        rules: challenges whose own scores are added.
        workers: processes that read and score; None: one for each core, and none beside this one
            for fewer cases than `MIN_CASES_IN_PROCESSES`.

    Raises:
        UserError: a mask cannot be read, has labels that there are not, or another grid; or a
            worker was killed.
    """
    score = functools.partial(score_pair, reading=reading, rules=tuple(rules))
    if workers is None:
        is_small = len(pairs) < MIN_CASES_IN_PROCESSES
        workers = 1 if is_small else min(len(os.sched_getaffinity(0)), len(pairs))
    with worker_processes(workers) as map_in_order:
        yield from map_in_order(score, pairs)


def score_pair(pair: Pair, reading: Reading, rules: tuple[str, ...]) -> ScoredCase:
    """Reads and scores one case; see `score_folders`."""
    reference, prediction = _read_masks(pair, reading)
    affine = reference.affine
    if prediction is None:
        nothing = np.zeros_like(reference.label)
        return score_masks(Masks(pair.case, reference.label, nothing, affine, rules))
    scored = score_masks(Masks(pair.case, reference.label, prediction.label, affine, rules))
    probabilities = prediction.path.with_name(f"{pair.case}.npz")
    is_ours = reading.reference_labels is None and reading.prediction_labels is None
    if is_ours and prediction.header is not None and probabilities.is_file():
        axcodes = prediction.header.axcodes
        return scored._replace(calibration=_calibration(probabilities, reference.label, axcodes))
    return scored


class _Mask(NamedTuple):
    """A mask that was read.

    Attributes:
        path: of its file.
        label: (slices, rows, columns) uint8.
        header: of the file, with the affine by which it was turned; None for a picture.
    """

    path: Path
    label: np.ndarray
    header: stored.Header | None

    @property
    def affine(self) -> np.ndarray | None:
        """(4, 4), voxel (column, row, slice) to mm; None for a picture."""
        if self.header is None:
            return None
        return turn_affine_to_program(self.header.affine, self.header.shape)


def _read_masks(pair: Pair, reading: Reading) -> tuple[_Mask, _Mask | None]:
    """Reference and prediction of a case, on one grid."""
    reference = _read(pair.reference, reading.reference_labels)
    if pair.prediction is None:
        return reference, None
    like = reference if reading.by_index else None
    prediction = _read(pair.prediction, reading.prediction_labels, like)
    shape = reference.label.shape
    if (reference.header is None) != (prediction.header is None):
        raise UserError(f"{pair.prediction}: a picture and a volume: give masks of one kind")
    if prediction.label.shape != shape:
        raise UserError(
            f"{pair.prediction}: {_shape(prediction.label)}, its reference {pair.reference.name} "
            f"{_shape(reference.label)}: give masks on one grid"
        )
    if reference.affine is not None and prediction.affine is not None:
        check_same_place(
            prediction.path, prediction.affine, reference.path, reference.affine, shape
        )
    return reference, prediction


def check_same_place(
    path: Path, affine: np.ndarray, other: Path, other_affine: np.ndarray, shape: tuple[int, ...]
) -> None:
    """Refuses a file whose voxels do not lie where those of another one do.

    Args:
        path: of the file.
        affine: (4, 4), its voxel (column, row, slice) to mm.
        other: the other file.
        other_affine: of that.
        shape: of both, slices, rows, columns.

    Raises:
        UserError: they are further apart than `SAME_GRID_VOXELS`.
    """
    apart_mm = affine_distance_mm(other_affine, affine, shape[::-1])
    if apart_mm > SAME_GRID_VOXELS * affine_spacing_mm(other_affine).min():
        raise UserError(
            f"{path}: by the affines its voxels lie up to {apart_mm:.1f} mm from those of "
            f"{other.name}: give files on one grid, or --by_index"
        )


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


def read_pair(pair: Pair, reading: Reading) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Reference and prediction of a case, (slices, rows, columns) uint8 each, and their affine."""
    reference, prediction = _read_masks(pair, reading)
    nothing = np.zeros_like(reference.label)
    return reference.label, nothing if prediction is None else prediction.label, reference.affine


def _shape(mask: np.ndarray) -> str:
    return _times(mask.shape[::-1])


def _times(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes))


def _read(path: Path, label_map: LabelMap | None, like: _Mask | None = None) -> _Mask:
    """Reads a mask; one that is stored on the shape of `like` is turned by the affine of that."""
    name = str(path)
    if path.name.lower().endswith(PICTURE_SUFFIXES):
        if label_map is not None:
            raise UserError(f"{path}: a picture has colours, not label values: leave --labels out")
        with path.open("rb") as stream:
            label = png.read_labels(stream, None, name, fix=_PICTURE_FIX)
        return _Mask(path, label[np.newaxis], None)
    header, voxels = nifti_file.read_stored(path, name)
    if label_map is not None:
        voxels = _translated(voxels, label_map, name)
    if like is not None and like.header is not None:
        if header.shape != like.header.shape:
            raise UserError(
                f"{path}: stored as {_times(header.shape)}, its reference {like.path.name} as "
                f"{_times(like.header.shape)}: --by_index needs equal ones"
            )
        header = dataclasses.replace(header, affine=like.header.affine)
    return _Mask(path, stored.to_label(header, voxels, name), header)


def _translated(voxels: np.ndarray, label_map: LabelMap, name: str) -> np.ndarray:
    values, inverse = np.unique(voxels, return_inverse=True)
    if unknown := [value for value in values.tolist() if value not in label_map]:
        raise UserError(
            f"{name}: label value {unknown[0]:g} is not in --labels or --prediction_labels: add it"
        )
    ours = np.array([label_map[int(value)] for value in values], np.uint8)
    return ours[inverse].reshape(voxels.shape)
