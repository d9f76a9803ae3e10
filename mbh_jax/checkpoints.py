"""Checkpoints of a run, through Orbax. The only module that imports it.

A workdir holds, under `checkpoints/`, `last/<step>` (the whole state, two kept), `best/<step>` (the
variables with the best validation loss, one kept) and, where a run began with given weights,
`initial/0`. A checkpoint has the items `variables`, `training` (all else of the state; in `last`
only) and `record` (JSON). It is written in the background, into a temporary folder that gets its
name when it is whole.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from jax.sharding import Sharding

from mbh_jax.errors import UserError
from mbh_jax.train_state import TrainState

PyTree = Any

CHECKPOINTS_DIR = "checkpoints"
_KEPT = {"last": 2, "best": 1, "initial": 1}
_ITEMS = ("variables", "training", "record")


class Restored(NamedTuple):
    """A checkpoint's step, its arrays (a state or a model's variables) and its record."""

    step: int
    arrays: Any
    record: dict[str, Any]


def _training_part(state: TrainState) -> dict[str, PyTree]:
    """What of a state is not the model's variables."""
    return {"step": state.step, "opt_state": state.opt_state, "plateau": state.plateau}


class Checkpoints:
    """Writes and reads the checkpoints of one workdir; leaving its `with` block waits for the disk.

    Args:
        workdir: the run's folder.
        sharding: how restored arrays are laid over devices (replicated).
    """

    def __init__(self, workdir: str | Path, sharding: Sharding):
        self._directory = Path(workdir).absolute() / CHECKPOINTS_DIR
        self._sharding = sharding
        self._managers: dict[str, ocp.CheckpointManager] = {}

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        managers, self._managers = self._managers, {}
        with self._disk_errors():
            for manager in managers.values():
                manager.close()

    def save_last(self, state: TrainState, step: int, record: dict[str, Any]) -> None:
        """Starts to write the whole state after `step` and the run's record."""
        training = ocp.args.StandardSave(_training_part(state))
        self._save("last", step, state.variables, record, training=training)

    def save_best(self, variables: PyTree, step: int, record: dict[str, Any]) -> None:
        """Starts to write the variables of the best epoch so far and what made it best."""
        self._save("best", step, variables, record)

    def save_initial(self, variables: PyTree, record: dict[str, Any]) -> None:
        """Starts to write the variables that a run is to begin with."""
        self._save("initial", 0, variables, record)

    def last_record(self) -> dict[str, Any] | None:
        """The record beside the newest whole state, or None where there is none."""
        step = self._latest_step("last")
        if step is None:
            return None
        items = {"record": ocp.args.JsonRestore()}
        return self._restore("last", step, items)["record"]

    def restore_last(self, template: TrainState) -> Restored:
        """The newest whole state, laid out like `template`.

        Raises:
            UserError: there is none, it is damaged, or its arrays do not fit the template.
        """
        step = self._existing_step("last")
        restored = self._restore(
            "last",
            step,
            {
                "variables": self._like(template.variables),
                "training": self._like(_training_part(template)),
                "record": ocp.args.JsonRestore(),
            },
        )
        state = template.with_variables(restored["variables"]).replace(**restored["training"])
        return Restored(step, state, restored["record"])

    def restore_variables(self, which: str, variables: PyTree) -> Restored:
        """The model's variables of a checkpoint, laid out like `variables`.

        Args:
            which: "best" or "last"; of a run that has not been trained, both are the initial ones.
            variables: arrays or their shapes and dtypes.

        Raises:
            UserError: there is none, it is damaged, or its arrays do not fit.
        """
        kind = which if self._latest_step(which) is not None else "initial"
        if kind == "initial" and not self.has_initial():
            kind = which
        step = self._existing_step(kind)
        items = {"variables": self._like(variables), "record": ocp.args.JsonRestore()}
        restored = self._restore(kind, step, items)
        return Restored(step, restored["variables"], restored["record"])

    def has_initial(self) -> bool:
        """Whether the run is to begin with given weights."""
        return self._latest_step("initial") is not None

    def discard_best(self) -> None:
        """Deletes what a run left that was stopped before it first wrote its state."""
        if self._latest_step("best") is not None:
            manager = self._manager("best")
            for step in manager.all_steps():
                manager.delete(step)

    def wait(self) -> None:
        """Waits until everything is on disk."""
        with self._disk_errors():
            for manager in self._managers.values():
                manager.wait_until_finished()

    def _manager(self, kind: str) -> ocp.CheckpointManager:
        if kind not in self._managers:
            self._managers[kind] = ocp.CheckpointManager(
                self._directory / kind,
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=_KEPT[kind], enable_async_checkpointing=True
                ),
                item_names=_ITEMS,
            )
        return self._managers[kind]

    def _save(
        self, kind: str, step: int, variables: PyTree, record: dict[str, Any], **items: Any
    ) -> None:
        with self._disk_errors():
            manager = self._manager(kind)
            # A resumed run takes steps again, to the same numbers, after its last whole state.
            if step in manager.all_steps():
                return
            items["variables"] = ocp.args.StandardSave(variables)
            items["record"] = ocp.args.JsonSave(record)
            manager.save(step, args=ocp.args.Composite(**items), force=True)

    def _latest_step(self, kind: str) -> int | None:
        return self._manager(kind).latest_step() if (self._directory / kind).is_dir() else None

    def _existing_step(self, kind: str) -> int:
        step = self._latest_step(kind)
        if step is None:
            raise UserError(
                f"{self._directory}: no {kind} checkpoint: train first (python -m mbh_jax.main "
                "--config=... --workdir=...), or name another --workdir"
            )
        return step

    def _like(self, tree: PyTree) -> ocp.args.StandardRestore:
        return ocp.args.StandardRestore(
            jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._sharding), tree
            )
        )

    def _restore(self, kind: str, step: int, items: dict[str, Any]) -> dict[str, Any]:
        path = self._directory / kind / str(step)
        try:
            restored = self._manager(kind).restore(step, args=ocp.args.Composite(**items))
        except (KeyError, OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            if isinstance(error, ValueError) and "NOT_FOUND" not in reason:
                raise UserError(
                    f"{path}: does not fit the configuration's network and optimizer: give the "
                    f"configuration it was trained with, or another --workdir ({reason[:200]})"
                ) from error
            raise UserError(
                f"{path}: damaged: remove it to go on from the one before ({reason[:200]})"
            ) from error
        return {name: restored[name] for name in items}

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """Says in one line what the disk refused to the threads that write."""
        try:
            yield
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"{self._directory}: could not be written: {reason}") from error
