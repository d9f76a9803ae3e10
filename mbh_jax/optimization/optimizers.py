"""Optimizer chains, learning-rate schedules and the plateau rule, all from optax."""

import optax
from ml_collections import ConfigDict

from mbh_jax import keys

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


def _adam(
    schedule: optax.Schedule, *, beta1: float, beta2: float, epsilon: float
) -> optax.GradientTransformation:
    return optax.adam(schedule, b1=beta1, b2=beta2, eps=epsilon)


def _adamw(
    schedule: optax.Schedule, *, beta1: float, beta2: float, epsilon: float, weight_decay: float
) -> optax.GradientTransformation:
    return optax.adamw(schedule, b1=beta1, b2=beta2, eps=epsilon, weight_decay=weight_decay)


_ADAM_KEYS = {
    "beta1": keys.number(0.9, 0, "decay of the mean of gradients", below=1),
    "beta2": keys.number(0.999, 0, "decay of the mean of their squares", below=1),
    "epsilon": keys.positive(1e-7, "added to the root of that mean (Keras's default)"),
}

OPTIMIZERS: dict[str, keys.Component] = {
    "adam": keys.Component(_adam, _ADAM_KEYS, "Adam"),
    "adamw": keys.Component(
        _adamw,
        _ADAM_KEYS | {"weight_decay": keys.number(0.0, 0, "decay of the weights, times the rate")},
        "Adam with decoupled weight decay",
    ),
}
"""What `optimizer.name` may be."""


def create_optimizer(
    config: ConfigDict, schedule: optax.Schedule
) -> optax.GradientTransformationExtraArgs:
    """The gradient transformation of the section "optimizer" of a configuration.

    `clip_value` bounds every gradient component, `clip_norm` the global norm; 0 turns either off.
    """
    clipping = []
    if config.clip_value:
        clipping.append(optax.clip(config.clip_value))
    if config.clip_norm:
        clipping.append(optax.clip_by_global_norm(config.clip_norm))
    optimizer = OPTIMIZERS[config.name]
    own_values = {key: config[key] for key in optimizer.keys}
    return optax.with_extra_args_support(
        optax.chain(*clipping, optimizer.create(schedule, **own_values))
    )


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
