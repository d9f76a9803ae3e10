"""The results of an epoch: its entry in the history, and a line about it."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mbh_jax.evaluation.case import ANY
from mbh_jax.evaluation.case_table import region_counts
from mbh_jax.evaluation.overlap import class_overlap, mean_of_known
from mbh_jax.labels import CLASS_NAMES, FOREGROUND
from mbh_jax.optimization.loss import Loss
from mbh_jax.training.run_state import Sums


def objective(loss: Loss, sums: Sums) -> float:
    """The loss of statistics that were added up over examples; NaN if there were none."""
    if not sums["examples"]:
        return math.nan
    return float(loss.objective(jax.tree.map(jnp.float32, sums)))


def entry(
    loss: Loss, *, epoch: int, step: int, learning_rate: float, trained: Sums, validated: Sums
) -> dict[str, Any]:
    """The results of an epoch, as plain numbers.

    Args:
        loss: the run's.
        epoch: its number, from 1.
        step: training steps taken since the run began.
        learning_rate: of the last of them.
        trained: what the epoch's training steps returned, added up.
        validated: what the validation step returned of all validation slices, added up.

    Returns:
        Losses and metrics of training (running over the epoch, with dropout and augmentation, at
        the network's resolution) and of validation ("val_", after the epoch, Dice on the scan's own
        grid). `foreground_dice` is the pooled Dice, the mean of the five kinds of blood.
    """
    train_dice = class_overlap(trained["confusion"]).dice[list(FOREGROUND)]
    val_dice = class_overlap(validated["native_confusion"]).dice[list(FOREGROUND)]
    mean_keras_dice = {
        prefix: float(sums["dice_coef_multiclass"] / sums["examples"])
        for prefix, sums in (("", trained), ("val_", validated))
    }
    return {
        "epoch": epoch,
        "step": step,
        "learning_rate": learning_rate,
        "loss": objective(loss, trained),
        "val_loss": objective(loss, validated),
        "dice_coef_multiclass": mean_keras_dice[""],
        "val_dice_coef_multiclass": mean_keras_dice["val_"],
        "foreground_dice": _number(float(mean_of_known(train_dice))),
        "val_foreground_dice": _number(float(mean_of_known(val_dice))),
        **{
            f"val_dice_{CLASS_NAMES[label]}": _number(float(dice))
            for label, dice in zip(FOREGROUND, val_dice, strict=True)
        },
        "val_dice_any": _number(_dice_of_any_blood(validated["native_confusion"])),
    }


def line(entry: dict[str, Any], improved: bool) -> str:
    """An epoch's entry in one line; `improved`: it has the best validation loss so far."""
    dice = entry["val_foreground_dice"]
    return (
        f"epoch {entry['epoch']}: loss {entry['loss']:.4f}, val_loss {entry['val_loss']:.4f}"
        f"{' (best)' if improved else ''}, foreground Dice "
        f"{'-' if dice is None else format(dice, '.3f')}, learning rate "
        f"{entry['learning_rate']:.3g}, {entry['train_seconds']:.0f} + "
        f"{entry['validation_seconds']:.0f} s"
    )


def _dice_of_any_blood(confusion: np.ndarray) -> float:
    """Dice of all kinds of blood as one class, from voxels by true and predicted class (K, K)."""
    n_ref, n_pred, true_positives = region_counts(confusion, ANY)
    return 2 * true_positives / (n_ref + n_pred) if n_ref + n_pred else math.nan


def _number(value: float) -> float | None:
    """A plain float; None for NaN, a value that does not exist."""
    return None if math.isnan(value) else value
