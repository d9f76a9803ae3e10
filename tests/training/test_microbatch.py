"""Gradients of a loss of sums, against plain differentiation of the whole batch."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbh_jax.optimization.loss import Loss
from mbh_jax.training import microbatch
from mbh_jax.training.train_state import TrainState


def mean_square(sums):
    return sums["square"] / sums["examples"]


def ratio(sums):
    return sums["square"] / (1.0 + sums["one"] ** 2)


def forward(params, model_state, batch):
    """A linear model; its state is the mean input of the last examples it saw."""
    weight, y = batch["weight"], batch["x"] @ params
    statistics = {
        "square": (weight * y**2).sum(),
        "one": (weight * y).sum(),
        "examples": weight.sum(),
    }
    mean = (weight[:, None] * batch["x"]).sum(0) / jnp.maximum(weight.sum(), 1)
    return statistics, ({"mean": mean}, {"rows": jnp.int32(len(y))})


@pytest.mark.parametrize(("objective", "linear"), [(mean_square, True), (ratio, False)])
@pytest.mark.parametrize("num_microbatches", [1, 2, 4])
def test_parts_give_the_gradient_of_the_whole_batch(objective, linear, num_microbatches):
    rng = np.random.default_rng(0)
    batch = {
        "x": jnp.asarray(rng.normal(size=(8, 3)), jnp.float32),
        "weight": jnp.asarray([1, 1, 1, 1, 1, 0, 0, 0], jnp.float32),
    }
    params = jnp.asarray([0.5, -1.0, 2.0])
    loss = Loss(None, objective, linear)
    state = TrainState(None, params, {"mean": jnp.zeros(3)}, None, None, None)
    step = jax.jit(
        lambda state, batch: microbatch.accumulate_gradients(
            forward, loss, state, batch, total=lambda tree: tree, num_microbatches=num_microbatches
        )
    )
    _, (gradient, sums) = step(state, batch)
    real = batch["x"][:5]

    def plain(params):
        y = real @ params
        if linear:
            return (y**2).mean()
        return (y**2).sum() / (1 + y.sum() ** 2)

    np.testing.assert_allclose(gradient, jax.grad(plain)(params), rtol=1e-5)
    np.testing.assert_allclose(sums["square"], ((real @ params) ** 2).sum(), rtol=1e-5)
    assert sums["examples"] == 5
    assert sums["rows"] == 8


def test_a_part_of_padding_leaves_the_model_s_state():
    batch = {
        "x": jnp.ones((4, 3)) * jnp.arange(1.0, 5.0)[:, None],
        "weight": jnp.array([1.0, 1, 0, 0]),
    }
    state = TrainState(None, jnp.ones(3), {"mean": jnp.zeros(3)}, None, None, None)
    model_state, _ = microbatch.accumulate_gradients(
        forward, Loss(None, ratio, False), state, batch, total=lambda tree: tree, num_microbatches=4
    )
    np.testing.assert_array_equal(model_state["mean"], np.full(3, 2.0))  # the last real row


def test_each_part_holds_an_equal_share_of_every_device_s_rows():
    parts = np.asarray(microbatch.split(np.arange(16), 4))
    for devices in (1, 2, 4):
        device_of_row = parts // (16 // devices)
        for part in device_of_row:
            assert np.bincount(part).tolist() == [4 // devices] * devices
    # One device's rows, divided by itself as under pmap, are in the same parts.
    np.testing.assert_array_equal(microbatch.split(np.arange(8, 16), 4), parts[:, 2:])


DEVICES_PROGRAM = """
import jax, jax.numpy as jnp, re
from mbh_jax.runtime import parallel
from mbh_jax.training import microbatch

def sums_of_microbatches(rows):
    parts = microbatch.split({"image": rows}, 4)["image"]
    return jax.lax.scan(lambda total, part: (total, jnp.sin(part).sum()), 0.0, parts)[1]

sharded = parallel.create_parallel("jit").sharded
step = jax.jit(sums_of_microbatches, in_shardings=sharded)
rows = jax.device_put(jnp.arange(16.0 * 3).reshape(16, 3), sharded)
assert jnp.allclose(step(rows)[1], jnp.sin(rows[1::4]).sum(), rtol=1e-5)
text = step.lower(rows).compile().as_text()
print(sorted(set(re.findall(r"all-reduce|all-gather|all-to-all|collective-permute", text))))
"""


def test_dividing_a_sharded_batch_moves_nothing_between_devices():
    done = subprocess.run(
        [sys.executable, "-c", DEVICES_PROGRAM],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "4", "JAX_PLATFORMS": "cpu"},
        check=False,
    )
    assert done.stdout.strip() == "['all-reduce']", done.stdout + done.stderr[-2000:]
