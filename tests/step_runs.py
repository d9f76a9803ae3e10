"""Training steps of a tiny network: in a test's process, or one by itself with more devices.

Given `{"loss": ..., "norm": ..., "real": ..., "runs": [[mode, devices, microbatches], ...]}`, and
optionally "neighbours", it prints what `run` returns for each of the runs, as JSON. A fourth number
is that of steps in a call.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from configs import smoke
from mbh_jax.optimization import losses, optimizers
from mbh_jax.optimization.loss import Loss
from mbh_jax.runtime.parallel import (
    Parallel,
    compile_eval_step,
    compile_train_step,
    create_parallel,
    each_step,
    local_rows,
    num_steps_of,
    put_batch,
    stack_batches,
)
from mbh_jax.training import steps
from mbh_jax.training.network import create_network
from mbh_jax.training.train_state import TrainState

LOSS_KEYS: dict[str, dict[str, float]] = {
    "cross_entropy": {},
    "cross_entropy_dice": {"dice_weight": 1.0, "dice_smooth": 1.0},
}
SIZE = 16
BATCH = 8


def tiny_config(norm: str, neighbours: int = 0) -> ConfigDict:
    """Two levels, dropout and augmentation; neighbouring slices are fused by convolution."""
    config = smoke.get_config()
    config.data.image_size = SIZE
    config.data.neighbours = neighbours
    config.model.slice_fusion = "convolution" if neighbours else "channels"
    config.augment.flip = True
    config.augment.hu_noise_hu = 2.0
    config.model.norm = norm
    config.model.num_layers = 2
    config.model.dropout_rate = 0.3
    return config


def tiny_batch(
    rng: np.random.Generator, real: int = BATCH, neighbours: int = 0
) -> dict[str, np.ndarray]:
    """A batch whose last rows, after the first `real`, are padding."""
    weight = (np.arange(BATCH) < real).astype(np.float32)
    label = rng.integers(0, 6, (BATCH, SIZE, SIZE)).astype(np.uint8)
    noise = rng.normal(0, 5, (BATCH, SIZE, SIZE, 2 * neighbours + 1))
    return {
        "image": (20 + 10 * label[..., None] + noise).astype(np.int16),
        "label": label,
        "weight": weight,
        "example": np.zeros(BATCH, np.int32),
        "draw": np.where(weight > 0, rng.integers(0, 1000, BATCH), -1).astype(np.int32),
        "volume": np.zeros(BATCH, np.int32),
        "slice_index": np.zeros(BATCH, np.int32),
    }


def create(
    config: ConfigDict, loss: Loss, parallel: Parallel
) -> tuple[tuple[Callable, Callable], TrainState]:
    """Training and validation step, not yet compiled, and a new state on the devices."""
    network = create_network(config, axis_name=parallel.axis_name)
    optimizer = optimizers.create_optimizer(config.optimizer, lambda _: 1e-3)
    plateau = optimizers.create_plateau(config.optimizer)

    def init() -> TrainState:
        return TrainState.create(network.init(), optimizer, plateau)

    state = jax.device_put(jax.jit(init)(), parallel.replicated)
    train_step = steps.create_train_step(network, loss, optimizer)
    return (train_step, steps.create_validation_step(network, loss)), state


def run(
    mode: str,
    num_devices: int,
    num_microbatches: int,
    num_steps: int = 1,
    *,
    loss: str,
    norm: str,
    real: int,
    neighbours: int = 0,
) -> dict[str, Any]:
    """What three steps and an evaluation come to."""
    config = tiny_config(norm, neighbours)
    config.train.accumulate_steps = num_microbatches
    config.loss = ConfigDict({"name": loss, **LOSS_KEYS[loss]})
    parallel = create_parallel(mode, jax.devices()[:num_devices])
    created_loss = losses.create_loss(config.loss)
    (train_step, validation_step), state = create(config, created_loss, parallel)
    train = {
        number: compile_train_step(train_step, parallel, num_steps=number)
        for number in {1, num_steps}
    }
    evaluate = compile_eval_step(validation_step, parallel)
    rng = np.random.default_rng(0)
    reported = []
    batches = [tiny_batch(rng, real, neighbours) for _ in range(3)]
    for group in stack_batches(batches, num_steps):
        program = train[num_steps_of(group)]
        state, returned = program(state, put_batch(group, parallel), jax.random.key(5))
        reported += [
            {
                "loss": float(created_loss.objective(sums)),
                "examples": float(sums["examples"]),
                "pixels": int(sums["confusion"].sum()),
                "dice": float(sums["dice_coef_multiclass"]),
                "gradient_norm": float(sums["gradient_norm"]),
            }
            for sums in each_step(jax.device_get(returned))
        ]
    batch = put_batch(batches[-1], parallel)
    rows = local_rows(evaluate(state.variables, batch), parallel)
    parameters = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(state.params)])
    return {
        "steps": reported,
        "parameters": parameters[::37].tolist(),
        "statistics": [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(state.model_state)],
        "evaluated": rows["cross_entropy"].tolist(),
        "confusion": rows["native_confusion"].sum((1, 2)).tolist(),
    }


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    runs = given.pop("runs")
    print(json.dumps([run(*one, **given) for one in runs]))
