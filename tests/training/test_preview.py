"""Which validation slices are drawn after every epoch."""

from pathlib import Path

import numpy as np

from mbh_jax.data.index import SliceIndex
from mbh_jax.labels import FOREGROUND
from mbh_jax.training.preview import choose_slices


def test_each_kind_of_blood_is_shown_in_turn_where_it_is_largest(tiny_dataset_dir: Path) -> None:
    index = SliceIndex.load(tiny_dataset_dir)
    examples = np.arange(len(index), dtype=np.int32)
    chosen = choose_slices(index, examples, len(FOREGROUND))
    assert len(set(chosen)) == len(FOREGROUND)
    for label, example in zip(FOREGROUND, chosen, strict=True):
        assert index.pixels_per_class[example, label] > 0
    # The first choice has no rival: it is the slice with the most of the first class.
    assert index.pixels_per_class[chosen[0], 1] == index.pixels_per_class[:, 1].max()


def test_a_volume_is_shown_again_only_when_no_other_has_the_class(tiny_dataset_dir: Path) -> None:
    index = SliceIndex.load(tiny_dataset_dir)
    examples = np.arange(len(index), dtype=np.int32)
    chosen = choose_slices(index, examples, len(FOREGROUND))
    for position, label in enumerate(FOREGROUND):
        earlier = set(index.volume[chosen[:position]])
        if index.volume[chosen[position]] in earlier:
            holding = index.volume[index.pixels_per_class[:, label] > 0]
            assert set(holding) <= earlier


def test_no_more_slices_than_there_are(tiny_dataset_dir: Path) -> None:
    index = SliceIndex.load(tiny_dataset_dir)
    examples = np.array([3, 5], np.int32)
    assert sorted(choose_slices(index, examples, 6)) == [3, 5]
    assert len(choose_slices(index, examples, 0)) == 0
