"""Which slices an epoch of training draws, in which order: a pure function of seed and epoch."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mbh_jax import keys
from mbh_jax.data.index import SliceIndex
from mbh_jax.data.order import num_batches
from mbh_jax.labels import FOREGROUND
from mbh_jax.log import log

SAMPLINGS = ("uniform", "class_balanced", "volume_balanced")
"""What `data.sampling` may be."""

AS_IN_DATASET = -1.0
"""`data.empty_share` that leaves the share of slices without blood as it is."""

KEYS = {
    "sampling": keys.choice(
        "uniform",
        SAMPLINGS,
        "how often an epoch draws a slice: all alike, each kind of blood alike, or each volume",
    ),
    "extra_dir": keys.Key(
        "",
        lambda value: isinstance(value, str),
        "a text",
        "another dataset, such as phantoms, whose training slices are mixed in; empty: none",
    ),
    "extra_share": keys.share(0.5, "share of these slices in the draws of the first epoch"),
    "extra_share_end": keys.share(
        0.5, "the same in the last epoch; between the two it changes evenly"
    ),
    "empty_share": keys.Key(
        AS_IN_DATASET,
        lambda value: keys.in_float32(value) == AS_IN_DATASET or 0 <= keys.in_float32(value) <= 1,
        "a number from 0 to 1, or -1",
        "share of slices without blood among those drawn; -1: as in the dataset",
    ),
}
"""Keys of the section "data" of a configuration."""


def problem(data: Mapping[str, Any]) -> str | None:
    """What is wrong with the section "data" of a configuration, or None."""
    if data["resident"] and data["extra_dir"]:
        return "data.resident does not go with data.extra_dir: leave one of them out"
    return None


class Sampler:
    """Draws the slices of training.

    "uniform" takes every slice equally often: epochs are consecutive parts of an endless chain of
    random permutations, each of all slices. The other samplings, and "uniform" with an
    `empty_share`, draw slice i with probability p_i, systematically (Madow, 1949,
    doi:10.1214/aoms/1177729988): in an epoch of m draws it is drawn floor or ceil of m p_i times.

    - "class_balanced": each kind of blood that the slices hold is drawn equally often, and then
      each slice that shows it.
    - "volume_balanced": each volume is drawn equally often, and then each of its slices.

    These rules hold among the slices with blood and among those without it. `empty_share` of all
    draws are of slices without blood; with -1 that is their share of the slices. With `extra_dir`
    they hold within either dataset, and `extra_share` to `extra_share_end` of an epoch's draws are
    of the other one.

    Args:
        config: the whole configuration.
        index: the dataset.
        examples: (n,) int32, the slices to train on.

    Attributes:
        num_batches: batches, that is optimizer steps, of an epoch.
    """

    def __init__(self, config: ConfigDict, index: SliceIndex, examples: np.ndarray):
        self._examples = examples
        self._seed = config.seed
        batch, steps = config.train.batch_size, config.train.steps_per_epoch
        self.num_batches = steps or num_batches(len(examples), batch)
        self._num_draws = steps * batch or len(examples)
        self._extra_shares = np.linspace(
            config.data.extra_share, config.data.extra_share_end, config.train.num_epochs
        )
        is_extra = index.is_extra[examples]
        rule = config.data.sampling, config.data.empty_share
        # Of slices of this dataset and of the other one, if there is one.
        self._probabilities: list[np.ndarray] = []
        if is_extra.any() or rule != ("uniform", AS_IN_DATASET):
            for group in (~is_extra, is_extra)[: 2 if is_extra.any() else 1]:
                probability = np.zeros(len(examples))
                probability[group] = draw_probabilities(index, examples[group], *rule)
                self._probabilities.append(probability)

    def order(self, epoch: int) -> np.ndarray:
        """The examples that an epoch draws, in order, (m,) int32, the same on every host."""
        if not self._probabilities:
            places = _chained_permutations(
                len(self._examples), self._seed, epoch * self._num_draws, self._num_draws
            )
        else:
            rng = np.random.default_rng([self._seed, epoch])
            probability, *extra = self._probabilities
            if extra:
                share = self._extra_shares[epoch]
                probability = (1.0 - share) * probability + share * extra[0]
            places = rng.permutation(_systematic_draws(probability, self._num_draws, rng.random()))
        return self._examples[places]


def draw_probabilities(
    index: SliceIndex, examples: np.ndarray, sampling: str, empty_share: float
) -> np.ndarray:
    """The probability of each example in a draw, (n,) float64; they add up to 1.

    Args:
        index: the dataset.
        examples: (n,) int32.
        sampling: one of `SAMPLINGS`.
        empty_share: share of slices without blood, or -1.

    Where all slices have blood, or none, `empty_share` is without effect, and a log line says so.
    """
    blood = index.pixels_per_class[examples][:, list(FOREGROUND)] > 0
    has_blood = blood.any(axis=1)
    share = 1.0 - has_blood.mean()
    if empty_share != AS_IN_DATASET:
        if has_blood.all() or not has_blood.any():
            kind = "without" if has_blood.all() else "with"
            log.info("data.empty_share: no effect: no training slice is %s blood", kind)
        else:
            share = empty_share
    probability = np.zeros(len(examples))
    for total, group in ((share, ~has_blood), (1 - share, has_blood)):
        if not group.any():
            continue
        weight = _weights(sampling, index.volume[examples[group]], blood[group])
        probability[group] = total * weight / weight.sum()
    return probability


def _weights(sampling: str, volume: np.ndarray, blood: np.ndarray) -> np.ndarray:
    """Weights (n,) of slices by their volume (n,) and the kinds of blood they show (n, 5)."""
    if sampling == "volume_balanced":
        _, which, slices_in = np.unique(volume, return_inverse=True, return_counts=True)
        return 1.0 / slices_in[which]
    if sampling == "class_balanced" and blood.any():
        slices_with = blood.sum(axis=0)
        return (blood / np.maximum(slices_with, 1)).sum(axis=1)
    return np.ones(len(volume))


def _systematic_draws(probability: np.ndarray, number: int, start: float) -> np.ndarray:
    """Indices (number,), ascending: where (start + 0, 1, 2, ...) / number falls on the summed p."""
    edges = np.cumsum(probability)
    places = np.searchsorted(edges / edges[-1], (start + np.arange(number)) / number, side="right")
    # Rounding must not reach past the last one that can be drawn.
    return np.minimum(places, np.flatnonzero(probability)[-1])


def _chained_permutations(size: int, seed: int, start: int, number: int) -> np.ndarray:
    """`number` elements from `start` on of permutations 0, 1, 2, ... of 0..size-1, put together."""
    first, last = start // size, -(-(start + number) // size)
    chain = [np.random.default_rng([seed, n]).permutation(size) for n in range(first, last)]
    offset = start - first * size
    return np.concatenate(chain)[offset : offset + number]
