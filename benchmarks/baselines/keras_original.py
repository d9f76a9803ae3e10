"""Trains the Keras FlexUNet by the TensorFlow project's recipe, for `benchmarks.learning`.

    python -m benchmarks.baselines.keras_original --data fold_0 --size 256 --seconds 600 FOLDER

The recipe is that of `configs/flexunet.py`: pictures of 0 to 255 HU, batches of 2, cross-entropy,
Adam with clipped gradients, no augmentation, the learning rate halved after 4 epochs without a
lower loss. Its best checkpoint is not kept, because it would be chosen on what is tested.

Writes FOLDER/evaluation/<split>_last/confusion.csv of the held-out splits, counted on the scan's
own grid, and FOLDER/steps.json.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

# First, because it sets the backend of Keras.
from benchmarks.baselines import keras_unet  # isort: skip

import keras
import numpy as np
import tensorflow as tf

from benchmarks.learning_tables import HELD_OUT
from benchmarks.workload import Workload
from configs import flexunet
from mbh_jax import files
from mbh_jax.data import records
from mbh_jax.data.index import SliceIndex
from mbh_jax.errors import one_line_errors
from mbh_jax.labels import CLASS_NAMES, NUM_CLASSES


def slices(index: SliceIndex, split: str) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Volume's name, image (H, W) float32 from 0 to 255 and label (H, W) uint8 of each slice."""
    chosen = index.examples(split, "all")
    for file in np.unique(index.file[chosen]):
        rows = np.flatnonzero(index.file == file)
        rows = rows[np.argsort(index.offset[rows])]
        serialised = tf.data.TFRecordDataset([str(index.paths[file])])
        for row, example in zip(rows, serialised, strict=True):
            hu, label = records.decode_pixels(example)
            name = index.volumes[index.volume[row]].volume_id
            yield name, np.clip(hu.numpy(), 0, 255).astype(np.float32), label.numpy()


def resized(image: np.ndarray, size: int) -> np.ndarray:
    """An image (H, W) as the network's input (size, size, 3) float32."""
    small = tf.image.resize(image[..., None], (size, size), antialias=True)
    return np.repeat(small.numpy(), 3, axis=-1)


def nearest(label: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A label (H, W) on another grid."""
    return tf.image.resize(label[..., None], shape, "nearest").numpy()[..., 0]


class Stop(keras.callbacks.Callback):
    """Ends the training after some seconds, not counting the first step, or some steps."""

    def __init__(self, seconds: float | None, steps: int | None) -> None:
        super().__init__()
        self.steps = 0
        self._seconds, self._last = seconds, steps
        self._start_s = 0.0

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.steps += 1
        if self.steps == 1:
            self._start_s = time.perf_counter()  # The first step compiles.
        if self._seconds is None:
            self.model.stop_training = self.steps >= (self._last or 0)
        else:
            self.model.stop_training = time.perf_counter() - self._start_s >= self._seconds


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--seconds", type=float)
    length.add_argument("--steps", type=int)
    parser.add_argument("folder", type=Path)
    chosen = parser.parse_args()
    config = flexunet.get_config()
    batch = config.train.batch_size
    workload = Workload.from_recipe("flexunet", "train", chosen.size, batch, "float32")
    index = SliceIndex.load(chosen.data)
    keras.utils.set_random_seed(chosen.seed)
    model = keras_unet.flexunet(workload)
    model.compile(
        keras_unet.adam(workload),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,  # XLA's convolutions are slower on a CPU than oneDNN's.
    )
    _, images, labels = zip(*slices(index, "train"), strict=True)
    stop = Stop(chosen.seconds, chosen.steps)
    plateau = keras.callbacks.ReduceLROnPlateau(
        "loss", config.optimizer.plateau_factor, config.optimizer.plateau_patience
    )
    model.fit(
        np.stack([resized(image, chosen.size) for image in images]),
        np.stack([nearest(label, (chosen.size, chosen.size)) for label in labels]),
        batch_size=batch,
        epochs=10**6,
        callbacks=[stop, plateau],
        verbose=0,
    )
    for split in HELD_OUT:
        found: dict[str, np.ndarray] = {}
        for name, image, label in slices(index, split):
            logits = model.predict(resized(image, chosen.size)[None], verbose=0)[0]
            predicted = nearest(logits.argmax(-1).astype(np.uint8), label.shape)
            matrix = found.setdefault(name, np.zeros((NUM_CLASSES,) * 2, np.int64))
            np.add.at(matrix, (label, predicted), 1)
        rows = [
            {"case": name, "true_class": CLASS_NAMES[true], "predicted_class": CLASS_NAMES[other]}
            | {"voxels": int(matrix[true, other])}
            for name, matrix in found.items()
            for true, other in np.ndindex(matrix.shape)
        ]
        directory = chosen.folder / "evaluation" / f"{split}_last"
        directory.mkdir(parents=True, exist_ok=True)
        files.write_csv(directory / "confusion.csv", tuple(rows[0]), rows)
    (chosen.folder / "steps.json").write_text(json.dumps(stop.steps))


if __name__ == "__main__":
    with one_line_errors():
        main()
