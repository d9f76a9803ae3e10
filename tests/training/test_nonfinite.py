"""What a run says and does about steps whose loss or gradient is not finite."""

import logging

import numpy as np
import pytest

from mbh_jax.errors import UserError
from mbh_jax.optimization.losses import cross_entropy
from mbh_jax.training import epoch_log, nonfinite
from mbh_jax.training.run_state import RunRecord, Sums


def step_sums(loss: float = 1.0, *, skipped: int = 0) -> Sums:
    return {
        "cross_entropy": np.float32(loss),
        "examples": np.float32(4),
        "gradient_norm": np.float32(0.1),
        "nonfinite_steps": np.int32(skipped),
    }


def check(record: RunRecord, steps: list[Sums]) -> None:
    nonfinite.check_steps(
        cross_entropy(),
        record,
        steps,
        allowed=2,
        describe_batch=lambda batch: f"the slices of batch {batch}",
    )


def test_skipped_batches_are_named_with_their_slices(caplog: pytest.LogCaptureFixture) -> None:
    record = RunRecord.new(0)._replace(epoch=1, batch=5)
    with caplog.at_level(logging.WARNING):
        check(record, [step_sums(), step_sums(0.0, skipped=1), step_sums()])
    assert caplog.messages == [
        "skipped a batch: its loss or gradient is not finite (1 of at most 2 an epoch): "
        "the slices of batch 3"
    ]


def test_more_skipped_batches_than_allowed_stop_the_run() -> None:
    record = RunRecord.new(0)._replace(batch=4, sums={"nonfinite_steps": np.int64(2)})
    with pytest.raises(UserError, match=r"more than train\.max_nonfinite_steps=2 batches"):
        check(record, [step_sums(0.0, skipped=1)])


def test_a_batch_that_was_not_skipped_stops_the_run() -> None:
    message = r"batch 2 of epoch 1 is not finite \(the slices of batch 1\)"
    with pytest.raises(UserError, match=message):
        check(RunRecord.new(0)._replace(batch=2), [step_sums(), step_sums(np.inf)])


def test_a_validation_loss_that_is_not_finite_stops_the_run() -> None:
    nonfinite.check_validation_loss(1.0, 3)
    with pytest.raises(UserError, match=r"validation loss is not finite \(nan\) after epoch 3"):
        nonfinite.check_validation_loss(np.nan, 3)


def test_an_epoch_without_a_batch_that_counts_stops_the_run() -> None:
    record = RunRecord.new(0)._replace(epoch=2, batch=5)
    nonfinite.check_epoch(record._replace(sums={"examples": np.float64(1)}))
    with pytest.raises(UserError, match="all 5 batches of epoch 3 were skipped"):
        nonfinite.check_epoch(record._replace(sums={"examples": np.float64(0)}))


def test_the_loss_of_no_example_does_not_exist() -> None:
    empty = {"cross_entropy": np.float64(0), "examples": np.float64(0)}
    assert np.isnan(epoch_log.objective(cross_entropy(), empty))
