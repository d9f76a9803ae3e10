"""What a configuration may say: one rule a key, and the checks that need several keys.

Every key has one meaning in one place; a configuration holds all of them and no other.
"""

import difflib
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from mbh_jax import models
from mbh_jax.data import preprocess
from mbh_jax.errors import UserError
from mbh_jax.runtime.parallel import MODES


class Rule(NamedTuple):
    """What a key's value must be: a test, and the words that say so."""

    accepts: Callable[[Any], bool]
    wanted: str


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _integer(minimum: int) -> Rule:
    return Rule(
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= minimum,
        f"a whole number of {minimum} or more",
    )


def _number(minimum: float, below: float = math.inf) -> Rule:
    wanted = f"a number from {minimum:g}" + ("" if below == math.inf else f" to below {below:g}")
    return Rule(lambda value: _is_number(value) and minimum <= value < below, wanted)


def _choice(*values: str) -> Rule:
    return Rule(lambda value: value in values, "one of " + ", ".join(values))


def _is_range_of_steps(value: Any) -> bool:
    found = re.fullmatch(r"([1-9][0-9]*):([1-9][0-9]*)", value) if isinstance(value, str) else None
    return found is not None and int(found[1]) < int(found[2])


_POSITIVE = Rule(lambda value: _is_number(value) and 0 < value < math.inf, "a number above 0")
_TEXT = Rule(lambda value: isinstance(value, str) and bool(value), "a text")
_SWITCH = Rule(lambda value: isinstance(value, bool), "True or False")

_STEPS_OR_NONE = Rule(
    lambda value: value == "" or _is_range_of_steps(value),
    "empty, or a first and a later last step, counted from 1, as in 10:15",
)

RULES: dict[str, Rule] = {
    "seed": _integer(0),
    # Data: where the records are, and how a slice becomes network input.
    "data.dir": _TEXT,
    "data.image_size": _integer(8),
    "data.window": _choice(*preprocess.WINDOWS),
    "data.slices": _choice("all", "blood"),
    "data.resident": _SWITCH,
    # Network.
    "model.name": _choice(*models.MODELS),
    "model.base_filters": _integer(1),
    "model.base_kernel": _integer(1),
    "model.num_layers": _integer(2),
    "model.dropout_rate": _number(0, 1),
    "model.dilation": _integer(1),
    "model.activation": _choice(*models.ACTIVATIONS),
    "model.norm": _choice(*models.NORMS),
    "model.dtype": _choice("float32", "bfloat16"),
    "model.remat": _SWITCH,
    # Loss and optimizer.
    "loss.name": _choice("cross_entropy", "cross_entropy_dice"),
    "loss.dice_weight": _number(0),
    "loss.dice_smooth": _POSITIVE,
    "optimizer.name": _choice("adam", "adamw"),
    "optimizer.learning_rate": _POSITIVE,
    "optimizer.beta1": _number(0, 1),
    "optimizer.beta2": _number(0, 1),
    "optimizer.epsilon": _POSITIVE,
    "optimizer.weight_decay": _number(0),
    "optimizer.clip_value": _number(0),
    "optimizer.clip_norm": _number(0),
    "optimizer.schedule": _choice("constant", "cosine"),
    "optimizer.warmup_epochs": _number(0),
    "optimizer.plateau_patience": _integer(0),
    "optimizer.plateau_factor": _number(0.01, 1),
    # Augmentation, on the device.
    "augment.flip": _SWITCH,
    "augment.rotation_degrees": _number(0, 180),
    "augment.scale": _number(0, 1),
    "augment.shift": _number(0, 1),
    "augment.hu_scale": _number(0),
    "augment.hu_shift_hu": _number(0),
    "augment.hu_noise_hu": _number(0),
    # The loop.
    "train.batch_size": _integer(1),
    "train.accumulate_steps": _integer(1),
    "train.steps_per_call": _integer(1),
    "train.num_epochs": _integer(1),
    "train.early_stopping_patience": _integer(0),
    "train.max_nonfinite_steps": _integer(0),
    "train.log_every_steps": _integer(1),
    "train.checkpoint_every_steps": _integer(0),
    "train.preview_slices": _integer(0),
    "eval.split": _choice("train", "validation", "test"),
    "eval.slices": _choice("all", "blood"),
    "eval.batch_size": _integer(1),
    "eval.checkpoint": _choice("best", "last"),
    "parallel.mode": _choice(*MODES),
    "profile.steps": _STEPS_OR_NONE,
}
"""Every key of a configuration. README's table says what each means."""

MAY_CHANGE_ON_RESUME = (
    "data.dir",
    "data.resident",
    "model.remat",
    "train.accumulate_steps",
    "train.num_epochs",
    "train.max_nonfinite_steps",
    "train.log_every_steps",
    "train.checkpoint_every_steps",
    "train.preview_slices",
    "eval.",
    "parallel.",
    "profile.",
)
"""Keys, or beginnings of keys, that do not alter the course of a run already begun."""

MAY_NOT_CHANGE_WHERE: dict[str, Callable[[dict[str, Any]], bool]] = {
    # A schedule that ends with the run takes another course when the end is moved.
    "train.num_epochs": lambda values: values.get("optimizer.schedule") != "constant",
    # Batch statistics are those of one part of a batch.
    "train.accumulate_steps": lambda values: values.get("model.norm") == "batch",
}
"""Of those, keys that alter it under some configurations."""


def flatten(config: ConfigDict | dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields `("section.key", value)` for every leaf."""
    for key, value in config.items():
        if isinstance(value, ConfigDict | dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def nearest_key(key: str) -> str:
    """`", did you mean <key>?"` for a key that resembles a valid one, or an empty text."""
    close = difflib.get_close_matches(key, RULES, n=1)
    return f", did you mean {close[0]}?" if close else ""


def validate(
    config: ConfigDict,
    num_devices: int,
    batches: tuple[str, ...] = ("train.batch_size", "eval.batch_size"),
) -> None:
    """Checks keys, values and combinations.

    Args:
        config: the whole configuration.
        num_devices: devices of all processes, which must divide the batches.
        batches: the batches that are going to be used.

    Raises:
        UserError: naming the first key that is wrong, what it must be, or the nearest valid name.
    """
    values = dict(flatten(config))
    for key in values:
        if key not in RULES:
            raise UserError(f"config: unknown key {key}{nearest_key(key)}")
    for key, rule in RULES.items():
        if key not in values:
            raise UserError(f"config: {key} is missing: it must be {rule.wanted}")
        if not rule.accepts(values[key]):
            raise UserError(f"config: {key} must be {rule.wanted}, not {values[key]!r}")

    divisor = models.size_divisor(config.model.num_layers)
    if config.data.image_size % divisor:
        lower = config.data.image_size // divisor * divisor
        raise UserError(
            f"config: data.image_size={config.data.image_size} cannot be halved "
            f"{config.model.num_layers - 1} times: with model.num_layers={config.model.num_layers} "
            f"it must be a multiple of {divisor}, such as {max(lower, divisor)}"
        )
    deepest = config.model.dropout_rate * (config.model.num_layers - 1)
    if deepest >= 1:
        raise UserError(
            f"config: model.dropout_rate={config.model.dropout_rate} grows by itself a level, to "
            f"{deepest:g} in the last of {config.model.num_layers}: give less than "
            f"{1 / (config.model.num_layers - 1):.3g}"
        )
    if config.optimizer.weight_decay and config.optimizer.name == "adam":
        raise UserError(
            "config: optimizer.weight_decay has no effect on adam: "
            "--config.optimizer.name=adamw, or 0"
        )
    if config.optimizer.warmup_epochs >= config.train.num_epochs:
        raise UserError(
            f"config: optimizer.warmup_epochs={config.optimizer.warmup_epochs:g} must be less than "
            f"train.num_epochs={config.train.num_epochs}"
        )
    for key in batches:
        parts = config.train.accumulate_steps if key == "train.batch_size" else 1
        divisor = num_devices * parts
        if values[key] % divisor:
            in_parts = f" and train.accumulate_steps={parts}" if parts > 1 else ""
            multiple = math.ceil(values[key] / divisor) * divisor
            raise UserError(
                f"config: {key}={values[key]} does not divide over {num_devices} devices{in_parts}"
                f": give a multiple of {divisor}, such as --config.{key}={multiple}, or fewer "
                "devices (CUDA_VISIBLE_DEVICES=0,1 for two GPUs)"
            )


def _may_change(key: str, values: dict[str, Any]) -> bool:
    """Whether a run of the configuration `values` may go on with another value of `key`."""
    alters = MAY_NOT_CHANGE_WHERE.get(key, lambda _: False)
    return key.startswith(MAY_CHANGE_ON_RESUME) and not alters(values)


def differences(old: dict, new: ConfigDict | dict) -> list[str]:
    """`"key: old -> new"` for every key that differs and may not change on resuming a run."""
    before, after = dict(flatten(old)), dict(flatten(new))
    changed = [
        key
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not _may_change(key, after)
    ]
    return [f"{key}: {before.get(key)!r} -> {after.get(key)!r}" for key in changed]
