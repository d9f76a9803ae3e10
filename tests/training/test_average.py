"""The average of the weights over the steps: its formula, and that it is what a run keeps."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import run_commands
from etils import epath
from ml_collections import ConfigDict

from mbh_jax.runtime.preemption import StopRequest
from mbh_jax.train import train
from mbh_jax.training.train_state import TrainState, updated_average

DECAY = 0.9


def state_with(value: float, step: int, average: float) -> TrainState:
    """A state of one weight and one statistic of a normalisation."""
    state = TrainState.create(
        {"params": {"w": jnp.float32(value)}, "batch_stats": {"mean": jnp.float32(-value)}},
        optax.sgd(0.1),
        optax.contrib.reduce_on_plateau(),
        with_average=True,
    )
    tree = jax.tree.map(lambda leaf: jnp.float32(average) * jnp.sign(leaf), state.trained)
    return state.replace(step=jnp.int32(step), average=tree)


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.9999])
def test_it_is_optaxs_debiased_average(decay: float) -> None:
    reference = optax.ema(decay, debias=True)
    theirs = reference.init(jnp.float32(0))
    average = 0.0
    for step, value in enumerate([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0], start=1):
        expected, theirs = reference.update(jnp.float32(value), theirs)
        found = updated_average(state_with(value, step, average), decay)
        np.testing.assert_allclose(
            found["params"]["w"], expected, rtol=1e-3 * (decay > 0.99) + 1e-6
        )
        np.testing.assert_array_equal(found["batch_stats"]["mean"], -found["params"]["w"])
        average = float(found["params"]["w"])


def config_of(dataset: Path, **changes: object) -> ConfigDict:
    given = {"train__ema_decay": DECAY, "model__norm": "batch", "train__steps_per_epoch": 5}
    return run_commands.tiny_config(dataset, **(given | changes))


def test_a_run_keeps_and_validates_the_average_and_trains_on(
    tiny_dataset_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in an epoch and resumed, with the bits of an undisturbed run."""
    config = config_of(tiny_dataset_dir, train__checkpoint_every_steps=2)
    whole = tmp_path / "whole"
    run_commands.train_and_evaluate(config, whole)
    killed = tmp_path / "killed"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        run_commands.interrupt_after(patch, 8)
        run_commands.train_and_evaluate(config, killed)
    run_commands.train_and_evaluate(config, killed)
    assert run_commands.results(config, killed) == run_commands.results(config, whole)

    state = run_commands.restore(config, whole).arrays
    assert int(state.step) == 5 * config.train.num_epochs
    evaluated, trained = jax.tree.leaves(state.variables), jax.tree.leaves(state.trained)
    assert not all(np.array_equal(a, b) for a, b in zip(evaluated, trained, strict=True))

    plain = tmp_path / "plain"
    config = config_of(tiny_dataset_dir, train__ema_decay=0.0)
    run_commands.train_and_evaluate(config, plain)
    unaveraged = run_commands.restore(config, plain).arrays
    jax.tree.map(np.testing.assert_array_equal, unaveraged.trained, state.trained)
    jax.tree.map(np.testing.assert_array_equal, unaveraged.opt_state, state.opt_state)
    ours, theirs = (
        run_commands.last_record(config, workdir)["history"][-1] for workdir in (whole, plain)
    )
    assert ours["loss"] == theirs["loss"]
    assert ours["val_loss"] != theirs["val_loss"]


def test_a_run_starts_with_the_average_of_another(tiny_dataset_dir: Path, tmp_path: Path) -> None:
    config = config_of(tiny_dataset_dir, train__num_epochs=1)
    run_commands.train_and_evaluate(config, tmp_path / "first")
    source = run_commands.restore(config, tmp_path / "first").arrays.variables
    second = config_of(tiny_dataset_dir, train__num_epochs=1, optimizer__learning_rate=1e-30)
    with StopRequest() as stop:
        train(
            second,
            epath.Path(tmp_path / "second"),
            stop,
            init_from=epath.Path(tmp_path / "first"),
        )
    found = run_commands.restore(second, tmp_path / "second").arrays
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        found.variables["params"],
        source["params"],
    )
