"""What an epoch came to: its entry in the history, and a line of it."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from mbh_jax import evaluate
from mbh_jax.evaluation.overlap import class_overlap, mean_of_known
from mbh_jax.labels import CLASS_NAMES, FOREGROUND
from mbh_jax.training.run_state import RunRecord, Sums
from mbh_jax.training.setup import Experiment
from mbh_jax.training.train_state import TrainState


def objective(experiment: Experiment, sums: Sums) -> float:
    """The loss of statistics added up over examples."""
    return float(experiment.loss.objective(jax.tree.map(jnp.float32, sums)))


def entry(
    experiment: Experiment, state: TrainState, record: RunRecord, rows: evaluate.Rows
) -> dict[str, Any]:
    """What an epoch came to, as plain numbers.

    Args:
        experiment: loss and schedule.
        state: after the epoch's last step.
        record: with the sums of the epoch's training steps.
        rows: the evaluation of the validation slices.

    Returns:
        Losses and metrics of training (running over the epoch, with dropout and augmentation, at
        the network's resolution) and of validation ("val_", after the epoch, Dice at the scan's own
        matrix). `foreground_dice` is the pooled Dice, the mean of the five kinds of blood.
    """
    step = int(state.step)
    trained, validated = record.sums, evaluate.sum_rows(rows)
    train_dice = class_overlap(trained["confusion"]).dice[list(FOREGROUND)]
    val_dice = class_overlap(validated["native_confusion"]).dice[list(FOREGROUND)]
    mean_keras_dice = {
        prefix: float(sums["dice_coef_multiclass"] / sums["examples"])
        for prefix, sums in (("", trained), ("val_", validated))
    }
    return {
        "epoch": record.epoch + 1,
        "step": step,
        "learning_rate": float(experiment.schedule(step - 1) * state.plateau.scale),
        "loss": objective(experiment, trained),
        "val_loss": objective(experiment, validated),
        "dice_coef_multiclass": mean_keras_dice[""],
        "val_dice_coef_multiclass": mean_keras_dice["val_"],
        "foreground_dice": _number(float(mean_of_known(train_dice))),
        "val_foreground_dice": _number(float(mean_of_known(val_dice))),
        **{
            f"val_dice_{CLASS_NAMES[label]}": _number(float(dice))
            for label, dice in zip(FOREGROUND, val_dice, strict=True)
        },
    }


def line(entry: dict[str, Any], improved: bool) -> str:
    """An epoch's entry in one line; `improved` says that it has the best validation loss so far."""
    dice = entry["val_foreground_dice"]
    return (
        f"epoch {entry['epoch']}: loss {entry['loss']:.4f}, val_loss {entry['val_loss']:.4f}"
        f"{' (best)' if improved else ''}, foreground Dice "
        f"{'-' if dice is None else format(dice, '.3f')}, learning rate "
        f"{entry['learning_rate']:.3g}, {entry['train_seconds']:.0f} + "
        f"{entry['validation_seconds']:.0f} s"
    )


def _number(value: float) -> float | None:
    """A plain float; None, JSON's word for a value that does not exist, for NaN."""
    return None if math.isnan(value) else value
