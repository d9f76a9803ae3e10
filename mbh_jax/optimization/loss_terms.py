"""The terms of the loss `weighted_sum`, each a loss by itself.

Terms of pixels (cross-entropy, top-k, focal) are means over pixels and examples. Terms of overlap
(Dice, generalised Dice, Tversky) are functions of the soft true positives TP, false positives FP
and false negatives FN of each class but background, which are added either over the whole batch or
over each example. s below is the smoothing, in pixels.

A class that is absent from the labels has TP = FN = 0. Its Dice is s / (FP + s): 1 where nothing is
predicted, nearly 0 where the predicted mass FP is much larger than s. So it is not left out. With a
small s its gradient is nearly 0 unless FP is about s, and only the terms of pixels lower it.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from mbh_jax.optimization.loss import Loss, Statistics

Overlap = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""`(TP, FP, FN) (K-1,) float32 -> ()`: a loss of the overlap of classes; 0 is perfect."""

Over = Literal["batch", "sample"]

_LEAST_LOSS = 1e-7
"""Where a root of a loss begins: nearer to 0 its gradient would be infinite."""


def _per_example(name: str, of_example: Callable[[jax.Array, jax.Array], jax.Array]) -> Loss:
    """The mean over examples of `(logits (B,H,W,K), label (B,H,W)) -> (B,)`."""
    return Loss(
        statistics=lambda logits, label: {name: of_example(logits, label)},
        objective=lambda sums: sums[name] / jnp.maximum(sums["examples"], 1.0),
        linear=True,
    )


def _pixel_cross_entropy(logits: jax.Array, label: jax.Array, smoothing: float) -> jax.Array:
    """Cross-entropy of each pixel in nats, (B,H,W); labels are smoothed towards 1 / K."""
    truth = jax.nn.one_hot(label, logits.shape[-1], dtype=logits.dtype)
    if smoothing:
        truth = optax.smooth_labels(truth, smoothing)
    return optax.softmax_cross_entropy(logits, truth)


def cross_entropy(class_weights: tuple[float, ...] = (), label_smoothing: float = 0.0) -> Loss:
    """Cross-entropy, as torch.nn.CrossEntropyLoss(weight, label_smoothing=...) computes it.

    Args:
        class_weights: one for each class; empty: all alike. With t the smoothed label, a pixel adds
            sum_k w_k t_k (-log p_k) to the numerator and the weight of its true class to the
            denominator; both are added over the batch before they are divided.
        label_smoothing: share of a label that is spread evenly over all classes.
    """
    if not class_weights:
        return _per_example(
            "smoothed_cross_entropy",
            lambda logits, label: _pixel_cross_entropy(logits, label, label_smoothing).mean((1, 2)),
        )
    weights = jnp.asarray(class_weights, jnp.float32)

    def statistics(logits: jax.Array, label: jax.Array) -> dict[str, jax.Array]:
        truth = jax.nn.one_hot(label, logits.shape[-1], dtype=logits.dtype)
        smoothed = optax.smooth_labels(truth, label_smoothing)
        entropy = -(weights * smoothed * jax.nn.log_softmax(logits)).sum(-1)
        return {
            "weighted_cross_entropy": entropy.mean((1, 2)),
            "weight_of_labels": (weights * truth).sum(-1).mean((1, 2)),
        }

    def objective(sums: Statistics) -> jax.Array:
        # A batch may hold no label but those of weight 0.
        weight = sums["weight_of_labels"]
        return jnp.where(
            weight > 0, sums["weighted_cross_entropy"] / jnp.where(weight > 0, weight, 1.0), 0.0
        )

    return Loss(statistics, objective, linear=False)


def top_k_cross_entropy(fraction: float, label_smoothing: float = 0.0) -> Loss:
    """Mean cross-entropy of the worst `fraction` of the pixels of each example, at least one.

    nnU-Net's TopKLoss (Wu et al., 2016, arXiv:1605.06885) takes the worst pixels of the batch; of
    each example, they do not depend on how the batch is divided.
    """

    def of_example(logits: jax.Array, label: jax.Array) -> jax.Array:
        entropy = _pixel_cross_entropy(logits, label, label_smoothing)
        pixels = entropy.reshape(len(entropy), -1)
        worst, _ = jax.lax.top_k(pixels, max(1, int(fraction * pixels.shape[1])))
        return worst.mean(-1)

    return _per_example("top_k_cross_entropy", of_example)


def focal(gamma: float) -> Loss:
    """Mean of -(1 - p)^gamma log(p), p the probability of the true class.

    Lin et al., 2017, arXiv:1708.02002, for several classes; `gamma` is at least 1.
    """

    def of_example(logits: jax.Array, label: jax.Array) -> jax.Array:
        entropy = _pixel_cross_entropy(logits, label, 0.0)
        return ((-jnp.expm1(-entropy)) ** gamma * entropy).mean((1, 2))

    return _per_example("focal", of_example)


def dice(smooth: float) -> Overlap:
    """One minus the mean over classes of (2 TP + s) / (2 TP + FP + FN + s).

    With s = 1e-5 it is nnU-Net's (Isensee et al., 2021, doi:10.1038/s41592-020-01008-z).
    """

    def loss(tp: jax.Array, fp: jax.Array, fn: jax.Array) -> jax.Array:
        return 1.0 - ((2.0 * tp + smooth) / (2.0 * tp + fp + fn + smooth)).mean()

    return loss


def generalized_dice(smooth: float) -> Overlap:
    """One minus (sum_k w_k 2 TP_k + s) / (sum_k w_k (2 TP_k + FP_k + FN_k) + s).

    Sudre et al., 2017, arXiv:1707.03237: w_k is the inverse square of the pixels of class k, here
    times the square of those of the smallest class present, so that the largest weight is 1. A
    class that is absent has weight 1 (as in MONAI, the largest of those present).
    """

    def loss(tp: jax.Array, fp: jax.Array, fn: jax.Array) -> jax.Array:
        pixels = tp + fn
        is_present = pixels > 0
        smallest = jnp.where(is_present, pixels, jnp.inf).min()
        ratio = jnp.where(is_present, smallest / jnp.where(is_present, pixels, 1.0), 1.0)
        # TP + FN is the number of labels: it does not depend on the prediction.
        weight = jax.lax.stop_gradient(ratio**2)
        overlap = (weight * 2.0 * tp).sum() + smooth
        return 1.0 - overlap / ((weight * (2.0 * tp + fp + fn)).sum() + smooth)

    return loss


def tversky(alpha: float, beta: float, gamma: float, smooth: float) -> Overlap:
    """Mean over classes of (1 - T)^(1 / gamma), T = (TP + s) / (TP + alpha FP + beta FN + s).

    Salehi et al., 2017, arXiv:1706.05721; with `gamma` above 1 the focal Tversky loss of Abraham
    and Khan, 2019, arXiv:1810.07842 (they take 4/3).
    """

    def loss(tp: jax.Array, fp: jax.Array, fn: jax.Array) -> jax.Array:
        missing = 1.0 - (tp + smooth) / (tp + alpha * fp + beta * fn + smooth)
        if gamma != 1.0:
            missing = jnp.maximum(missing, _LEAST_LOSS) ** (1.0 / gamma)
        return missing.mean()

    return loss


def _counts(logits: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Soft TP, FP and FN of each class but background, (B, K-1) each."""
    probability = jax.nn.softmax(logits)[..., 1:]
    truth = jax.nn.one_hot(label, logits.shape[-1], dtype=probability.dtype)[..., 1:]
    return (
        (probability * truth).sum((1, 2)),
        (probability * (1.0 - truth)).sum((1, 2)),
        ((1.0 - probability) * truth).sum((1, 2)),
    )


def overlap(name: str, of_counts: Overlap, over: Over) -> Loss:
    """An overlap loss of the sums over the whole batch, or its mean over examples.

    Args:
        name: of its statistic, if it is per example.
        of_counts: the loss of the counts.
        over: "batch" or "sample".
    """
    if over == "sample":
        return _per_example(
            name, lambda logits, label: jax.vmap(of_counts)(*_counts(logits, label))
        )
    names = ("true_positive", "false_positive", "false_negative")
    return Loss(
        statistics=lambda logits, label: dict(zip(names, _counts(logits, label), strict=True)),
        objective=lambda sums: of_counts(*(sums[name] for name in names)),
        linear=False,
    )


def weighted_sum(terms: list[tuple[float, Loss]]) -> Loss:
    """The sum of losses, each times its weight; statistics of one name are the same in all."""

    def statistics(logits: jax.Array, label: jax.Array) -> dict[str, jax.Array]:
        found: dict[str, jax.Array] = {}
        for _, term in terms:
            found |= term.statistics(logits, label)
        return found

    def objective(sums: Statistics) -> jax.Array:
        total = jnp.zeros(())
        for weight, term in terms:
            total += weight * term.objective(sums)
        return total

    return Loss(statistics, objective, linear=all(term.linear for _, term in terms))
