"""Training losses, written so that one formula holds for any division of a batch over devices.

A loss is two functions. `statistics` maps logits and labels to sums per example; `objective` maps
those sums, added over all real examples of all devices, to the scalar that is minimised. Nothing is
averaged before everything is added, so padded batches and many devices give the loss of one device.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from mbh_jax import keys

Statistics = Mapping[str, jax.Array]


class Loss(NamedTuple):
    """A loss as additive statistics and an objective of their sums.

    Attributes:
        statistics: `(logits (B,H,W,K) float32, label (B,H,W) int) -> {name: (B, ...) float32}`.
        objective: `{name: (...) float32, "examples": () float32} -> () float32`; its argument holds
            the statistics summed over examples and the number of examples.
        linear: the objective is linear in the statistics for a given number of examples: its
            gradient with respect to them is known before they are.
    """

    statistics: Callable[[jax.Array, jax.Array], dict[str, jax.Array]]
    objective: Callable[[Statistics], jax.Array]
    linear: bool


def pixel_cross_entropy(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Categorical cross-entropy in nats, averaged over the pixels of each example: (B,) float32."""
    # Of one-hot labels, because the gradient of picking one logit is a scatter, slow on a CPU.
    truth = jax.nn.one_hot(label, logits.shape[-1], dtype=logits.dtype)
    return optax.softmax_cross_entropy(logits, truth).mean(axis=(1, 2))


def soft_dice_statistics(logits: jax.Array, label: jax.Array) -> dict[str, jax.Array]:
    """Soft overlap of each class but background: intersection and cardinality, (B, K-1) each."""
    probabilities = jax.nn.softmax(logits)[..., 1:]
    truth = jax.nn.one_hot(label, logits.shape[-1], dtype=probabilities.dtype)[..., 1:]
    return {
        "intersection": (probabilities * truth).sum(axis=(1, 2)),
        "cardinality": (probabilities + truth).sum(axis=(1, 2)),
    }


def _cross_entropy_objective(sums: Statistics) -> jax.Array:
    return sums["cross_entropy"] / jnp.maximum(sums["examples"], 1.0)


def cross_entropy() -> Loss:
    """Categorical cross-entropy, the mean over pixels and examples (as Keras computes it)."""
    return Loss(
        statistics=lambda logits, label: {"cross_entropy": pixel_cross_entropy(logits, label)},
        objective=_cross_entropy_objective,
        linear=True,
    )


def cross_entropy_dice(dice_weight: float = 1.0, dice_smooth: float = 1.0) -> Loss:
    """Cross-entropy plus `dice_weight` times one minus the soft foreground Dice of the whole batch.

    The Dice of a class is (2 I + s) / (C + s), with I and C summed over the batch (the "batch Dice"
    of nnU-Net, Isensee et al. 2021) and s = `dice_smooth` pixels; background is not counted. Summed
    over the batch, a class that one slice lacks is still measured by the slices that hold it.

    A class that the whole batch lacks pulls its predictions down, the more the larger s is, and
    hardly at all where s is nearly 0 (`benchmarks/RESULTS.md` has what either does).
    """

    def statistics(logits: jax.Array, label: jax.Array) -> dict[str, jax.Array]:
        return {
            "cross_entropy": pixel_cross_entropy(logits, label),
            **soft_dice_statistics(logits, label),
        }

    def objective(sums: Statistics) -> jax.Array:
        dice = (2.0 * sums["intersection"] + dice_smooth) / (sums["cardinality"] + dice_smooth)
        return _cross_entropy_objective(sums) + dice_weight * (1.0 - dice.mean())

    return Loss(statistics, objective, linear=False)


LOSSES: dict[str, keys.Component] = {
    "cross_entropy": keys.Component(
        create=cross_entropy, keys={}, meaning="categorical cross-entropy, as Keras computes it"
    ),
    "cross_entropy_dice": keys.Component(
        create=cross_entropy_dice,
        keys={
            "dice_weight": keys.number(1.0, 0, "weight of one minus the soft Dice of blood"),
            "dice_smooth": keys.positive(
                1.0,
                "pixels added to numerator and denominator of the Dice; near 0 for lesions of a "
                "few pixels",
            ),
        },
        meaning="cross-entropy, plus one minus the soft Dice of blood over the whole batch",
    ),
}
"""What `loss.name` may be."""


def create_loss(config: ConfigDict) -> Loss:
    """The loss that `config`, the section "loss" of a configuration, names."""
    values = {key: value for key, value in config.items() if key != "name"}
    return LOSSES[config.name].create(**values)
