"""Confusion counts of a batch on the device, and the Keras metric.

Counts add up: of slices to a volume, of volumes to a set, of devices to a batch.
"""

import jax
import jax.numpy as jnp

KERAS_DICE_SMOOTH = 1.0
"""Pixels that the Keras FlexUNet adds to numerator and denominator of its Dice."""


def confusion_counts(label: jax.Array, prediction: jax.Array, num_classes: int) -> jax.Array:
    """Counts the pixels of each pair of true and predicted class, an example at a time.

    Args:
        label: (B,H,W) integer, true label values; other values than 0..K-1 are not counted.
        prediction: (B,H,W) integer, predicted label values.
        num_classes: K.

    Returns:
        (B,K,K) int32, axes [example, true, predicted]. Exact up to 2**24 pixels an example: the
        counting is a product of one-hot matrices, which every accelerator is fast at and which
        needs no atomic additions, and float32 holds the integers up to there.
    """
    batch = label.shape[0]
    true = jax.nn.one_hot(label.reshape(batch, -1), num_classes, dtype=jnp.float32)
    predicted = jax.nn.one_hot(prediction.reshape(batch, -1), num_classes, dtype=jnp.float32)
    counts = jnp.einsum("bnt,bnp->btp", true, predicted, preferred_element_type=jnp.float32)
    return counts.astype(jnp.int32)


def dice_coef_multiclass(probabilities: jax.Array, label: jax.Array) -> jax.Array:
    """The soft Dice that the Keras FlexUNet reports, an example at a time; for comparison only.

    (2 sum(y p) + 1) / (sum(y) + sum(p) + 1) over all pixels and classes, background included, with
    y the one-hot label and p the probabilities. Background dominates it: an empty prediction
    scores near 1 where there is little blood.

    Args:
        probabilities: (B,H,W,K) float, softmax over the last axis.
        label: (B,H,W) integer.

    Returns:
        (B,) float32.
    """
    truth = jax.nn.one_hot(label, probabilities.shape[-1], dtype=jnp.float32)
    axes = (1, 2, 3)
    intersection = (truth * probabilities).sum(axes, dtype=jnp.float32)
    total = truth.sum(axes) + probabilities.sum(axes, dtype=jnp.float32)
    return (2.0 * intersection + KERAS_DICE_SMOOTH) / (total + KERAS_DICE_SMOOTH)
