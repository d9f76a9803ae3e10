"""How long the scores of a case take, against MONAI and surface-distance where installed.

    python -m benchmarks.evaluation                      # 96 volumes of 512 x 512 x 32, 2 processes
    python -m benchmarks.evaluation --volumes 8 --phantoms 2 --compare 2

The references are masks of phantom heads, each used for several volumes. A prediction is the
reference moved by some voxels, with a class left out now and then and false blood added. It prints
the CPU seconds of one volume in one process, the seconds of all volumes in `--workers` processes
with the peak memory of a process after half of them and after all, and for `--compare` volumes the
CPU seconds of the distances alone, by surface voxels and by area elements, with the ratio to the
functions of the other libraries. That their values equal ours is checked.
"""

import argparse
import functools
import importlib.util
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from benchmarks import common
from data_prep.phantom.head import make_head
from mbh_jax.errors import one_line_errors
from mbh_jax.evaluation import surface
from mbh_jax.evaluation.case import score_case
from mbh_jax.imageio.volume import affine_spacing_mm, turn_affine_to_program, turn_to_program
from mbh_jax.labels import FOREGROUND
from mbh_jax.runtime.workers import worker_processes

TOLERANCES_MM = (1.0, 2.0)
MAX_SHIFT = (1, 6, 6)
"""A prediction is moved by at most so many slices, rows and columns."""
MISSED_SHARE = 0.15
"""How often a class is left out of a prediction."""


class Masks(NamedTuple):
    """A case: label volumes (slices, rows, columns) uint8, and their affine."""

    reference: np.ndarray
    prediction: np.ndarray
    affine: np.ndarray


class Scored(NamedTuple):
    """CPU seconds that a case took, and the peak memory of its process so far."""

    cpu_s: float
    peak_mb: float


class Pair(NamedTuple):
    """Two masks of a class, and the distances of voxels along (slice, row, column) in mm."""

    reference: np.ndarray
    prediction: np.ndarray
    spacing_mm: tuple[float, ...]

    @property
    def affine(self) -> np.ndarray:
        """The affine of that grid, at right angles as the other libraries assume."""
        return np.diag([*self.spacing_mm[::-1], 1.0])


class Metric(NamedTuple):
    """HD95 and surface Dice at 1 and 2 mm, by one kind of surface: ours and another library's."""

    name: str
    library: str
    ours: Callable[[Pair], tuple[float, ...]]
    theirs: Callable[[Pair], tuple[float, ...]]


def write_phantom(size: int, slices: int, folder: Path, index: int) -> Path:
    """Writes the mask of a phantom head in the program's orientation, and its affine."""
    head = make_head(0, index, size, "even", slices)
    path = folder / f"phantom_{index}.npz"
    label = turn_to_program(head.label, "LAS").astype(np.uint8)
    affine = turn_affine_to_program(head.affine, head.label.shape)
    np.savez_compressed(path, label=label, affine=affine)
    return path


def write_case(phantoms: Sequence[Path], folder: Path, index: int) -> Path:
    """Writes the masks of a case."""
    rng = np.random.default_rng(index)
    with np.load(phantoms[index % len(phantoms)]) as phantom:
        reference, affine = phantom["label"], phantom["affine"]
    shift = [int(rng.integers(-most, most + 1)) for most in MAX_SHIFT]
    prediction = np.roll(reference, shift, (0, 1, 2))
    for label in FOREGROUND:
        if rng.random() < MISSED_SHARE:
            prediction[prediction == label] = 0
    seeds = np.zeros(reference.shape, bool)
    seeds[tuple(rng.integers(0, reference.shape, (6, 3)).T)] = True
    false = ndimage.binary_dilation(seeds, iterations=4)
    prediction[false] = rng.choice(FOREGROUND)
    path = folder / f"case_{index}.npz"
    np.savez_compressed(path, reference=reference, prediction=prediction, affine=affine)
    return path


def read_case(path: Path) -> Masks:
    """Reads the masks of a case."""
    with np.load(path) as stored:
        return Masks(stored["reference"], stored["prediction"], stored["affine"])


def score(path: Path) -> Scored:
    """Scores a case with all metrics."""
    masks = read_case(path)
    start_s = time.process_time()
    score_case(*masks)
    cpu_s = time.process_time() - start_s
    kilobyte = 1 if sys.platform == "darwin" else 1024
    return Scored(cpu_s, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobyte / 1e6)


def pairs(masks: Masks) -> Iterator[Pair]:
    """The classes that both masks of a case have, and all blood."""
    spacing_mm = tuple(affine_spacing_mm(masks.affine)[::-1].tolist())
    both = [(masks.reference == c, masks.prediction == c) for c in FOREGROUND]
    both.append((masks.reference > 0, masks.prediction > 0))
    for reference, prediction in both:
        if reference.any() and prediction.any():
            yield Pair(reference, prediction, spacing_mm)


def _ours_by_voxels(pair: Pair) -> tuple[float, ...]:
    found = surface.voxel_distances(pair.reference, pair.prediction, pair.affine)
    return surface.hd95_mm(found), *(surface.surface_dice(found, mm) for mm in TOLERANCES_MM)


def _ours_by_areas(pair: Pair) -> tuple[float, ...]:
    found = surface.element_distances(pair.reference, pair.prediction, pair.affine)
    return tuple(surface.surface_dice(found, mm) for mm in TOLERANCES_MM)


def _monai(pair: Pair) -> tuple[float, ...]:
    import torch
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    reference, prediction = (
        torch.from_numpy(np.stack([~mask, mask])[None])
        for mask in (pair.reference, pair.prediction)
    )
    options = {"include_background": False, "spacing": pair.spacing_mm}
    found = [compute_hausdorff_distance(prediction, reference, percentile=95, **options)]
    found += [
        compute_surface_dice(prediction, reference, class_thresholds=[mm], **options)
        for mm in TOLERANCES_MM
    ]
    return tuple(float(one) for one in found)


def _surface_distance(pair: Pair) -> tuple[float, ...]:
    from surface_distance import metrics

    found = metrics.compute_surface_distances(pair.reference, pair.prediction, pair.spacing_mm)
    return tuple(metrics.compute_surface_dice_at_tolerance(found, mm) for mm in TOLERANCES_MM)


METRICS = (
    Metric("HD95, surface Dice by voxels", "monai", _ours_by_voxels, _monai),
    Metric("surface Dice by areas", "surface_distance", _ours_by_areas, _surface_distance),
)


def compare(metric: Metric, masks: Masks) -> tuple[float, float]:
    """CPU seconds of a case: ours and the other library's.

    Raises:
        SystemExit: the values differ.
    """
    ours_s = theirs_s = 0.0
    for pair in pairs(masks):
        start_s = time.process_time()
        ours = metric.ours(pair)
        middle_s = time.process_time()
        theirs = metric.theirs(pair)
        end_s = time.process_time()
        if not np.allclose(ours, theirs, atol=1e-4):
            raise SystemExit(f"error: {metric.library} gives {theirs} where ours gives {ours}")
        ours_s, theirs_s = ours_s + middle_s - start_s, theirs_s + end_s - middle_s
    return ours_s, theirs_s


def report(volumes: int, workers: int, compared: int, phantoms: Sequence[Path]) -> dict[str, Any]:
    """Measures everything, prints tables and returns what was found."""
    folder = phantoms[0].parent
    paths = [write_case(phantoms, folder, index) for index in range(volumes)]
    alone = common.Spread.of(score(path).cpu_s for path in paths[:compared])
    print(f"one volume in one process, of {min(compared, volumes)}: {alone:.2f} CPU s\n")
    with worker_processes(workers) as map_in_order:
        list(map_in_order(score, paths[:workers]))  # Starts the processes.
        start_s = time.perf_counter()
        scored = list(map_in_order(score, paths))
        wall_s = time.perf_counter() - start_s
    half, whole = (
        max(one.peak_mb for one in part) for part in (scored[: (volumes + 1) // 2], scored)
    )
    cpu_s = common.Spread.of(one.cpu_s for one in scored)
    header = ["volumes", "processes", "s", "CPU s a volume", "peak MB, half", "peak MB, all"]
    row = [volumes, workers, f"{wall_s:.1f}", f"{cpu_s:.2f}", f"{half:.0f}", f"{whole:.0f}"]
    print(common.table(header, [row]))
    found: dict[str, Any] = {
        "wall_s": wall_s,
        "cpu_s": [one.cpu_s for one in scored],
        "peak_mb": whole,
    }
    rows = []
    for metric in METRICS:
        if importlib.util.find_spec(metric.library) is None:
            print(f"\n{metric.library} is not installed: not compared")
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            times = [compare(metric, read_case(path)) for path in paths[:compared]]
        ours_s, theirs_s = (common.Spread.of(one) for one in zip(*times, strict=True))
        ratio = common.Spread.of(ours / theirs for ours, theirs in times)
        rows.append(
            [metric.name, metric.library, f"{ours_s:.2f}", f"{theirs_s:.2f}", f"{ratio:.2f}"]
        )
        found[metric.library] = times
    if rows:
        header = ["a volume", "library", "ours, CPU s", "library, CPU s", "ours / library"]
        print("\n" + common.table(header, rows))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evaluation", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--volumes", type=int, default=96, help="cases (default: 96)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--phantoms", type=int, default=8, help="different heads (default: 8)")
    parser.add_argument("--size", type=int, default=512, help="rows and columns (default: 512)")
    parser.add_argument("--slices", type=int, default=32, help="slices at most (default: 32)")
    parser.add_argument("--compare", type=int, default=4, help="cases to compare (default: 4)")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    chosen = parser.parse_args(arguments)
    machine = common.machine()
    print(common.describe_machine(machine, common.versions("numpy", "scipy")), end="\n\n")
    with one_line_errors(), tempfile.TemporaryDirectory() as name:
        write = functools.partial(write_phantom, chosen.size, chosen.slices, Path(name))
        with worker_processes(chosen.workers) as map_in_order:
            phantoms = list(map_in_order(write, range(chosen.phantoms)))
        found = report(chosen.volumes, chosen.workers, chosen.compare, phantoms)
    common.write_json(chosen.json, {"machine": machine, **found})


if __name__ == "__main__":
    main()
