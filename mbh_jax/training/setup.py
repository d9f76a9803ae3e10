"""From a configuration to the parts of a training run: network, objective, compiled steps."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax
from ml_collections import ConfigDict

from mbh_jax.data import resident
from mbh_jax.optimization import losses, optimizers
from mbh_jax.optimization.deep_supervision import deeply_supervised
from mbh_jax.optimization.loss import Loss
from mbh_jax.runtime.parallel import Parallel, compile_eval_step, compile_train_step
from mbh_jax.training import steps
from mbh_jax.training.network import Network, create_network
from mbh_jax.training.train_state import TrainState


class Training(NamedTuple):
    """The parts of a training run, beside data and files.

    Attributes:
        network: in training mode: its batch statistics are of all devices.
        parallel: devices, and how steps run on them.
        loss: statistics and objective.
        schedule: learning rate by step, before the plateau rule.
        plateau: the plateau rule.
        init: jitted, makes the initial state.
        template: shapes and dtypes of the state.
        compile_train: number of steps in a call -> compiled training step (`steps`). With
            `data.resident` it takes the resident slices after the key.
        validation_step: compiled, see `steps.create_validation_step`.
        predict_step: compiled: (variables, batch) -> masks (B,H,W) uint8.
    """

    network: Network
    parallel: Parallel
    loss: Loss
    schedule: optax.Schedule
    plateau: optax.GradientTransformationExtraArgs
    init: Callable[[], TrainState]
    template: TrainState
    compile_train: Callable[[int], jax.stages.Wrapped]
    validation_step: Callable
    predict_step: Callable


def _init_compiler_options() -> dict[str, int] | None:
    """Of the program that draws the initial weights, which runs once.

    On a CPU, LLVM's full optimization of its random numbers takes several times as long as level 1.
    """
    return {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None


def create_training(config: ConfigDict, parallel: Parallel, *, steps_per_epoch: int) -> Training:
    """Builds network, loss, optimizer and steps of a valid configuration.

    Args:
        config: the whole configuration.
        parallel: devices, and how steps run on them.
        steps_per_epoch: for the learning-rate schedule.
    """
    network = create_network(config, axis_name=parallel.axis_name)
    loss = losses.create_loss(config.loss)
    if config.model.get("deep_supervision", False):
        loss = deeply_supervised(loss)
    schedule = optimizers.create_schedule(
        config.optimizer, steps_per_epoch, config.train.num_epochs
    )
    optimizer = optimizers.create_optimizer(config.optimizer, schedule)
    plateau = optimizers.create_plateau(config.optimizer)
    train_step = steps.create_train_step(network, loss, optimizer)
    if config.data.resident:
        train_step = resident.with_gather(train_step)

    def init() -> TrainState:
        return TrainState.create(
            network.init(), optimizer, plateau, with_average=bool(config.train.ema_decay)
        )

    def compile_train(num_steps: int) -> jax.stages.Wrapped:
        num_shared = 1 if config.data.resident else 0
        return compile_train_step(train_step, parallel, num_steps=num_steps, num_shared=num_shared)

    return Training(
        network=network,
        parallel=parallel,
        loss=loss,
        schedule=schedule,
        plateau=plateau,
        init=jax.jit(
            init, out_shardings=parallel.replicated, compiler_options=_init_compiler_options()
        ),
        template=jax.eval_shape(init),
        compile_train=compile_train,
        validation_step=compile_eval_step(steps.create_validation_step(network, loss), parallel),
        predict_step=compile_eval_step(
            lambda variables, batch: network.predict(variables, batch["image"]), parallel
        ),
    )
