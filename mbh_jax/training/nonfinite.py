"""Steps whose loss or gradient is not finite: which they were, and whether the run goes on."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from mbh_jax.errors import UserError
from mbh_jax.log import log
from mbh_jax.optimization.loss import Loss
from mbh_jax.training import epoch_log
from mbh_jax.training.run_state import RunRecord, Sums, add_sums

FIX = "lower optimizer.learning_rate or set optimizer.clip_norm, and give a new --workdir"


def check_steps(
    loss: Loss,
    record: RunRecord,
    steps: Sequence[Sums],
    *,
    allowed: int,
    describe_batch: Callable[[int], str],
) -> None:
    """Names the slices of steps that were skipped, and stops a run that cannot go on.

    Args:
        loss: the run's.
        record: its `batch` counts these steps, its `sums` do not.
        steps: what each of them returned, in order.
        allowed: steps of an epoch that may be skipped.
        describe_batch: the slices of a batch of the epoch, in words.

    Raises:
        UserError: a step is not finite and was not skipped, or more were skipped in this epoch than
            are allowed.
    """
    total = add_sums({}, steps)
    if _is_finite(loss, total) and not total.get("nonfinite_steps", 0):
        return
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
                describe_batch(batch),
            )
            if skipped > allowed:
                raise UserError(
                    f"more than train.max_nonfinite_steps={allowed} batches of an epoch are not "
                    f"finite: the last good checkpoint is kept; {FIX}"
                )
        elif not _is_finite(loss, sums):
            raise UserError(
                f"the loss or the gradient of batch {batch + 1} of epoch {record.epoch + 1} is not "
                f"finite ({describe_batch(batch)}): the last good checkpoint is kept; {FIX}"
            )


def check_epoch(record: RunRecord) -> None:
    """Stops a run that has trained on no batch of an epoch.

    Args:
        record: its `sums` are of all batches of the epoch.

    Raises:
        UserError: all batches were skipped.
    """
    if not record.sums["examples"]:
        raise UserError(
            f"all {record.batch} batches of epoch {record.epoch + 1} were skipped, since their "
            f"loss or gradient is not finite: the last good checkpoint is kept; {FIX}"
        )


def check_validation_loss(loss: float, epoch: int) -> None:
    """Stops a run whose validation loss is not finite.

    Raises:
        UserError: it is not.
    """
    if not math.isfinite(loss):
        raise UserError(
            f"the validation loss is not finite ({loss}) after epoch {epoch}: the last good "
            f"checkpoint is kept; {FIX}"
        )


def _is_finite(loss: Loss, sums: Sums) -> bool:
    return bool(np.isfinite(sums["gradient_norm"])) and math.isfinite(
        epoch_log.objective(loss, sums)
    )
