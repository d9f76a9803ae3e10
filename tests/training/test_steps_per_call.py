"""Several steps in one call of the compiled program, in the training loop."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import run_commands
from ml_collections import ConfigDict

from mbh_jax.data.loader import Loader
from mbh_jax.data.order import num_batches
from mbh_jax.data.sampling import Sampler
from mbh_jax.errors import Stopped, UserError
from mbh_jax.runtime.parallel import Batch, num_steps_of, stack_batches
from mbh_jax.runtime.preemption import StopRequest
from mbh_jax.train import train
from mbh_jax.training.checkpoints import Checkpoints

STEPS = 3
NUM_EPOCHS = 2


def call_config(dataset: Path, **changes: object) -> ConfigDict:
    """Three steps a call, of seven an epoch."""
    given = {
        "train__steps_per_call": STEPS,
        "train__num_epochs": NUM_EPOCHS,
        "train__checkpoint_every_steps": 2,
    }
    return run_commands.tiny_config(dataset, **(given | changes))


@pytest.fixture(scope="module")
def undisturbed(tiny_dataset_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a run that nothing interrupted."""
    config = call_config(tiny_dataset_dir)
    num_examples = run_commands.num_train_examples(config)
    assert num_batches(num_examples, config.train.batch_size) % STEPS
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    run_commands.train_and_evaluate(config, workdir)
    return workdir


class StopAt(StopRequest):
    """Says so when it is asked for the given time."""

    def __init__(self, number: int):
        super().__init__()
        self._number = number

    def is_set(self) -> bool:
        """Whether that time has come."""
        self._received |= self._asked + 1 >= self._number
        return super().is_set()


def last_batch(workdir: Path, config: ConfigDict) -> tuple[int, int]:
    """Epoch and batch of the last checkpoint."""
    record = run_commands.last_record(config, workdir)
    return record["epoch"], record["batch"]


@pytest.mark.slow
@pytest.mark.parametrize("asked", [1, 3])
def test_a_stopped_run_ends_with_the_numbers_of_an_undisturbed_one(
    tiny_dataset_dir: Path, undisturbed: Path, tmp_path: Path, asked: int
) -> None:
    workdir = tmp_path / "run"
    config = call_config(tiny_dataset_dir, train__checkpoint_every_steps=0)
    with pytest.raises(Stopped), StopAt(asked) as stop:
        train(config, workdir, stop)
    # After a whole call; the third of an epoch is of the one step that is left.
    assert last_batch(workdir, config)[1] == {1: 3, 2: 6, 3: 7}[asked]
    run_commands.train_and_evaluate(config, workdir)
    assert run_commands.results(config, workdir) == run_commands.results(config, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("num_batches", [5])
def test_a_killed_run_ends_with_the_numbers_of_an_undisturbed_one(
    tiny_dataset_dir: Path,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_batches: int,
) -> None:
    workdir = tmp_path / "run"
    config = call_config(tiny_dataset_dir)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        run_commands.interrupt_after(patch, num_batches)
        run_commands.train_and_evaluate(config, workdir)
    run_commands.train_and_evaluate(config, workdir)
    assert run_commands.results(config, workdir) == run_commands.results(config, undisturbed)


def test_checkpoints_come_after_the_call_that_passed_a_multiple(
    tiny_dataset_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved_at: list[int] = []

    def save_last(self: Checkpoints, state: object, step: int, record: object) -> None:
        saved_at.append(step)

    monkeypatch.setattr(Checkpoints, "save_last", save_last)
    config = call_config(tiny_dataset_dir, train__checkpoint_every_steps=5)
    run_commands.train_and_evaluate(config, tmp_path / "run")
    # Calls end at 3, 6, 7 and 10, 13, 14; 7 and 14 are ends of epochs.
    assert saved_at == [6, 7, 10, 14]


def test_a_loss_that_is_not_finite_is_of_the_right_step(
    tiny_dataset_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir = tmp_path / "run"
    config = call_config(tiny_dataset_dir, train__checkpoint_every_steps=1)
    whole, bad = Loader.train_batches, 4

    def poisoned(self, order, **which) -> Iterator[Batch]:
        for number, batch in enumerate(whole(self, order, **which)):
            factor = np.float32(np.nan if number == bad else 1)
            yield batch | {"weight": batch["weight"] * factor}

    monkeypatch.setattr(Loader, "train_batches", poisoned)
    index = Loader(config.data).index
    examples = index.examples("train", "all")
    size = config.train.batch_size
    batch = Sampler(config, index, examples).order(0)[bad * size : (bad + 1) * size]
    names = ", ".join(index.describe(int(example)) for example in batch)
    with pytest.raises(UserError, match=rf"of batch 5 of epoch 1 is not finite \({names}\)"):
        run_commands.train_and_evaluate(config, workdir)
    assert last_batch(workdir, config) == (0, 3)


def test_memory_is_told_before_the_first_step_and_calls_are_traced(
    tiny_dataset_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Both in the middle of a call.
    config = call_config(tiny_dataset_dir, train__num_epochs=1, profile__steps="2:5")
    with caplog.at_level(logging.INFO):
        run_commands.train_and_evaluate(config, tmp_path / "run")
    told = [line for line in caplog.messages if line.startswith("memory: ")]
    assert [" in a call of 3 steps (" in line for line in told] == [True, False]
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))


def test_batches_are_grouped_from_the_first_on() -> None:
    batches = [
        {
            "weight": np.ones(2, np.float32),
            "example": np.array([2 * number, 2 * number + 1], np.int32),
            "volume": np.zeros(2, np.int32),
        }
        for number in range(5)
    ]
    groups = list(stack_batches(batches, 2))
    assert [num_steps_of(group) for group in groups] == [2, 2, 1]
    np.testing.assert_array_equal(groups[1]["example"], [[4, 5], [6, 7]])
    assert groups[2] is batches[4]
    assert list(stack_batches(iter(batches), 1)) == batches
