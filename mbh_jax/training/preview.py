"""The same few validation slices, predicted and drawn after every epoch."""

import itertools
from typing import Any

import numpy as np
from etils import epath

from mbh_jax.data.index import SliceIndex
from mbh_jax.labels import FOREGROUND
from mbh_jax.reporting import overlays
from mbh_jax.runtime import distributed
from mbh_jax.runtime.parallel import local_rows, put_batch
from mbh_jax.training.setup import Experiment

PyTree = Any

PREVIEW_DIR = "epoch_change_infer"


def choose_slices(index: SliceIndex, examples: np.ndarray, number: int) -> np.ndarray:
    """`number` of `examples` in which each kind of blood is shown in turn, where it is largest.

    Slices of volumes not yet shown come first. Always the same for the same dataset.
    """
    chosen: list[int] = []
    for label in itertools.islice(itertools.cycle(FOREGROUND), min(number, len(examples))):
        left = examples[~np.isin(examples, chosen)]
        shown = np.isin(index.volume[left], index.volume[chosen])
        pixels = index.pixels_per_class[left, label]
        order = np.lexsort((left, -pixels, shown & (pixels > 0), pixels == 0))
        chosen.append(int(left[order[0]]))
    return np.array(chosen, np.int32)


class Preview:
    """Holds the pixels of the chosen slices and draws what a network makes of them."""

    def __init__(self, experiment: Experiment, examples: np.ndarray, workdir: epath.Path):
        """Reads `config.train.preview_slices` of `examples`; 0 draws nothing."""
        self._experiment = experiment
        self._directory = workdir / PREVIEW_DIR
        index = experiment.index
        # Panels of one sheet have one size: of several matrices, the most frequent.
        examples = max(index.by_in_plane_shape(examples), key=len)
        chosen = choose_slices(index, examples, experiment.config.train.preview_slices)
        self._batches = list(experiment.eval_batches(chosen)) if len(chosen) else []
        self._chosen = chosen
        self._names = [index.describe(example).replace(" ", "_") for example in chosen]
        if self._batches:
            self._image, self._label = (self._of_chosen(self._rows(n)) for n in ("image", "label"))

    def draw(self, variables: PyTree, epoch: int) -> np.ndarray | None:
        """Predicts, and on process 0 writes the panels of an epoch.

        Returns:
            The montage of the panels (H,W,3) uint8; None where there are none, and elsewhere than
            on process 0.
        """
        if not self._batches:
            return None
        how = self._experiment.parallel
        predictions = [
            local_rows(self._experiment.predict_step(variables, put_batch(batch, how)), how)
            for batch in self._batches
        ]
        prediction = self._of_chosen(np.concatenate(predictions))
        if not distributed.is_primary():
            return None
        return overlays.write_epoch_change(
            self._directory,
            epoch,
            self._image[..., 0],
            self._label,
            prediction,
            names=self._names,
        )

    def _rows(self, name: str) -> np.ndarray:
        """An array of all batches of this process, (rows, ...)."""
        return np.concatenate([batch[name] for batch in self._batches])

    def _of_chosen(self, local_rows: np.ndarray) -> np.ndarray:
        """Rows of all processes, in the order of the chosen slices."""
        rows = distributed.gather_rows({"values": local_rows, "example": self._rows("example")})
        order = [int(np.flatnonzero(rows["example"] == example)[0]) for example in self._chosen]
        return rows["values"][order]
