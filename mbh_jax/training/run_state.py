"""What a run remembers beside its arrays, as plain JSON: where it stands and what it has seen."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from flax.training.early_stopping import EarlyStopping
from ml_collections import ConfigDict

from mbh_jax import config as config_rules
from mbh_jax.errors import UserError

CONFIG_FILE = "config.json"

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
    def begin(cls, patience: int) -> "RunRecord":
        """A run that has seen nothing; it stops after `patience` epochs without gain, 0 never."""
        # flax stops at the first epoch without gain after `patience` of them, Keras at the last.
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

    def to_json(self, config: ConfigDict, fingerprint: str) -> dict[str, Any]:
        """The record with the configuration and the dataset it belongs to."""
        best = self.early_stopping.best_metric
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "sums": {name: value.tolist() for name, value in self.sums.items()},
            "history": self.history,
            "early_stopping": {
                "best_metric": best if np.isfinite(best) else None,
                "patience_count": self.early_stopping.patience_count,
                "should_stop": self.early_stopping.should_stop,
            },
            "config": config.to_dict(),
            "dataset": fingerprint,
        }

    @classmethod
    def from_json(cls, record: dict[str, Any], patience: int) -> "RunRecord":
        """The inverse of `to_json`."""
        saved = dict(record["early_stopping"])
        if saved["best_metric"] is None:
            saved["best_metric"] = float("inf")
        begun = cls.begin(patience)
        return begun._replace(
            epoch=record["epoch"],
            batch=record["batch"],
            sums={name: np.asarray(value) for name, value in record["sums"].items()},
            history=record["history"],
            early_stopping=begun.early_stopping.replace(**saved),
        )


def check_same_run(
    record: dict[str, Any], config: ConfigDict, fingerprint: str, workdir: epath.Path
) -> None:
    """Refuses to continue a run with another configuration or other data.

    Raises:
        UserError: naming every key that differs, with both values.
    """
    changed = config_rules.differences(record["config"], config)
    if changed:
        raise UserError(
            f"{workdir} holds a run of another configuration ({'; '.join(changed)}): "
            "give another --workdir, or the same configuration"
        )
    if record["dataset"] != fingerprint:
        raise UserError(
            f"{workdir} holds a run on another dataset than {config.data.dir}: "
            "give another --workdir, or the same --config.data.dir"
        )


def check_same_network(config: ConfigDict, workdir: epath.Path) -> None:
    """Refuses to evaluate a workdir with another network or another input than it was trained with.

    Raises:
        UserError: there is no run in `workdir`, or keys of data (but its folder) or model differ.
    """
    path = workdir / CONFIG_FILE
    if not path.is_file():
        raise UserError(f"{workdir} holds no run (no {CONFIG_FILE}): give the --workdir of one")
    try:
        saved = json.loads(path.read_text())
    except ValueError:
        raise UserError(f"{path}: damaged: not the configuration that a run writes") from None
    changed = [
        line
        for line in config_rules.differences(saved, config)
        if line.startswith(("model.", "data.image_size", "data.window"))
    ]
    if changed:
        raise UserError(
            f"{workdir} was trained with another network or input ({'; '.join(changed)}): "
            "give the configuration it was trained with"
        )
