"""Optimizer chains, learning-rate schedules and the plateau rule, all from optax."""

import jax
import optax
from ml_collections import ConfigDict

from mbh_jax import keys
from mbh_jax.errors import UserError

PLATEAU_MIN_DELTA = 1e-4
"""Smallest fall of the validation loss that counts as better: Keras's ReduceLROnPlateau default."""

POLY_POWER = 0.9
"""Exponent of the schedule "poly": nnU-Net's."""

MAX_STEPS = 2**31 - 1
"""Steps that an int32 on the device can count."""

SCHEDULES = ("constant", "cosine", "poly")
"""What `optimizer.schedule` may be."""


def create_schedule(config: ConfigDict, steps_per_epoch: int, num_epochs: int) -> optax.Schedule:
    """The learning rate by step, before the plateau rule scales it.

    Args:
        config: `config.optimizer`: learning_rate, schedule ("constant" | "cosine" | "poly"),
            warmup_epochs.
        steps_per_epoch: optimizer steps an epoch.
        num_epochs: length of the run; "cosine" and "poly" end at zero there.

    "poly" is (1 - t)^0.9 with t the share of the steps after the warm-up that are done: nnU-Net's
    rule (Isensee et al., 2021), by step instead of by epoch.

    Raises:
        UserError: the schedule is longer than a device can count steps.
    """
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    num_steps = warmup_steps if config.schedule == "constant" else num_epochs * steps_per_epoch
    if num_steps > MAX_STEPS:
        raise UserError(
            f"config: optimizer.schedule={config.schedule} over {num_steps} steps: at most "
            f"{MAX_STEPS} can be counted; give a smaller train.num_epochs, now {num_epochs}, or "
            "optimizer.schedule=constant without a warm-up"
        )
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(
            init_value=0.0 if warmup_steps else config.learning_rate,
            peak_value=config.learning_rate,
            warmup_steps=warmup_steps,
            decay_steps=max(num_epochs * steps_per_epoch, warmup_steps + 1),
        )
    if config.schedule == "poly":
        main = optax.polynomial_schedule(
            init_value=config.learning_rate,
            end_value=0.0,
            power=POLY_POWER,
            transition_steps=max(num_steps - warmup_steps, 1),
        )
    else:
        main = optax.constant_schedule(config.learning_rate)
    if not warmup_steps:
        return main
    warmup = optax.linear_schedule(0.0, config.learning_rate, warmup_steps)
    return optax.join_schedules([warmup, main], [warmup_steps])


def _decay_kernels(weight_decay: float) -> optax.GradientTransformation:
    """Adds `weight_decay` times the weights to the updates of kernels.

    Biases, and scales and shifts of normalisations, are vectors and do not decay.
    """

    def add(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        return jax.tree.map(
            lambda update, weight: update + weight_decay * weight if weight.ndim > 1 else update,
            updates,
            params,
        )

    return optax.stateless(add)


def _adam(
    schedule: optax.Schedule, *, beta1: float, beta2: float, epsilon: float
) -> optax.GradientTransformation:
    return optax.adam(schedule, b1=beta1, b2=beta2, eps=epsilon)


def _adamw(
    schedule: optax.Schedule, *, beta1: float, beta2: float, epsilon: float, weight_decay: float
) -> optax.GradientTransformation:
    return optax.chain(
        optax.scale_by_adam(b1=beta1, b2=beta2, eps=epsilon),
        _decay_kernels(weight_decay),
        optax.scale_by_learning_rate(schedule),
    )


def _sgd(
    schedule: optax.Schedule, *, momentum: float, nesterov: bool, weight_decay: float
) -> optax.GradientTransformation:
    return optax.chain(
        _decay_kernels(weight_decay),
        optax.trace(decay=momentum, nesterov=nesterov),
        optax.scale_by_learning_rate(schedule),
    )


_ADAM_KEYS = {
    "beta1": keys.number(0.9, 0, "decay of the mean of gradients", below=1),
    "beta2": keys.number(0.999, 0, "decay of the mean of their squares", below=1),
    "epsilon": keys.positive(1e-7, "added to the root of that mean (Keras's default)"),
}

OPTIMIZERS: dict[str, keys.Component] = {
    "adam": keys.Component(_adam, _ADAM_KEYS, "Adam"),
    "adamw": keys.Component(
        _adamw,
        _ADAM_KEYS | {"weight_decay": keys.number(0.0, 0, "decay of the kernels, times the rate")},
        "Adam with decoupled weight decay of the kernels; biases and normalisations do not decay",
    ),
    "sgd": keys.Component(
        _sgd,
        {
            "momentum": keys.number(0.99, 0, "decay of the sum of gradients (nnU-Net's)", below=1),
            "nesterov": keys.switch(True, "Nesterov's momentum"),
            "weight_decay": keys.number(
                3e-5, 0, "added to the gradient of kernels, times the kernels (nnU-Net's)"
            ),
        },
        "stochastic gradient descent with momentum; biases and normalisations do not decay",
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
