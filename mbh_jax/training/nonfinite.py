"""Steps whose loss or gradient is not finite: which they were, and whether the run goes on."""

import math
from collections.abc import Sequence

import numpy as np

from mbh_jax.data.order import train_batch
from mbh_jax.errors import UserError
from mbh_jax.log import log
from mbh_jax.training import epoch_log
from mbh_jax.training.run_state import RunRecord, Sums, add_sums
from mbh_jax.training.setup import Experiment

MEND = "lower optimizer.learning_rate or set optimizer.clip_norm, and give a new --workdir"


def check_steps(
    experiment: Experiment, record: RunRecord, steps: Sequence[Sums], examples: np.ndarray
) -> None:
    """Names the slices of steps that were skipped, and stops a run that cannot go on.

    Args:
        experiment: loss, and how many steps of an epoch may be skipped.
        record: its `batch` counts these steps, its `sums` do not.
        steps: what each of them returned, in order.
        examples: (n,) int32, those that the epoch trains on.

    Raises:
        UserError: a step is not finite and was not skipped, or more were skipped in this epoch than
            `config.train.max_nonfinite_steps`.
    """
    total = add_sums({}, steps)
    if _is_finite(experiment, total) and not total.get("nonfinite_steps", 0):
        return
    allowed = experiment.config.train.max_nonfinite_steps
    skipped = int(record.sums.get("nonfinite_steps", 0))
    for number, sums in enumerate(steps):
        batch = record.batch - len(steps) + number
        if sums.get("nonfinite_steps", 0):
            skipped += 1
            log.warning(
                "skipped a batch: its loss or gradient is not finite "
                "(%d of at most %d an epoch): %s",
                skipped,
                allowed,
                _describe(experiment, record, batch, examples),
            )
            if skipped > allowed:
                raise UserError(
                    f"more than train.max_nonfinite_steps={allowed} batches of an epoch are not "
                    f"finite: the last good checkpoint is kept; {MEND}"
                )
        elif not _is_finite(experiment, sums):
            raise UserError(
                f"the loss or the gradient of batch {batch + 1} of epoch {record.epoch + 1} is not "
                f"finite ({_describe(experiment, record, batch, examples)}): the last good "
                f"checkpoint is kept; {MEND}"
            )


def check_validation_loss(loss: float, epoch: int) -> None:
    """Stops a run whose validation loss is not finite.

    Raises:
        UserError: so it is.
    """
    if not math.isfinite(loss):
        raise UserError(
            f"the validation loss is not finite ({loss}) after epoch {epoch}: the last good "
            f"checkpoint is kept; {MEND}"
        )


def _is_finite(experiment: Experiment, sums: Sums) -> bool:
    return bool(np.isfinite(sums["gradient_norm"])) and math.isfinite(
        epoch_log.objective(experiment, sums)
    )


def _describe(experiment: Experiment, record: RunRecord, batch: int, examples: np.ndarray) -> str:
    config = experiment.config
    numbers = train_batch(
        examples,
        global_batch=config.train.batch_size,
        seed=config.seed,
        epoch=record.epoch,
        batch=batch,
    )
    return ", ".join(experiment.index.describe(int(number)) for number in numbers)
