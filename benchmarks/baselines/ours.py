"""The compiled steps of mbh_jax as training runs them: with windows, metrics and clipping."""

import functools
import importlib
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks.baselines import Implementation, jax_common
from benchmarks.workload import Workload
from configs import flexunet
from mbh_jax.optimization import optimizers
from mbh_jax.runtime import xla
from mbh_jax.runtime.parallel import create_parallel, put_batch
from mbh_jax.training.setup import create_training
from mbh_jax.training.train_state import TrainState

PyTree = Any


def configuration(workload: Workload) -> ConfigDict:
    """The workload's recipe with its size, batch and dtype, cross-entropy and Adam alone."""
    config = importlib.import_module(f"configs.{workload.recipe}").get_config()
    config.model.update(workload.network)
    config.model.dtype = workload.dtype
    if config.model.name == "nnunet":
        config.model.deep_supervision = False
    config.optimizer = flexunet.get_config().optimizer
    config.optimizer.update(workload.optimizer)
    config.optimizer.schedule, config.optimizer.warmup_epochs = "constant", 0.0
    config.data.image_size = workload.size
    config.data.window = "hu_0_255"
    config.loss = ConfigDict({"name": "cross_entropy"})
    config.augment = ConfigDict({"name": "none"})
    config.train.ema_decay = 0.0
    config.train.batch_size = config.eval.batch_size = workload.batch
    config.parallel.mode = workload.mode
    return config


def build(workload: Workload, variant: str) -> Implementation:
    """The steps of `mbh_jax.training.steps`, compiled as `config.parallel.mode` says."""
    config = configuration(workload)
    parallel = create_parallel(config.parallel.mode)
    training = create_training(config, parallel, steps_per_epoch=1)
    network = training.network
    batch = put_batch(
        {
            "image": workload.scans(),
            "label": workload.labels(),
            "weight": np.ones(workload.batch, np.float32),
            "example": np.arange(workload.batch, dtype=np.int32),
            "draw": np.arange(workload.batch, dtype=np.int32),
        },
        parallel,
    )

    def variables() -> PyTree:
        weights = jax_common.with_weights(network.shapes(), workload)
        return jax.device_put(weights, parallel.replicated)

    @jax.jit
    def logits(variables: PyTree, scans: jax.Array) -> jax.Array:
        return network.logits(variables, scans)

    start = variables()
    first_loss = jax_common.mean_cross_entropy(
        logits(start, workload.scans()), workload.labels().astype(np.int32)
    )
    num_parameters = jax_common.num_parameters(start)
    if workload.task == "inference":
        return jax_common.as_implementation(
            num_parameters, first_loss, functools.partial(training.predict_step, start, batch)
        )

    optimizer = optimizers.create_optimizer(config.optimizer, training.schedule)
    state = jax.device_put(
        TrainState.create(start, optimizer, training.plateau), parallel.replicated
    )
    del start  # The first step takes over its memory.
    train = training.compile_train(1)
    rng = jax.random.key(0)
    train = xla.compile_lowered(train.lower(state, batch, rng))

    def step() -> dict[str, jax.Array]:
        nonlocal state
        state, sums = train(state, batch, rng)
        return {"loss": sums["cross_entropy"], "step": state.step}

    return jax_common.as_implementation(num_parameters, first_loss, step, train.as_text)
