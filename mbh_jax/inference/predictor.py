"""Masks of whole scans, from one trained network or from several that vote."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mbh_jax import files
from mbh_jax.data import preprocess
from mbh_jax.data.batch import slice_batches
from mbh_jax.errors import UserError
from mbh_jax.imageio import readers
from mbh_jax.imageio.volume import Volume
from mbh_jax.inference.measure import Measurement, measure, warnings
from mbh_jax.runtime import distributed
from mbh_jax.runtime.parallel import (
    Parallel,
    compile_eval_step,
    create_parallel,
    map_batches,
)
from mbh_jax.training import memory
from mbh_jax.training.network import Network, TrainedNetwork, restore_network

PyTree = Any


class Prediction(NamedTuple):
    """What was found in a scan.

    Attributes:
        volume: the scan, in the program's orientation.
        mask: (slices, rows, columns) uint8 label values on the same grid.
        measurements: by the short names of the classes, and "any", all blood together.
        warnings: what makes the prediction doubtful, one sentence each.
    """

    volume: Volume
    mask: np.ndarray
    measurements: dict[str, Measurement]
    warnings: list[str]

    @property
    def ml(self) -> dict[str, float]:
        """Millilitres by the short names of the classes, and "any"."""
        return {name: one.ml for name, one in self.measurements.items()}


class Predictor:
    """Predicts masks, compiled once for each image size.

    Args:
        networks: trained networks; of several, the mean of their probabilities decides.
        parallel: the devices.
        batch_size: slices predicted at a time, a multiple of the number of devices.
        mirror: also predict every slice mirrored left to right, and average the probabilities.

    Raises:
        UserError: the batch size does not divide over the devices.
    """

    def __init__(
        self,
        networks: Sequence[TrainedNetwork],
        parallel: Parallel,
        *,
        batch_size: int = 4,
        mirror: bool = False,
    ):
        if batch_size < 1 or batch_size % parallel.mesh.size:
            raise UserError(
                f"--batch_size {batch_size}: give a multiple of the {parallel.mesh.size} devices"
            )
        self.networks = tuple(networks)
        self._parallel = parallel
        self._batch_size = batch_size
        # Variables in one tree, so that a compiled step takes all of them.
        self._variables = [trained.variables for trained in networks]
        step = create_mask_step([trained.network for trained in networks], mirror=mirror)
        self._step = compile_eval_step(step, parallel)

    def predict(self, scan: Volume | os.PathLike | str) -> Prediction:
        """What is found in a scan.

        Args:
            scan: a volume, or a file or folder with one scan, NIfTI or DICOM.

        Raises:
            UserError: it cannot be read, or a folder holds several.
        """
        if not isinstance(scan, Volume):
            scan = readers.read_scan(Path(scan))
        mask = self.predict_mask(scan.hu)
        measurements = measure(mask, scan.affine, scan.slice_mm)
        trained_on = [one.spacing for one in self.networks if one.spacing is not None]
        return Prediction(scan, mask, measurements, warnings(scan, mask, trained_on))

    def predict_mask(self, hu: np.ndarray) -> np.ndarray:
        """The mask of a scan.

        Args:
            hu: (slices, rows, columns) integer Hounsfield units, in the program's orientation
                (`mbh_jax.imageio.volume`).

        Returns:
            (slices, rows, columns) uint8 label values.
        """
        batches = slice_batches(hu, self._batch_size)
        with memory.device_memory_errors("give less than --batch_size"):
            masks = [
                rows
                for _, rows in map_batches(self._step, self._variables, batches, self._parallel)
            ]
        return np.concatenate(masks)[: len(hu)]


def load(
    *workdirs: os.PathLike | str,
    checkpoint: str = "best",
    batch_size: int = 4,
    mirror: bool = False,
) -> Predictor:
    """The networks of one or several runs or bundles, ready to predict on this machine's devices.

    Args:
        workdirs: the runs' folders, or bundles; of several, their mean probabilities decide.
        checkpoint: "best" or "last".
        batch_size: slices predicted at a time.
        mirror: also predict every slice mirrored left to right, and average.

    Raises:
        UserError: one of them holds no run, is no bundle, or has no such checkpoint.
    """
    distributed.start_devices()
    parallel = create_parallel("jit")
    networks = [
        restore_network(
            files.user_path(os.fspath(workdir), "model"), parallel, checkpoint=checkpoint
        )
        for workdir in workdirs
    ]
    return Predictor(networks, parallel, batch_size=batch_size, mirror=mirror)


def create_mask_step(
    networks: Sequence[Network], *, mirror: bool
) -> Callable[[list[PyTree], PyTree], jax.Array]:
    """A step `(variables of each network, batch) -> (B,H,W) uint8`.

    One network without mirroring predicts what evaluation scores: the most probable class of its
    resized logits. Otherwise probabilities are averaged, each resized to the scan's grid.
    """

    def mean_probabilities(variables: list[PyTree], hu: jax.Array) -> jax.Array:
        probabilities = []
        for network, weights in zip(networks, variables, strict=True):
            views = [(hu, False), (hu[:, :, ::-1], True)] if mirror else [(hu, False)]
            for view, mirrored in views:
                found = jax.nn.softmax(network.logits(weights, view))
                found = preprocess.resize_logits(found, *hu.shape[1:3])
                probabilities.append(found[:, :, ::-1] if mirrored else found)
        return sum(probabilities[1:], probabilities[0]) / len(probabilities)

    def mask_step(variables: list[PyTree], batch: PyTree) -> jax.Array:
        hu = batch["image"]
        if len(networks) == 1 and not mirror:
            return networks[0].predict(variables[0], hu)
        return mean_probabilities(variables, hu).argmax(-1).astype(jnp.uint8)

    return mask_step
