"""What a configuration may say: the keys, the components that own some of them, and the checks.

    python -m mbh_jax.config --markdown > docs/configuration.md

A configuration holds the shared keys, the names of a network, a loss, an optimizer and an
augmentation, the keys of those four, and no others.
"""

import argparse
import difflib
import math
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mbh_jax import keys, models
from mbh_jax.data import crops, neighbours, sampling
from mbh_jax.data.augmentation import AUGMENTATIONS
from mbh_jax.errors import UserError
from mbh_jax.imageio import windows
from mbh_jax.keys import Key, flatten
from mbh_jax.models.architecture import Architecture
from mbh_jax.optimization.losses import LOSSES
from mbh_jax.optimization.optimizers import OPTIMIZERS, SCHEDULES
from mbh_jax.runtime import profiling
from mbh_jax.runtime.parallel import MODES

COMPONENTS: dict[str, Mapping[str, keys.Component | Architecture]] = {
    "model": models.NETWORKS,
    "loss": LOSSES,
    "optimizer": OPTIMIZERS,
    "augment": AUGMENTATIONS,
}
"""The sections whose `name` chooses a component, which has further keys there."""


SHARED_KEYS: dict[str, Key] = {
    "seed": keys.integer(
        # JAX makes its key from 32 bits.
        0,
        0,
        "of initial weights, order, augmentation and dropout",
        maximum=2**32 - 1,
    ),
    "data.dir": keys.text("data/bhsd", "folder that `data_prep.build_tfrecords` wrote"),
    "data.image_size": keys.integer(
        512, 8, "side of the network's input; slices are resized on the device"
    ),
    "data.window": keys.choice(
        "hu_0_255",
        windows.PRESETS,
        "input channels: `hu_0_255` (HU clamped to 0..255, three times, as the original), `brain` "
        "(level 40, width 80), `brain_subdural_bone` (40/80, 80/200, 600/2800), `brain_blood_wide` "
        "(40/80, 75/150, 127.5/255: pictures clamped to 0..255 HU have all of it)",
    ),
    "data.slices": keys.choice(
        "blood", ("all", "blood"), "slices to train and validate on: all, or those with blood"
    ),
    "data.resident": keys.switch(
        False,
        "hold the training slices in device memory; needs `data_prep.pack_dataset`, and then "
        "neither TensorFlow nor the records (docs/launching.md)",
    ),
    **{f"data.{name}": key for name, key in (sampling.KEYS | crops.KEYS | neighbours.KEYS).items()},
    "model.name": keys.choice("flexunet", models.NETWORKS, "the network"),
    "loss.name": keys.choice("cross_entropy", LOSSES, "the loss"),
    "optimizer.name": keys.choice("adam", OPTIMIZERS, "the optimizer"),
    "optimizer.learning_rate": keys.positive(5e-5, "the highest learning rate"),
    "optimizer.clip_value": keys.number(0.0, 0, "bound of each gradient; 0: none"),
    "optimizer.clip_norm": keys.number(0.0, 0, "bound of the norm of all gradients; 0: none"),
    "optimizer.schedule": keys.choice("constant", SCHEDULES, "learning rate after the warm-up"),
    "optimizer.warmup_epochs": keys.number(0.0, 0, "epochs of linear increase from 0"),
    "optimizer.plateau_patience": keys.integer(
        0,
        0,
        "epochs without a better validation loss after which the rate is lowered; 0: never",
        maximum=2**31 - 1,
    ),
    "optimizer.plateau_factor": keys.number(0.5, 0.01, "factor by which it is lowered", below=1),
    "augment.name": keys.choice("basic", AUGMENTATIONS, "the augmentation"),
    "train.batch_size": keys.integer(2, 1, "slices in a batch, over all devices"),
    "train.accumulate_steps": keys.integer(
        1, 1, "microbatches that a batch is divided into: the memory of one, the result of all"
    ),
    "train.steps_per_call": keys.integer(
        1, 1, "steps in one call of the compiled program, for devices with very short steps"
    ),
    "train.num_epochs": keys.integer(100, 1, "epochs"),
    "train.steps_per_epoch": keys.integer(
        0, 0, "steps after which an epoch ends; 0: when every slice was drawn once"
    ),
    "train.ema_decay": keys.number(
        0.0, 0, "decay of the average of the weights that is evaluated and kept; 0: none", below=1
    ),
    "train.early_stopping_patience": keys.integer(
        0, 0, "epochs without a better validation loss after which the run stops; 0: never"
    ),
    "train.max_nonfinite_steps": keys.integer(
        0, 0, "batches of an epoch that may be skipped because loss or gradient is not finite"
    ),
    "train.log_every_steps": keys.integer(20, 1, "steps between two readings of the loss"),
    "train.checkpoint_every_steps": keys.integer(
        0, 0, "steps between two checkpoints; 0: at the end of each epoch only"
    ),
    "train.preview_slices": keys.integer(6, 0, "validation slices drawn after each epoch"),
    "eval.split": keys.choice(
        "test", ("train", "validation", "test"), "what `--mode=evaluate` evaluates"
    ),
    "eval.slices": keys.choice("all", ("all", "blood"), "slices of each volume to evaluate"),
    "eval.batch_size": keys.integer(4, 1, "slices in a batch of validation and evaluation"),
    "eval.checkpoint": keys.choice(
        "best", ("best", "last"), "checkpoint that evaluation and `--init_from` take"
    ),
    "parallel.mode": keys.choice("pmap", MODES, "how a step runs on many devices"),
    **{f"profile.{name}": key for name, key in profiling.KEYS.items()},
}
"""Keys that every configuration has."""


def keys_of(values: Mapping[str, Any]) -> dict[str, Key]:
    """The keys of a configuration with these flattened values: shared, then its components'."""
    found = dict(SHARED_KEYS)
    for section, components in COMPONENTS.items():
        chosen = f"{section}.name"
        component = components.get(str(values.get(chosen, SHARED_KEYS[chosen].default)))
        if component is not None:
            found |= {f"{section}.{name}": key for name, key in component.keys.items()}
    return found


def every_key() -> dict[str, Key]:
    """The keys of all configurations: the shared ones and those of all components."""
    owned = {
        f"{section}.{name}": key
        for section, components in COMPONENTS.items()
        for component in components.values()
        for name, key in component.keys.items()
    }
    return SHARED_KEYS | owned


def owners_of(key: str) -> list[str]:
    """Names of the components that own a key, such as "loss.dice_weight"."""
    section, _, name = key.partition(".")
    return [owner for owner, part in COMPONENTS.get(section, {}).items() if name in part.keys]


def check_key(key: str, values: Mapping[str, Any]) -> None:
    """Refuses a key that a configuration with these flattened values cannot have.

    Raises:
        UserError: with the nearest valid name, or with the component that has such a key.
    """
    if key in keys_of(values):
        return
    owners = owners_of(key)
    if owners:
        chosen = f"{key.partition('.')[0]}.name"
        name, rule = values.get(chosen), SHARED_KEYS[chosen]
        if not rule.accepts(name):
            raise UserError(f"config: {chosen} must be {rule.wanted}, not {name!r}")
        raise UserError(
            f"config: {key} belongs to {' and '.join(owners)}, and {chosen} is {name}: "
            f"--config.{chosen}={owners[0]}, or leave it out"
        )
    close = difflib.get_close_matches(key, every_key(), n=1)
    raise UserError(f"config: unknown key {key}" + (f", did you mean {close[0]}?" if close else ""))


def complete(config: ConfigDict | dict) -> ConfigDict:
    """A configuration with the keys that it may have: missing ones get their defaults.

    Keys of components that it does not choose are left out; keys that nobody knows stay, for
    `validate` to refuse. So a configuration of an earlier version is read, and another component
    can be chosen.
    """
    given = dict(flatten(config))
    values = {key: given.get(key, rule.default) for key, rule in keys_of(given).items()}
    values |= {key: value for key, value in given.items() if not owners_of(key)}
    completed: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = key.split(".")
        target = completed
        for section in sections:
            target = target.setdefault(section, {})
        target[name] = value
    return ConfigDict(completed)


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
        check_key(key, values)
    for key, rule in keys_of(values).items():
        if key not in values:
            raise UserError(f"config: {key} is missing: it must be {rule.wanted}")
        if not rule.accepts(values[key]):
            raise UserError(f"config: {key} must be {rule.wanted}, not {_shown(values[key])}")

    divisor = models.size_divisor(config.model)
    if config.data.image_size % divisor:
        lower = config.data.image_size // divisor * divisor
        raise UserError(
            f"config: data.image_size={config.data.image_size} does not fit "
            f"model.name={config.model.name} with these keys: give a multiple of {divisor}, such "
            f"as {max(lower, divisor)}"
        )
    parts = [(COMPONENTS[name][config[name].name], config[name]) for name in COMPONENTS]
    of_data = (
        crops.problem(config.data, divisor),
        sampling.problem(config.data),
        neighbours.problem(config.data, config.model),
    )
    for problem in (*of_data, *(component.problem(section) for component, section in parts)):
        if problem:
            raise UserError(f"config: {problem}")
    if config.optimizer.warmup_epochs >= config.train.num_epochs:
        raise UserError(
            f"config: optimizer.warmup_epochs={config.optimizer.warmup_epochs:g} must be less than "
            f"train.num_epochs={config.train.num_epochs}"
        )
    for key in batches:
        microbatches = config.train.accumulate_steps if key == "train.batch_size" else 1
        divisor = num_devices * microbatches
        if values[key] % divisor:
            also = f" and train.accumulate_steps={microbatches}" if microbatches > 1 else ""
            multiple = math.ceil(values[key] / divisor) * divisor
            raise UserError(
                f"config: {key}={values[key]} does not divide over {num_devices} devices{also}: "
                f"give a multiple of {divisor}, such as --config.{key}={multiple}, or fewer "
                "devices (CUDA_VISIBLE_DEVICES=0,1 for two GPUs)"
            )


def _shown(value: Any) -> str:
    """A value, and what it is on a device if that is one that no rule takes in its place."""
    rounded = keys.in_float32(value)
    is_another = rounded != value and (rounded in (0, 1) or math.isinf(rounded))
    return f"{value!r}" + (f", which is {rounded:g} in float32" if is_another else "")


def markdown() -> str:
    """docs/configuration.md: every key with its meaning, default and rule."""

    def table(entries: Mapping[str, Key]) -> list[str]:
        rows = [
            f"| `{name}` | {key.meaning} | `{key.default!r}` | {key.wanted} |"
            for name, key in entries.items()
        ]
        return ["| key | meaning | default | must be |", "|---|---|---|---|", *rows, ""]

    lines = [
        "# Configuration",
        "",
        "A recipe in `configs/` is a Python file whose `get_config()` returns a "
        "`ml_collections.ConfigDict`. `--config.SECTION.KEY=VALUE` overrides a key; an unknown "
        "key is refused with the nearest valid one, a wrong value with what it must be. A recipe "
        "holds the shared keys, the keys of the network, loss, optimizer and augmentation that it "
        "names, and no others. Where an override names another one, its keys start from the "
        "defaults below.",
        "",
        "This page is written by `python -m mbh_jax.config --markdown > docs/configuration.md`.",
        "",
        "## Shared keys",
        "",
        *table(SHARED_KEYS),
    ]
    for section, components in COMPONENTS.items():
        for name, component in components.items():
            lines += [f"## `{section}.name={name}`", "", f"{component.meaning}.", ""]
            own = {f"{section}.{key}": value for key, value in component.keys.items()}
            lines += table(own) if own else ["It has no further keys.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m mbh_jax.config", description="Prints every key of a configuration."
    )
    parser.add_argument("--markdown", action="store_true", required=True, help="as Markdown")
    parser.parse_args()
    print(markdown(), end="")
