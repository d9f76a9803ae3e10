"""Optimizer chains, learning-rate schedules and the plateau rule, all optax's own."""

import optax
from ml_collections import ConfigDict

PLATEAU_MIN_DELTA = 1e-4
"""Smallest fall of the validation loss that counts as better: Keras's ReduceLROnPlateau default."""


def create_schedule(config: ConfigDict, steps_per_epoch: int, num_epochs: int) -> optax.Schedule:
    """The learning rate by step, before the plateau rule scales it.

    Args:
        config: `config.optimizer`: learning_rate, schedule ("constant" | "cosine"), warmup_epochs.
        steps_per_epoch: optimizer steps an epoch.
        num_epochs: length of the run; the cosine ends at zero there.
    """
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(
            init_value=0.0 if warmup_steps else config.learning_rate,
            peak_value=config.learning_rate,
            warmup_steps=warmup_steps,
            decay_steps=max(num_epochs * steps_per_epoch, warmup_steps + 1),
        )
    constant = optax.constant_schedule(config.learning_rate)
    if not warmup_steps:
        return constant
    warmup = optax.linear_schedule(0.0, config.learning_rate, warmup_steps)
    return optax.join_schedules([warmup, constant], [warmup_steps])


def create_optimizer(
    config: ConfigDict, schedule: optax.Schedule
) -> optax.GradientTransformationExtraArgs:
    """The gradient transformation of `config.optimizer`.

    `clip_value` bounds every gradient component, `clip_norm` the global norm; 0 turns either off.
    """
    clipping = []
    if config.clip_value:
        clipping.append(optax.clip(config.clip_value))
    if config.clip_norm:
        clipping.append(optax.clip_by_global_norm(config.clip_norm))
    moments = {"b1": config.beta1, "b2": config.beta2, "eps": config.epsilon}
    if config.name == "adam":
        optimizer = optax.adam(schedule, **moments)
    elif config.name == "adamw":
        optimizer = optax.adamw(schedule, weight_decay=config.weight_decay, **moments)
    else:
        raise ValueError(f"unknown optimizer {config.name!r}")
    return optax.with_extra_args_support(optax.chain(*clipping, optimizer))


def create_plateau(config: ConfigDict) -> optax.GradientTransformationExtraArgs:
    """Halves (by `plateau_factor`) the learning rate after `plateau_patience` epochs without gain.

    Its state's `scale` multiplies the updates of every step; `update` is called once an epoch with
    the validation loss. A patience of 0 in the configuration never reduces.
    """
    return optax.contrib.reduce_on_plateau(
        factor=config.plateau_factor,
        patience=config.plateau_patience or 2**30,
        rtol=0.0,
        atol=PLATEAU_MIN_DELTA,
    )
