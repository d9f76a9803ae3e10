"""Which slices an epoch draws, how often, and that nothing but seed and epoch decides it."""

import types

import numpy as np
import pytest
from ml_collections import ConfigDict

from mbh_jax.data import order, sampling

# Ten slices of three volumes: four without blood, class 1 in one slice, class 2 in five.
PIXELS = np.zeros((10, 6), np.int64)
PIXELS[:, 0] = 100
PIXELS[2, 1] = 7
PIXELS[[2, 3, 5, 6, 9], 2] = 5
PIXELS[4, 5] = 1
VOLUME = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2], np.int32)
INDEX = types.SimpleNamespace(pixels_per_class=PIXELS, volume=VOLUME, is_extra=np.zeros(10, bool))
EXAMPLES = np.arange(10, dtype=np.int32)


def config(*, batch: int = 4, steps: int = 0, seed: int = 3, **data) -> ConfigDict:
    return ConfigDict(
        {
            "seed": seed,
            "data": {
                "sampling": "uniform",
                "empty_share": -1.0,
                "extra_share": 0.5,
                "extra_share_end": 0.1,
            }
            | data,
            "train": {"batch_size": batch, "steps_per_epoch": steps, "num_epochs": 5},
        }
    )


def orders(num_epochs: int, examples: np.ndarray = EXAMPLES, **values) -> list[np.ndarray]:
    sampler = sampling.Sampler(config(**values), INDEX, examples)
    return [sampler.order(epoch) for epoch in range(num_epochs)]


def test_one_pass_is_a_permutation_of_seed_and_epoch():
    """The orders of before there were other samplings: runs go on with their numbers."""
    for epoch, drawn in enumerate(orders(3)):
        expected = np.random.default_rng([3, epoch]).permutation(10)
        np.testing.assert_array_equal(drawn, expected)
        assert drawn.dtype == np.int32
    assert sampling.Sampler(config(), INDEX, EXAMPLES).num_batches == 3


@pytest.mark.parametrize("steps", [1, 2, 5, 8])
def test_epochs_of_any_length_are_parts_of_one_chain(steps):
    drawn = np.concatenate(orders(5, steps=steps))
    passes = np.concatenate(orders(20))
    np.testing.assert_array_equal(drawn, passes[: len(drawn)])
    assert len(drawn) == 5 * 4 * steps


@pytest.mark.parametrize("name", sampling.SAMPLINGS)
def test_epochs_and_seeds_differ_and_repeat(name):
    values = {"steps": 5, "sampling": name}
    first, second = orders(2, **values)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, orders(1, seed=4, **values)[0])
    np.testing.assert_array_equal(second, orders(2, **values)[1])


def expected_shares(sampling_name: str, empty_share: float) -> np.ndarray:
    shares = np.zeros(10)
    empty, blood = [0, 1, 7, 8], [2, 3, 4, 5, 6, 9]
    if sampling_name == "volume_balanced":
        shares[[0, 1]], shares[7], shares[8] = 1 / 6, 1 / 3, 1 / 3
        shares[[2, 3]], shares[[4, 5, 6]], shares[9] = 1 / 6, 1 / 9, 1 / 3
    else:
        shares[empty] = 1 / 4
        shares[blood] = 1 / 6
    if sampling_name == "class_balanced":
        shares[blood] = 0
        shares[2] += 1 / 3
        shares[[2, 3, 5, 6, 9]] += 1 / 3 / 5
        shares[4] += 1 / 3
    shares[empty] *= empty_share
    shares[blood] *= 1 - empty_share
    return shares


@pytest.mark.parametrize("name", sampling.SAMPLINGS)
@pytest.mark.parametrize("empty_share", [-1.0, 0.0, 0.25, 1.0])
def test_every_slice_is_drawn_as_often_as_its_share(name, empty_share):
    (drawn,) = orders(1, steps=90, sampling=name, empty_share=empty_share)
    wanted = len(drawn) * expected_shares(name, 0.4 if empty_share < 0 else empty_share)
    counts = np.bincount(drawn, minlength=10)
    if (name, empty_share) != ("uniform", -1.0):  # Its part of the chain ends within a pass.
        assert (np.abs(counts - wanted) < 1 + 1e-6).all()
    else:
        np.testing.assert_array_equal(counts, wanted)


def test_classes_of_the_examples_alone_are_balanced():
    (drawn,) = orders(1, EXAMPLES[5:], steps=10, sampling="class_balanced", empty_share=0.0)
    np.testing.assert_array_equal(np.unique(drawn), [5, 6, 9])


@pytest.mark.parametrize(("examples", "kind"), [([2, 3], "without"), ([0, 1], "with")])
def test_a_share_of_slices_that_are_not_there_is_said_to_be_without_effect(examples, kind, caplog):
    with caplog.at_level("INFO"):
        (drawn,) = orders(1, np.array(examples, np.int32), steps=1, empty_share=0.5)
    np.testing.assert_array_equal(np.bincount(drawn, minlength=4)[examples], [2, 2])
    assert f"no training slice is {kind} blood" in caplog.text


def test_a_slice_without_blood_is_not_drawn_where_none_is_wanted():
    """Its edge of the summed probabilities is that of the last slice with blood."""
    for seed in range(20):
        (drawn,) = orders(1, np.arange(8, dtype=np.int32), seed=seed, steps=50, empty_share=0.0)
        assert not np.isin([0, 1, 7], drawn).any()


def test_each_draw_of_an_epoch_has_its_number():
    drawn = np.array([4, 2, 4, 0, 4, 2], np.int32)
    numbers = order.draw_numbers(drawn, 10)
    np.testing.assert_array_equal(numbers, [4, 2, 14, 0, 24, 12])
    assert numbers.dtype == np.int32
    assert order.draw_numbers(drawn[:0], 10).shape == (0,)


MIXED = types.SimpleNamespace(pixels_per_class=PIXELS, volume=VOLUME, is_extra=np.arange(10) >= 6)


@pytest.mark.parametrize("name", sampling.SAMPLINGS)
def test_the_share_of_another_dataset_changes_evenly_over_the_epochs(name):
    """Within either dataset the rule holds that it has alone."""
    sampler = sampling.Sampler(config(steps=50, sampling=name), MIXED, EXAMPLES)
    for epoch, share in enumerate([0.5, 0.4, 0.3, 0.2, 0.1]):
        drawn = sampler.order(epoch)
        assert abs((drawn >= 6).mean() - share) <= 1 / len(drawn)
    (alone,) = orders(1, EXAMPLES[:6], steps=50, sampling=name, empty_share=1 / 3)
    mixed = sampling.Sampler(
        config(steps=100, sampling=name, empty_share=1 / 3), MIXED, EXAMPLES
    ).order(0)
    counts = np.bincount(mixed, minlength=10)[:6]
    assert np.abs(counts - np.bincount(alone, minlength=6)).max() <= 2
