"""Training losses, written so that one formula holds for any division of a batch over devices.

A loss is two functions. `statistics` maps logits and labels to sums per example; `objective` maps
those sums, added over all real examples of all devices, to the scalar that is minimised. Nothing is
averaged before everything is added, so padded batches and many devices give the loss of one device.
"""

import re

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from mbh_jax import keys
from mbh_jax.labels import NUM_CLASSES
from mbh_jax.optimization import loss_terms
from mbh_jax.optimization.loss import Loss, Statistics


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


_TERMS = ("cross_entropy", "top_k", "focal", "dice", "generalized_dice", "tversky")


def weighted_sum(
    *,
    class_weights: str,
    label_smoothing: float,
    top_k_fraction: float,
    focal_gamma: float,
    overlap_over: loss_terms.Over,
    overlap_smooth: float,
    tversky_alpha: float,
    tversky_beta: float,
    tversky_gamma: float,
    **weights: float,
) -> Loss:
    """The sum of the terms of `mbh_jax.optimization.loss_terms`, each times its weight.

    `weights` has one weight for each of "cross_entropy", "top_k", "focal", "dice",
    "generalized_dice" and "tversky"; terms of weight 0 are not computed. `class_weights` is empty
    or one number for each class, separated by commas.
    """

    def of_overlap(name: str, of_counts: loss_terms.Overlap) -> Loss:
        return loss_terms.overlap(name, of_counts, overlap_over)

    numbers = tuple(float(number) for number in class_weights.split(",") if class_weights)
    terms = {
        "cross_entropy": loss_terms.cross_entropy(numbers, label_smoothing),
        "top_k": loss_terms.top_k_cross_entropy(top_k_fraction, label_smoothing),
        "focal": loss_terms.focal(focal_gamma),
        "dice": of_overlap("dice", loss_terms.dice(overlap_smooth)),
        "generalized_dice": of_overlap(
            "generalized_dice", loss_terms.generalized_dice(overlap_smooth)
        ),
        "tversky": of_overlap(
            "tversky",
            loss_terms.tversky(tversky_alpha, tversky_beta, tversky_gamma, overlap_smooth),
        ),
    }
    return loss_terms.weighted_sum(
        [(weights[name], term) for name, term in terms.items() if weights[name]]
    )


def _weighted_sum_problem(config: ConfigDict) -> str | None:
    if any(config[name] for name in _TERMS):
        return None
    weights = ", ".join(f"loss.{name}" for name in _TERMS)
    return f"loss.name=weighted_sum has no term: give one of {weights} a weight above 0"


def _are_class_weights(value: object) -> bool:
    if not isinstance(value, str):
        return False
    number = r"[0-9]+(\.[0-9]+)?"
    if value and not re.fullmatch(f"{number}(,{number}){{{NUM_CLASSES - 1}}}", value):
        return False
    return not value or any(keys.in_float32(float(weight)) > 0 for weight in value.split(","))


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
    "weighted_sum": keys.Component(
        create=weighted_sum,
        keys={
            "cross_entropy": keys.number(1.0, 0, "weight of the cross-entropy; 0: none"),
            "top_k": keys.number(
                0.0, 0, "weight of the cross-entropy of each slice's worst pixels; 0: none"
            ),
            "focal": keys.number(0.0, 0, "weight of the focal loss; 0: none"),
            "dice": keys.number(1.0, 0, "weight of one minus the soft Dice of blood; 0: none"),
            "generalized_dice": keys.number(
                0.0, 0, "weight of one minus the generalised Dice of blood; 0: none"
            ),
            "tversky": keys.number(0.0, 0, "weight of the Tversky loss of blood; 0: none"),
            "class_weights": keys.Key(
                "",
                _are_class_weights,
                f"empty, or {NUM_CLASSES} numbers from 0 separated by commas, not all 0",
                "weights of the classes in the cross-entropy, background first; empty: all alike",
            ),
            "label_smoothing": keys.number(
                0.0,
                0,
                "share of a label that is spread over all classes, in cross-entropy and top-k",
                below=1,
            ),
            "top_k_fraction": keys.number(
                0.1, 1e-6, "share of a slice's pixels that are its worst", below=1
            ),
            "focal_gamma": keys.number(2.0, 1, "exponent of the focal loss"),
            "overlap_over": keys.choice(
                "batch",
                ("batch", "sample"),
                "what Dice, generalised Dice and Tversky are computed over: the whole batch, or "
                "each slice",
            ),
            "overlap_smooth": keys.positive(
                1e-5, "pixels added to numerator and denominator of these three"
            ),
            "tversky_alpha": keys.number(0.3, 0, "weight of false positives"),
            "tversky_beta": keys.number(0.7, 0, "weight of false negatives"),
            "tversky_gamma": keys.number(
                1.0, 1, "1: Tversky; above: focal Tversky, a root of it (4/3 is usual)"
            ),
        },
        meaning="a weighted sum of losses; its defaults are nnU-Net's, cross-entropy and Dice",
        problem=_weighted_sum_problem,
    ),
}
"""What `loss.name` may be."""


def create_loss(config: ConfigDict) -> Loss:
    """The loss that `config`, the section "loss" of a configuration, names."""
    values = {key: value for key, value in config.items() if key != "name"}
    return LOSSES[config.name].create(**values)
