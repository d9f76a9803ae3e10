"""Volumes from batches: whole, in order, and no sooner or later than their last slice."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
from etils import epath

from mbh_jax.data.schema import VolumeFacts
from mbh_jax.inference import split
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
    found = split.predict_volumes(step, None, batches(read), create_parallel("jit"))
    example = 0
    for expected, (number, rows) in enumerate(found):
        assert number == expected
        assert len(rows["mask"]) == NUM_SLICES[number]
        np.testing.assert_array_equal(rows["example"], example + np.arange(len(rows["mask"])))
        np.testing.assert_array_equal(rows["mask"][:, 0, 0], rows["example"] % 6)
        example += len(rows["mask"])
    assert example == sum(NUM_SLICES)


def test_masks_are_scored_volume_by_volume_and_written_on_their_grid(tmp_path: Path) -> None:
    affine = np.array([[-1.0, 0, 0, 3], [0, 1, 0, 4], [0, 0, 1000, 5], [0, 0, 0, 1]])
    volumes = [
        VolumeFacts(
            volume_id=f"case_{number}",
            patient_id="p",
            shape=(length, 2, 2),
            affine=affine,
            stored_axcodes="RAS",
        )
        for number, length in enumerate(NUM_SLICES)
    ]
    index = SimpleNamespace(
        volumes=volumes, slice_index=np.concatenate([np.arange(n) for n in NUM_SLICES])
    )
    found = split.predict_volumes(step, None, batches([]), create_parallel("jit"))
    scores = split.score_volumes(found, index, (), epath.Path(tmp_path))
    assert scores.volumes == [0, 1, 2, 3]
    assert [case.case for case in scores.cases] == [f"case_{i}" for i in range(4)]
    # All labels are 1; four pixels of each slice are predicted as the slice's number modulo 6.
    predicted = [np.arange(3), np.arange(3, 8), np.arange(8, 9), np.arange(9, 13)]
    for case, slices in zip(scores.cases, predicted, strict=True):
        confusion = case.confusion.sum(0)
        np.testing.assert_array_equal(confusion[1], 4 * np.bincount(slices % 6, minlength=6))
        assert confusion.sum() == confusion[1].sum()
        assert case.regions["any"].ref_ml == pytest.approx(4 * len(slices))
    assert scores.slices["example"].tolist() == list(range(13))
    mask = nibabel.load(tmp_path / "case_1.nii.gz")
    np.testing.assert_array_equal(mask.affine[:3, 2], [0, 0, 1000])
    np.testing.assert_array_equal(np.asarray(mask.dataobj)[0, 0], np.arange(3, 8) % 6)


def test_slices_that_are_not_evaluated_keep_their_place() -> None:
    """Two lesions with an empty slice between them stay two, and that slice is not counted."""
    facts = {"volume_id": "a", "patient_id": "p", "stored_axcodes": "LPS", "affine": np.eye(4)}
    index = SimpleNamespace(volumes=[VolumeFacts(shape=(4, 2, 2), **facts)], slice_index=[0, 2, 3])
    index.slice_index = np.array(index.slice_index)
    label = np.ones((3, 2, 2), np.uint8)
    label[2] = 0
    rows = {"example": np.arange(3), "label": label, "mask": label}
    rows |= dict.fromkeys(("cross_entropy", "dice_coef_multiclass"), np.zeros(3))
    (case,) = split.score_volumes([(0, rows)], index).cases
    assert len(case.regions["EDH"].lesions.found) == 2
    assert case.confusion.sum((1, 2)).tolist() == [4, 0, 4, 4]
