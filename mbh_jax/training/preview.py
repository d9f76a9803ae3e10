"""The same few validation slices, predicted and drawn after every epoch."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath

from mbh_jax.data.index import SliceIndex
from mbh_jax.data.loader import Loader
from mbh_jax.labels import FOREGROUND
from mbh_jax.log import only_warn
from mbh_jax.reporting import overlays
from mbh_jax.runtime import distributed
from mbh_jax.runtime.parallel import Parallel, local_rows, put_batch

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
    """Holds the pixels of a few slices and draws a network's predictions of them.

    Args:
        loader: of the dataset.
        examples: (n,) int32, the slices to choose from.
        number: how many to draw; 0 draws nothing.
        batch_size: slices predicted at a time, over all devices.
        predict: a compiled prediction step.
        parallel: the devices that it runs on.
        workdir: the run's folder.
    """

    def __init__(
        self,
        loader: Loader,
        examples: np.ndarray,
        *,
        number: int,
        batch_size: int,
        predict: Callable[[PyTree, PyTree], PyTree],
        parallel: Parallel,
        workdir: epath.Path,
    ):
        self._predict = predict
        self._parallel = parallel
        self._directory = workdir / PREVIEW_DIR
        index = loader.index
        # Panels of one sheet have one size: of several image sizes, the most frequent.
        examples = max(index.by_in_plane_shape(examples), key=len)
        chosen = choose_slices(index, examples, number)
        self._chosen = chosen
        self._batches = (
            list(loader.eval_batches(chosen, global_batch=batch_size)) if len(chosen) else []
        )
        self._names = [index.describe(example).replace(" ", "_") for example in chosen]
        if self._batches:
            image, self._label = (self._in_order(self._rows(n)) for n in ("image", "label"))
            self._image = image[..., image.shape[-1] // 2]

    def draw(self, variables: PyTree, epoch: int) -> np.ndarray | None:
        """Predicts, and on process 0 writes the panels of an epoch.

        All processes must call it alike. What cannot be drawn or written is a warning.

        Returns:
            The montage of the panels (H,W,3) uint8; None where there are none, and on every other
            process than 0.
        """
        if not self._batches:
            return None
        predictions = [
            local_rows(self._predict(variables, put_batch(batch, self._parallel)), self._parallel)
            for batch in self._batches
        ]
        prediction = self._in_order(np.concatenate(predictions))
        if not distributed.is_primary():
            return None
        with only_warn(f"the pictures of epoch {epoch}"):
            return overlays.write_epoch_change(
                self._directory,
                epoch,
                self._image,
                self._label,
                prediction,
                names=self._names,
            )
        return None

    def _rows(self, name: str) -> np.ndarray:
        """An array of all batches of this process, (rows, ...)."""
        return np.concatenate([batch[name] for batch in self._batches])

    def _in_order(self, local_rows: np.ndarray) -> np.ndarray:
        """Rows of all processes, in the order of the chosen slices."""
        rows = distributed.gather_rows({"values": local_rows, "example": self._rows("example")})
        order = [int(np.flatnonzero(rows["example"] == example)[0]) for example in self._chosen]
        return rows["values"][order]
