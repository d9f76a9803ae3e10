"""Masks of whole scans, from one trained network or from several that vote."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mbh_jax.data import neighbours
from mbh_jax.data.batch import slice_batches
from mbh_jax.data.neighbours import Stack
from mbh_jax.errors import UserError
from mbh_jax.imageio import readers, windows
from mbh_jax.imageio.volume import Volume
from mbh_jax.inference import tiles
from mbh_jax.inference.measure import (
    Measurement,
    clipped_warnings,
    measure,
    remove_small_lesions,
    warnings,
)
from mbh_jax.inference.steps import create_prediction_step
from mbh_jax.labels import NUM_CLASSES
from mbh_jax.log import log
from mbh_jax.runtime.parallel import (
    Parallel,
    compile_eval_step,
    map_batches,
)
from mbh_jax.training import memory
from mbh_jax.training.network import Network, TrainedNetwork

PyTree = Any

BATCH_SIZE = 4
"""Slices that each device predicts at a time, unless another number is given."""


class Prediction(NamedTuple):
    """What was found in a scan.

    Attributes:
        volume: the scan, in the program's orientation.
        mask: (slices, rows, columns) uint8 label values on the same grid.
        measurements: by the short names of the classes, and "any", all blood together.
        warnings: what makes the prediction doubtful, one sentence each.
        probabilities: (K, slices, rows, columns) float16, by label value, if they were kept.
    """

    volume: Volume
    mask: np.ndarray
    measurements: dict[str, Measurement]
    warnings: list[str]
    probabilities: np.ndarray | None = None

    @property
    def ml(self) -> dict[str, float]:
        """Millilitres by the short names of the classes, and "any"; NaN of pictures."""
        return {name: one.ml for name, one in self.measurements.items()}

    @property
    def pixels(self) -> dict[str, int]:
        """Pixels of all slices by the short names of the classes, and "any"."""
        return {name: one.num_pixels for name, one in self.measurements.items()}


def batch_size_on(parallel: Parallel, batch_size: int | None) -> int:
    """Slices predicted at a time: `batch_size`, or by default `BATCH_SIZE` on each device.

    Raises:
        UserError: it does not divide over the devices.
    """
    if batch_size is None:
        return BATCH_SIZE * parallel.mesh.size
    if batch_size < 1 or batch_size % parallel.mesh.size:
        raise UserError(
            f"--batch_size {batch_size}: give a multiple of the {parallel.mesh.size} devices"
        )
    return batch_size


def least_batch_size(parallel: Parallel) -> int:
    """One slice on each device: the batch of a single slice."""
    return parallel.mesh.size


def compile_step(
    networks: Sequence[Network],
    parallel: Parallel,
    *,
    mirror: bool,
    use_tiles: bool,
    with_probabilities: bool,
) -> Callable:
    """`create_prediction_step`, compiled when it is called."""
    step = create_prediction_step(
        networks, mirror=mirror, use_tiles=use_tiles, with_probabilities=with_probabilities
    )
    return compile_eval_step(step, parallel)


class Predictor:
    """Predicts masks, compiled once for each image size.

    Args:
        networks: trained networks; of several, the mean of their probabilities decides.
        parallel: the devices.
        batch_size: slices predicted at a time, a multiple of the number of devices; by default
            `BATCH_SIZE` on each of them.
        mirror: also predict every slice mirrored left to right, and average the probabilities.
        use_tiles: predict slices that are larger than a network's image size in overlapping tiles
            at their own resolution, instead of resizing them.
        keep_probabilities: predictions hold the probabilities too.
        min_lesion_ml: lesions of a class that are smaller are removed; 0: none are.
        step: of `compile_step` for these networks and options, where it is there already.

    Raises:
        UserError: the batch size does not divide over the devices, or `min_lesion_ml` is negative.
    """

    def __init__(
        self,
        networks: Sequence[TrainedNetwork],
        parallel: Parallel,
        *,
        batch_size: int | None = None,
        mirror: bool = False,
        use_tiles: bool = False,
        keep_probabilities: bool = False,
        min_lesion_ml: float = 0.0,
        step: Callable | None = None,
    ):
        if not 0 <= min_lesion_ml < float("inf"):
            raise UserError(f"--min_lesion_ml={min_lesion_ml:g}: give 0 or more millilitres")
        self.networks = tuple(networks)
        self._parallel = parallel
        self.batch_size = batch_size_on(parallel, batch_size)
        self._use_tiles = use_tiles
        self._keep_probabilities = keep_probabilities
        self._min_lesion_ml = min_lesion_ml
        self._tiled_sizes: set[tuple[int, int]] = set()
        self._batched_sizes: set[tuple[int, ...]] = set()
        self._said: set[str] = set()
        presets = [windows.PRESETS[one.network.config.data.window] for one in networks]
        self._shown = [
            (
                min(window.range_hu[0] for window in channels),
                max(window.range_hu[1] for window in channels),
            )
            for channels in presets
        ]
        self._settings, _ = neighbours.channels_of(
            [neighbours.setting_of(one.network.config.data) for one in networks]
        )
        # Variables in one tree, so that a compiled step takes all of them.
        self._variables = [trained.variables for trained in networks]
        self._step = step or compile_step(
            [trained.network for trained in networks],
            parallel,
            mirror=mirror,
            use_tiles=use_tiles,
            with_probabilities=keep_probabilities,
        )

    def predict(self, scan: Volume | os.PathLike | str) -> Prediction:
        """What is found in a scan.

        Args:
            scan: a volume, or a file or folder with one scan, of any kind that
                `mbh_jax.imageio.readers` reads, also a picture.

        Raises:
            UserError: it cannot be read, a folder holds several, or `check` refuses it.
        """
        if not isinstance(scan, Volume):
            scan = readers.read_scan(Path(scan))
        self.check(scan)
        return self.describe(scan, *self.predict_slices(scan.hu, [neighbours.stack_of(scan)]))

    def check(self, scan: Volume) -> None:
        """Refuses a scan whose lesions cannot be measured where small ones are to be removed.

        Raises:
            UserError: it is one.
        """
        if self._min_lesion_ml and not scan.spacing_known:
            raise UserError(
                "the distances of its pixels and slices are not known, so lesions cannot be "
                "measured in mL: leave out --min_lesion_ml"
            )

    def describe(
        self, scan: Volume, mask: np.ndarray, probabilities: np.ndarray | None = None
    ) -> Prediction:
        """What is said about a scan once its slices are predicted: work for the host alone.

        Args:
            scan: the volume.
            mask, probabilities: as `predict_slices` returned them; `mask` is changed where small
                lesions are to be removed.
        """
        if self._min_lesion_ml:
            remove_small_lesions(mask, self._min_lesion_ml, scan.affine, scan.slice_mm)
        affine = scan.affine if scan.spacing_known else None
        measurements = measure(mask, affine, scan.slice_mm)
        trained_on = [one.spacing for one in self.networks if one.spacing is not None]
        clipped = clipped_warnings(scan.hu, self._shown)
        for text in [text for text in clipped if text not in self._said]:
            self._said.add(text)
            log.warning("warning (logged once, see the warnings of each scan): %s", text)
        doubts = [*clipped, *warnings(scan, mask, trained_on)]
        return Prediction(scan, mask, measurements, doubts, probabilities)

    def predict_volumes(
        self, scans: Sequence[Volume]
    ) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """`predict_slices` of scans whose slices have one size, as if they were one scan."""
        mask, probabilities = self.predict_slices(
            np.concatenate([scan.hu for scan in scans]),
            [neighbours.stack_of(scan) for scan in scans],
        )
        ends = np.cumsum([len(scan.hu) for scan in scans])[:-1]
        masks = np.split(mask, ends)
        if probabilities is None:
            return [(one, None) for one in masks]
        return list(zip(masks, np.split(probabilities, ends, axis=1), strict=True))

    def predict_mask(self, hu: np.ndarray, affine: np.ndarray | None = None) -> np.ndarray:
        """The mask of a scan, with lesions of every size.

        Args:
            hu: (slices, rows, columns) integer Hounsfield units, in the program's orientation
                (`mbh_jax.imageio.volume`).
            affine: (4, 4), voxel (column, row, slice) to RAS+ mm, for networks that see
                neighbouring slices; None where it is not known.

        Returns:
            (slices, rows, columns) uint8 label values.
        """
        return self.predict_slices(hu, [Stack(len(hu), affine)])[0]

    def predict_slices(
        self, hu: np.ndarray, stacks: Sequence[Stack] | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Masks of one scan or of several, and the probabilities if they are kept.

        Args:
            hu: (slices, rows, columns), the slices of all scans; see `predict_mask`.
            stacks: what is known of each scan, in their order, for networks that see neighbouring
                slices; None: one scan whose affine is not known.

        Returns:
            (slices, rows, columns) uint8 label values, and (K, slices, rows, columns) float16 or
            None.
        """
        if self._use_tiles:
            self._note_tiles(*hu.shape[1:])
        mask = np.empty(hu.shape, np.uint8)
        probabilities = (
            np.empty((NUM_CLASSES, *hu.shape), np.float16) if self._keep_probabilities else None
        )
        batch_size = self._batch_size_of(hu.shape)
        stacks = stacks or [Stack(len(hu), None)]
        beside = [neighbours.of_stacks(stacks, one) for one in self._settings]
        batches = slice_batches(hu, batch_size, beside)
        with memory.device_memory_errors("give less than --batch_size"):
            found = map_batches(self._step, self._variables, batches, self._parallel)
            for number, (_, rows) in enumerate(found):
                start = number * batch_size
                left = len(hu) - start
                mask[start : start + batch_size] = rows["mask"][:left]
                if probabilities is not None:
                    by_class = rows["probabilities"][:left].swapaxes(0, 1)
                    probabilities[:, start : start + batch_size] = by_class
        return mask, probabilities

    def _batch_size_of(self, shape: tuple[int, ...]) -> int:
        """The least for a single slice, as of a picture, unless its size is compiled for more."""
        num_slices, *size = shape
        least = least_batch_size(self._parallel)
        if num_slices <= least and tuple(size) not in self._batched_sizes:
            return least
        self._batched_sizes.add(tuple(size))
        return self.batch_size

    def _note_tiles(self, height: int, width: int) -> None:
        """Logs, once for each image size, what tiles of it show the network."""
        sizes = sorted({trained.network.config.data.image_size for trained in self.networks})
        smaller = [size for size in sizes if tiles.is_tiled(height, width, size)]
        if smaller and (height, width) not in self._tiled_sizes:
            self._tiled_sizes.add((height, width))
            log.info(
                "slices of %d x %d are predicted in tiles of %s at their own resolution: for "
                "networks that were trained on slices of this resolution",
                height,
                width,
                ", ".join(f"{size} x {size}" for size in smaller),
            )
