"""One step body: the same numbers on any devices, under pmap and jit, whole, in parts or in calls.

What needs several devices runs in processes of its own: the number of simulated devices is fixed
when JAX starts.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import step_runs

from mbh_jax.optimization import losses
from mbh_jax.runtime.parallel import compile_train_step, create_parallel, put_batch


def run_all(runs, **what):
    """Each of `runs`, (mode, devices, microbatches), in one process of 8 simulated devices."""
    environment = os.environ | {
        "JAX_NUM_CPU_DEVICES": "8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    done = subprocess.run(
        [sys.executable, step_runs.__file__, json.dumps({"runs": runs, **what})],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def flat(result):
    numbers = [[*step.values()] for step in result["steps"]]
    return np.concatenate([np.ravel(numbers), result["parameters"], np.ravel(result["evaluated"])])


def assert_same(other, reference):
    np.testing.assert_allclose(flat(other), flat(reference), rtol=2e-4, atol=2e-5)
    for ours, theirs in zip(other["statistics"], reference["statistics"], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "norm", "neighbours", "runs"),
    [
        ("cross_entropy", "none", 1, [("pmap", 4), ("jit", 4)]),
        ("cross_entropy_dice", "batch", 0, [("pmap", 8), ("jit", 2)]),
    ],
)
def test_devices_and_modes_give_the_same_numbers_with_padded_batches(loss, norm, neighbours, runs):
    real = 5  # of 8: on four devices one has half a share and one has none
    runs = [("jit", 1, 1), *((mode, number, 1) for mode, number in runs)]
    reference, *others = run_all(runs, loss=loss, norm=norm, real=real, neighbours=neighbours)
    assert [step["examples"] for step in reference["steps"]] == [real] * 3
    assert [step["pixels"] for step in reference["steps"]] == [real * 16 * 16] * 3
    assert reference["confusion"] == [16 * 16] * 8
    for other in others:
        assert_same(other, reference)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["cross_entropy", "cross_entropy_dice"])
def test_a_batch_in_parts_gives_the_numbers_of_the_whole(loss):
    runs = [("jit", 1, 1), ("jit", 1, 8)]
    runs += [("pmap", 4, 2)] if loss == "cross_entropy_dice" else []
    reference, *others = run_all(runs, loss=loss, norm="group", real=5)
    for other in others:
        assert_same(other, reference)


@pytest.mark.slow
def test_steps_of_one_call_give_the_numbers_of_steps_called_one_by_one():
    # Of three steps two in a call and one by itself, or all in a call.
    together = [("pmap", 2, 1, 3), ("jit", 1, 1, 2)]
    runs = [("jit", 1, 1, 1), *together]
    reference, *others = run_all(runs, loss="cross_entropy_dice", norm="group", real=5)
    assert [len(other["steps"]) for other in others] == [3, 3]
    for other in others:
        assert_same(other, reference)


@pytest.mark.slow
def test_batch_statistics_are_of_the_same_parts_on_any_devices():
    runs = [("jit", 1, 4), ("pmap", 2, 4)]
    # Three real rows: the last of four parts has none.
    reference, *others = run_all(runs, loss="cross_entropy_dice", norm="batch", real=3)
    for other in others:
        assert_same(other, reference)


def compiled_step(**changes):
    """A compiled training step on one device, and a state and a batch for it."""
    config = step_runs.tiny_config("batch")
    config.train.update(changes)
    how = create_parallel("jit", jax.devices()[:1])
    (train_step, _), state = step_runs.create(config, losses.cross_entropy_dice(), how)
    batch = put_batch(step_runs.tiny_batch(np.random.default_rng(0)), how)
    train = compile_train_step(train_step, how)
    return train.lower(state, batch, jax.random.key(0)).compile()


def test_parts_need_less_memory_than_the_whole():
    whole = compiled_step().memory_analysis().temp_size_in_bytes
    parts = compiled_step(accumulate_steps=4).memory_analysis().temp_size_in_bytes
    assert parts < 0.5 * whole


def undefined_without_blood():
    """Cross-entropy over a slice's share of blood: 0/0 for a slice that has none."""

    def statistics(logits, label):
        share = (label > 0).mean(axis=(1, 2))
        return {"cross_entropy": losses.pixel_cross_entropy(logits, label) * share / share}

    return losses.cross_entropy()._replace(statistics=statistics)


def test_a_batch_without_a_finite_loss_changes_nothing_but_the_count_of_steps():
    config = step_runs.tiny_config("batch")
    config.train.max_nonfinite_steps = 1
    how = create_parallel("jit", jax.devices()[:1])
    (train_step, _), start = step_runs.create(config, undefined_without_blood(), how)
    good = step_runs.tiny_batch(np.random.default_rng(0))
    bad = good | {"label": np.zeros_like(good["label"])}
    step = jax.jit(train_step)

    skipped, nothing = step(start, put_batch(bad, how), jax.random.key(0))
    assert int(skipped.step) == 1
    jax.tree.map(np.testing.assert_array_equal, skipped.replace(step=start.step), start)
    assert int(nothing.pop("nonfinite_steps")) == 1
    assert all(not np.any(total) for total in jax.tree.leaves(nothing))

    after, sums = step(skipped, put_batch(good, how), jax.random.key(0))
    expected, expected_sums = step(start, put_batch(good, how), jax.random.key(0))
    assert int(after.step) == 2
    jax.tree.map(np.testing.assert_array_equal, after.replace(step=expected.step), expected)
    jax.tree.map(np.testing.assert_array_equal, sums, expected_sums)
    assert int(sums["nonfinite_steps"]) == 0
    assert np.isfinite(sums["cross_entropy"]) and sums["gradient_norm"] > 0
    assert any(jnp.any(a != b) for a, b in zip(*map(jax.tree.leaves, (after, start)), strict=True))


def test_without_steps_to_skip_nothing_is_counted():
    config = step_runs.tiny_config("none")
    how = create_parallel("jit", jax.devices()[:1])
    (train_step, _), state = step_runs.create(config, losses.cross_entropy(), how)
    batch = put_batch(step_runs.tiny_batch(np.random.default_rng(0)), how)
    _, sums = jax.eval_shape(train_step, state, batch, jax.random.key(0))
    assert "nonfinite_steps" not in sums


def test_one_device_adds_nothing_over_devices() -> None:
    assert create_parallel("pmap", jax.devices()[:1]).axis_name is None
