"""Batches of a dataset for this process, from its records or from its packed cache."""

from collections.abc import Callable, Iterator

import jax
import numpy as np
from ml_collections import ConfigDict

from mbh_jax.data import neighbours, resident
from mbh_jax.data.batch import Batch
from mbh_jax.data.index import SliceIndex
from mbh_jax.data.order import draw_numbers, host_examples
from mbh_jax.data.packed import PackedSlices
from mbh_jax.data.resident import ResidentSlices


class Loader:
    """Reads batches.

    Args:
        config: the section "data" of a configuration. With `resident` the packed cache takes the
            place of the records, and TensorFlow is not imported.

        with_extra: whether the training slices of `extra_dir` are mixed in, if it is given.

    Attributes:
        index: where each slice of the dataset is and what it holds.
        resident: whether training batches come without pixels, which the devices hold.

    Raises:
        UserError: the dataset or, with `resident`, its packed cache is missing or damaged.
    """

    def __init__(self, config: ConfigDict, *, with_extra: bool = False):
        self.index = SliceIndex.load(config.dir, with_records=not config.resident)
        if with_extra and config.extra_dir:
            self.index = self.index.with_extra(SliceIndex.load(config.extra_dir))
        self.resident: bool = config.resident
        self._image_size = config.image_size
        self._beside = (
            neighbours.of_index(self.index, neighbours.setting_of(config))
            if config.neighbours
            else None
        )
        self._packed = PackedSlices(self.index) if config.resident else None

    def train_batches(
        self, order: np.ndarray, *, global_batch: int, start_batch: int = 0
    ) -> Iterator[Batch]:
        """This process's share of an epoch's batches, from `start_batch` on.

        Slices of one size are resized on the device; of several sizes, on the host.

        Args:
            order: (m,) int32, the examples of all processes in the order of the epoch
                (`mbh_jax.data.sampling`).
            global_batch: examples in a batch over all processes.
            start_batch: batch of the epoch to start with, for a run that is resumed.

        Yields:
            Batches (`mbh_jax.data.batch`) with `draw`.
        """
        which = {
            "global_batch": global_batch,
            "start_batch": start_batch,
            "host": jax.process_index(),
            "num_hosts": jax.process_count(),
        }
        draws = host_examples(draw_numbers(order, len(self.index)), **which)
        if self._packed is not None:
            batches = resident.batches(order, **which)
        else:
            from mbh_jax.data import pipeline

            several_sizes = len(self.index.by_in_plane_shape(order)) > 1
            resize_to = (self._image_size, self._image_size) if several_sizes else None
            batches = pipeline.batches(
                self.index, order, **which, beside=self._beside, resize_to=resize_to
            )
        for batch, draw in zip(batches, draws, strict=True):
            yield batch | {"draw": draw}

    def eval_batches(self, examples: np.ndarray, *, global_batch: int) -> Iterator[Batch]:
        """This process's share of `examples`, each at its scan's own size; last batches padded.

        Slices come in order, those of one size after those of another. With `resident` they are
        streamed from the packed files, so that device memory is left to training.
        """
        which = {
            "global_batch": global_batch,
            "host": jax.process_index(),
            "num_hosts": jax.process_count(),
            "beside": self._beside,
        }
        for of_one_shape in self.index.by_in_plane_shape(examples):
            if self._packed is not None:
                yield from self._packed.eval_batches(of_one_shape, **which)
            else:
                from mbh_jax.data import pipeline

                yield from pipeline.batches(self.index, of_one_shape, **which)

    def read_slices(self, examples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """HU int16 and labels uint8, each (n, H, W), of slices of one size, on this process alone.

        Args:
            examples: (n,) int32, such as all slices of a volume.
        """
        number = len(examples)
        if self._packed is not None:
            batches = self._packed.eval_batches(examples, global_batch=number, host=0, num_hosts=1)
        else:
            from mbh_jax.data import pipeline

            batches = pipeline.batches(
                self.index, examples, global_batch=number, host=0, num_hosts=1
            )
        (batch,) = batches
        return np.asarray(batch["image"])[..., 0], np.asarray(batch["label"])

    def resident_slices(
        self, examples: np.ndarray, hold: Callable[[np.ndarray], jax.Array]
    ) -> tuple[ResidentSlices, ...]:
        """With `resident` the pixels of `examples` on every device, in a tuple; else an empty one.

        Args:
            examples: (n,) int32.
            hold: copies an array to all devices.

        Raises:
            UserError: the slices are of several sizes.
        """
        if self._packed is None:
            return ()
        return (resident.load(self._packed, examples, hold, self._beside),)
