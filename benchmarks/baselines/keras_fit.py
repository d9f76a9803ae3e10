"""Trains the quickstart's network with a plain Keras `fit`, for `benchmarks.end_to_end`.

    python -m benchmarks.baselines.keras_fit --data data/phantom --epochs 1 FOLDER

Writes `best.weights.h5` and `epochs.json` (seconds of each epoch, validation included) to FOLDER.
"""

import argparse
import json
import time
from pathlib import Path

# First, because it sets the backend of Keras.
from benchmarks.baselines import keras_unet  # isort: skip

import keras
import numpy as np
import tensorflow as tf

from benchmarks.workload import Workload
from configs import quickstart
from mbh_jax.data import records
from mbh_jax.data.index import SliceIndex


def slices(index: SliceIndex, split: str, batch: int, size: int, shuffle: bool) -> tf.data.Dataset:
    """Batches of (image (B, H, W, 3) float32, label (B, H, W) uint8) of a split."""

    def read(serialised: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        hu, label = records.decode_pixels(serialised)
        brain = tf.clip_by_value(tf.cast(hu, tf.float32) / 80.0, 0.0, 1.0)
        image = tf.repeat(brain[..., tf.newaxis], 3, axis=-1)
        return tf.ensure_shape(image, (size, size, 3)), tf.ensure_shape(label, (size, size))

    of_split = np.unique(index.file[index.examples(split, "all")])
    dataset = tf.data.TFRecordDataset([str(index.paths[file]) for file in of_split])
    if shuffle:
        dataset = dataset.shuffle(1000, seed=0)
    dataset = dataset.map(read, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.batch(batch).prefetch(tf.data.AUTOTUNE)


class EpochSeconds(keras.callbacks.Callback):
    """Records the seconds of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._start_s = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.seconds.append(time.perf_counter() - self._start_s)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("folder", type=Path)
    chosen = parser.parse_args()
    config = quickstart.get_config()
    size, batch = config.data.image_size, config.train.batch_size
    workload = Workload.from_recipe("quickstart", "train", size, batch, "float32")
    index = SliceIndex.load(chosen.data)
    keras.utils.set_random_seed(0)
    model = keras_unet.flexunet(workload)
    model.compile(
        keras_unet.adam(workload),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,  # XLA's convolutions are slower on a CPU than oneDNN's.
    )
    seconds = EpochSeconds()
    best = keras.callbacks.ModelCheckpoint(
        chosen.folder / "best.weights.h5", save_best_only=True, save_weights_only=True
    )
    model.fit(
        slices(index, "train", batch, size, shuffle=True),
        validation_data=slices(index, "validation", batch, size, shuffle=False),
        epochs=chosen.epochs,
        callbacks=[seconds, best],
        verbose=0,
    )
    (chosen.folder / "epochs.json").write_text(json.dumps(seconds.seconds))


if __name__ == "__main__":
    main()
