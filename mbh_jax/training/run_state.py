"""What a run remembers beside its arrays, as plain JSON: where it stands and what it has seen."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from flax.training.early_stopping import EarlyStopping
from ml_collections import ConfigDict

from mbh_jax import config as config_keys
from mbh_jax.errors import UserError
from mbh_jax.keys import flatten
from mbh_jax.models import NETWORKS

MAY_CHANGE_ON_RESUME = (
    "data.dir",
    "data.extra_dir",
    "data.resident",
    "train.accumulate_steps",
    "train.num_epochs",
    "train.early_stopping_patience",
    "train.max_nonfinite_steps",
    "train.log_every_steps",
    "train.checkpoint_every_steps",
    "train.preview_slices",
    "eval.",
    "parallel.",
    "profile.",
)
"""Keys, or first parts of keys, that do not alter the course of a run that has begun."""

Sums = dict[str, np.ndarray]


def add_sums(total: Sums, steps: Sequence[Sums]) -> Sums:
    """Adds the sums that steps returned to `total`, in float64 or int64."""
    for sums in steps:
        wide = {
            name: np.asarray(value, np.float64 if value.dtype.kind == "f" else np.int64)
            for name, value in sums.items()
        }
        total = {name: total.get(name, 0) + value for name, value in wide.items()}
    return total


class RunRecord(NamedTuple):
    """Where a run stands.

    Attributes:
        epoch: epochs finished.
        batch: batches of the next epoch already trained on.
        sums: what the training steps of those batches returned, added up.
        history: one dict an epoch finished.
        early_stopping: flax's, over the validation loss.
    """

    epoch: int
    batch: int
    sums: Sums
    history: list[dict[str, Any]]
    early_stopping: EarlyStopping

    @classmethod
    def new(cls, patience: int) -> "RunRecord":
        """A new run; it stops after `patience` epochs without a better loss, with 0 never."""
        # flax stops one epoch without a better loss later than Keras.
        stopping = EarlyStopping(patience=patience - 1 if patience else 2**30)
        return cls(0, 0, {}, [], stopping)

    def end_epoch(self, entry: dict[str, Any]) -> "RunRecord":
        """The record at the end of an epoch, whose history entry holds its "val_loss"."""
        return RunRecord(
            epoch=self.epoch + 1,
            batch=0,
            sums={},
            history=[*self.history, entry],
            early_stopping=self.early_stopping.update(entry["val_loss"]),
        )

    def early_stop(self, num_epochs: int) -> str | None:
        """Says that the run has stopped before its `num_epochs`, and why; None if it has not."""
        if not self.early_stopping.should_stop or self.epoch >= num_epochs:
            return None
        best = min(self.history, key=lambda entry: entry["val_loss"])["epoch"]
        return (
            f"stopped early after epoch {self.epoch}: no validation loss below that of epoch {best}"
            f" for {self.early_stopping.patience_count} epochs; with a greater "
            "train.early_stopping_patience it goes on"
        )

    def to_json(self, config: ConfigDict, fingerprints: Mapping[str, str | None]) -> dict[str, Any]:
        """The record with the configuration and the datasets it belongs to."""
        best = self.early_stopping.best_metric
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "sums": {name: value.tolist() for name, value in self.sums.items()},
            "history": self.history,
            "early_stopping": {
                "best_metric": best if np.isfinite(best) else None,
                "patience_count": self.early_stopping.patience_count,
            },
            "config": config.to_dict(),
            **fingerprints,
        }

    @classmethod
    def from_json(cls, record: dict[str, Any], patience: int) -> "RunRecord":
        """The inverse of `to_json`."""
        saved = record["early_stopping"]
        count, best = saved["patience_count"], saved["best_metric"]
        new = cls.new(patience)
        return new._replace(
            epoch=record["epoch"],
            batch=record["batch"],
            sums={name: np.asarray(value) for name, value in record["sums"].items()},
            history=record["history"],
            early_stopping=new.early_stopping.replace(
                best_metric=float("inf") if best is None else best,
                patience_count=count,
                # Not as it was saved: the patience may be another now.
                should_stop=0 < patience <= count,
            ),
        )


def differences(old: ConfigDict | dict, new: ConfigDict) -> list[str]:
    """`"key: old -> new"` for every key that differs and may not change on resuming a run."""
    before, after = dict(flatten(config_keys.complete(old))), dict(flatten(new))
    network = NETWORKS[new.model.name]
    without_influence = [f"model.{key}" for key in network.without_influence]
    alters = {
        # A schedule that ends with the run takes another course when the end is moved.
        "train.num_epochs": new.optimizer.schedule != "constant"
        or (bool(new.data.extra_dir) and new.data.extra_share != new.data.extra_share_end),
        # Batch statistics are those of one microbatch.
        "train.accumulate_steps": network.has_batch_statistics(new.model),
    }

    def may_change(key: str) -> bool:
        if key in without_influence:
            return True
        return key.startswith(MAY_CHANGE_ON_RESUME) and not alters.get(key, False)

    changed = [
        key
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not may_change(key)
    ]
    return [f"{key}: {before.get(key)!r} -> {after.get(key)!r}" for key in changed]


def check_same_run(
    record: dict[str, Any],
    config: ConfigDict,
    fingerprints: Mapping[str, str | None],
    workdir: epath.Path,
) -> None:
    """Refuses to continue a run with another configuration or other data.

    Args:
        record: that of the run's last checkpoint.
        config: what the run is to go on with.
        fingerprints: of the datasets it is to go on with.
        workdir: the run's folder, for the message.

    Raises:
        UserError: naming every key that differs, with both values.
    """
    changed = differences(record["config"], config)
    if changed:
        raise UserError(
            f"{workdir} holds a run of another configuration ({'; '.join(changed)}): "
            "give another --workdir, or the same configuration"
        )
    for name, key in (("dataset", "dir"), ("extra_dataset", "extra_dir")):
        if record.get(name) != fingerprints[name]:
            raise UserError(
                f"{workdir} holds a run on another dataset than {config.data[key] or 'none'}: "
                f"give another --workdir, or the same --config.data.{key}"
            )
