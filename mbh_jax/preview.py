"""The same few validation slices, predicted and drawn after every epoch."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from mbh_jax import parallel
from mbh_jax.data.index import SliceIndex
from mbh_jax.experiment import Experiment
from mbh_jax.labels import FOREGROUND
from mbh_jax.reporting import overlays

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

    def __init__(self, experiment: Experiment, examples: np.ndarray, workdir: Path):
        """Reads `config.train.preview_slices` of `examples`; 0 draws nothing."""
        self._experiment = experiment
        self._directory = workdir / PREVIEW_DIR
        index = experiment.index
        # Panels of one sheet have one size: of several matrices, the most frequent.
        examples = max(index.by_in_plane_shape(examples), key=len)
        chosen = choose_slices(index, examples, experiment.config.train.preview_slices)
        self._batches = list(experiment.eval_batches(chosen)) if len(chosen) else []
        self._names = [index.describe(example).replace(" ", "_") for example in chosen]

    def draw(self, variables: PyTree, epoch: int) -> np.ndarray | None:
        """Writes the panels of an epoch and returns their montage (H,W,3) uint8, if any."""
        if not self._batches:
            return None
        how = self._experiment.parallel
        predictions = [
            parallel.local_rows(
                self._experiment.predict_step(variables, parallel.put_batch(batch, how)), how
            )
            for batch in self._batches
        ]
        real = np.concatenate([batch["example"] for batch in self._batches]) >= 0
        hu = np.concatenate([batch["image"][..., 0] for batch in self._batches])
        truth = np.concatenate([batch["label"] for batch in self._batches])
        return overlays.write_epoch_change(
            self._directory,
            epoch,
            hu[real],
            truth[real],
            np.concatenate(predictions)[real],
            names=self._names,
        )
