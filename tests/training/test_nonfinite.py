"""What a run says and does about steps whose loss or gradient is not finite."""

import logging
from pathlib import Path

import numpy as np
import pytest
from run_commands import tiny_config

from mbh_jax.data.order import train_batch
from mbh_jax.errors import UserError
from mbh_jax.training import nonfinite
from mbh_jax.training.run_state import RunRecord, Sums
from mbh_jax.training.setup import Experiment, create_experiment


@pytest.fixture(scope="module")
def experiment(tiny_dataset_dir: Path) -> Experiment:
    return create_experiment(tiny_config(tiny_dataset_dir, train__max_nonfinite_steps=2))


def step_sums(loss: float = 1.0, *, skipped: int = 0) -> Sums:
    return {
        "cross_entropy": np.float32(loss),
        "examples": np.float32(4),
        "gradient_norm": np.float32(0.1),
        "nonfinite_steps": np.int32(skipped),
    }


def test_skipped_batches_are_named_with_their_slices(
    experiment: Experiment, caplog: pytest.LogCaptureFixture
) -> None:
    examples = experiment.index.examples("train", "all")
    record = RunRecord.begin(0)._replace(epoch=1, batch=5)
    with caplog.at_level(logging.WARNING):
        steps = [step_sums(), step_sums(0.0, skipped=1), step_sums()]
        nonfinite.check_steps(experiment, record, steps, examples)
    assert "skipped a batch: its loss or gradient is not finite (1 of at most 2 an epoch)" in (
        caplog.text
    )
    batch = train_batch(examples, global_batch=4, seed=experiment.config.seed, epoch=1, batch=3)
    assert len(batch) == 4
    assert all(experiment.index.describe(int(number)) in caplog.text for number in batch)


def test_more_skipped_batches_than_allowed_stop_the_run(experiment: Experiment) -> None:
    examples = experiment.index.examples("train", "all")
    record = RunRecord.begin(0)._replace(batch=4, sums={"nonfinite_steps": np.int64(2)})
    with pytest.raises(UserError, match=r"more than train\.max_nonfinite_steps=2 batches"):
        nonfinite.check_steps(experiment, record, [step_sums(0.0, skipped=1)], examples)


def test_a_batch_that_was_not_skipped_stops_the_run(experiment: Experiment) -> None:
    examples = experiment.index.examples("train", "all")
    record = RunRecord.begin(0)._replace(batch=2)
    first = experiment.index.describe(
        int(train_batch(examples, global_batch=4, seed=0, epoch=0, batch=1)[0])
    )
    with pytest.raises(UserError, match=rf"batch 2 of epoch 1 is not finite \({first}, "):
        nonfinite.check_steps(experiment, record, [step_sums(), step_sums(np.inf)], examples)


def test_a_validation_loss_that_is_not_finite_stops_the_run() -> None:
    nonfinite.check_validation_loss(1.0, 3)
    with pytest.raises(UserError, match=r"validation loss is not finite \(nan\) after epoch 3"):
        nonfinite.check_validation_loss(np.nan, 3)
