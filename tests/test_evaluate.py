"""Volumes from batches: whole, in order, and no sooner or later than their last slice."""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from mbh_jax import evaluate
from mbh_jax.runtime.parallel import create_parallel

NUM_SLICES = (3, 5, 1, 4)
BATCH = 4


def batches(read: list[int]) -> Iterator[dict[str, np.ndarray]]:
    """Slices of four volumes, in batches of four; `read` counts them."""
    volume = np.repeat(np.arange(len(NUM_SLICES)), NUM_SLICES).astype(np.int32)
    padded = -(-len(volume) // BATCH) * BATCH
    volume = np.pad(volume, (0, padded - len(volume)), constant_values=-1)
    example = np.where(volume >= 0, np.arange(padded), -1).astype(np.int32)
    for start in range(0, padded, BATCH):
        part = slice(start, start + BATCH)
        read.append(start)
        yield {
            "image": np.full((BATCH, 2, 2, 1), 0, np.int16) + example[part, None, None, None],
            "label": np.full((BATCH, 2, 2), 1, np.uint8),
            "weight": (example[part] >= 0).astype(np.float32),
            "example": example[part],
            "volume": volume[part],
        }


def step(variables, batch):
    return {
        "mask": batch["image"][..., 0] % 6,
        "cross_entropy": batch["weight"],
        "dice_coef_multiclass": batch["weight"],
    }


def test_a_volume_is_handed_on_as_soon_as_its_last_slice_is_there() -> None:
    read: list[int] = []
    found = evaluate.predict_volumes(step, None, batches(read), create_parallel("jit"))
    example = 0
    for expected, (number, rows) in enumerate(found):
        assert number == expected
        assert len(rows["mask"]) == NUM_SLICES[number]
        np.testing.assert_array_equal(rows["example"], example + np.arange(len(rows["mask"])))
        np.testing.assert_array_equal(rows["mask"][:, 0, 0], rows["example"] % 6)
        example += len(rows["mask"])
    assert example == sum(NUM_SLICES)


def test_masks_are_counted_volume_by_volume() -> None:
    found = evaluate.predict_volumes(step, None, batches([]), create_parallel("jit"))
    scores = evaluate.score_volumes(found)
    assert scores.volumes.tolist() == [0, 1, 2, 3]
    # All labels are 1; four pixels of each slice are predicted as the slice's number modulo 6.
    predicted = [np.arange(3), np.arange(3, 8), np.arange(8, 9), np.arange(9, 13)]
    for confusion, slices in zip(scores.confusion, predicted, strict=True):
        np.testing.assert_array_equal(confusion[1], 4 * np.bincount(slices % 6, minlength=6))
        assert confusion.sum() == confusion[1].sum()
    assert jnp.asarray(scores.slices["example"]).tolist() == list(range(13))
