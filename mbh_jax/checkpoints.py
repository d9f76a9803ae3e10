"""Checkpoints of a run, through Orbax. The only module that imports it.

A workdir holds `checkpoints/last/<step>` (the whole state and the run's record, two kept) and
`checkpoints/best/<step>` (the variables with the best validation loss, one kept). Both are written
in the background, into a temporary folder that gets its name when it is whole.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from jax.sharding import Sharding

from mbh_jax.errors import UserError
from mbh_jax.train_state import TrainState

PyTree = Any

CHECKPOINTS_DIR = "checkpoints"
_KEPT = {"last": 2, "best": 1}


class Restored(NamedTuple):
    """What a checkpoint held: its step, the arrays, and the run's record (plain JSON)."""

    step: int
    arrays: Any
    record: dict[str, Any]


def _abstract(tree: PyTree, sharding: Sharding) -> PyTree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


class Checkpoints:
    """Writes and reads the checkpoints of one workdir.

    Args:
        workdir: the run's folder.
        sharding: how restored arrays are laid over devices (replicated).
    """

    def __init__(self, workdir: str | Path, sharding: Sharding):
        self._directory = Path(workdir).absolute() / CHECKPOINTS_DIR
        self._sharding = sharding
        self._managers: dict[str, ocp.CheckpointManager] = {}

    def _manager(self, kind: str) -> ocp.CheckpointManager:
        if kind not in self._managers:
            self._managers[kind] = ocp.CheckpointManager(
                self._directory / kind,
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=_KEPT[kind], enable_async_checkpointing=True
                ),
                item_names=("arrays", "record"),
            )
        return self._managers[kind]

    def _save(self, kind: str, step: int, arrays: PyTree, record: dict[str, Any]) -> None:
        manager = self._manager(kind)
        # A run that was killed after this save takes the same steps again to the same numbers.
        if step in manager.all_steps():
            return
        manager.save(
            step,
            args=ocp.args.Composite(
                arrays=ocp.args.StandardSave(arrays), record=ocp.args.JsonSave(record)
            ),
            force=True,
        )

    def _latest_step(self, kind: str) -> int | None:
        return self._manager(kind).latest_step() if (self._directory / kind).is_dir() else None

    def _restore(self, kind: str, template: PyTree) -> Restored | None:
        step = self._latest_step(kind)
        if step is None:
            return None
        items = ocp.args.Composite(
            arrays=ocp.args.StandardRestore(_abstract(template, self._sharding)),
            record=ocp.args.JsonRestore(),
        )
        try:
            restored = self._manager(kind).restore(step, args=items)
        except ValueError as error:
            raise UserError(
                f"{self._directory / kind / str(step)}: this checkpoint does not fit the "
                f"configuration's network and optimizer ({str(error).splitlines()[0]}): give the "
                "configuration it was trained with, or another --workdir"
            ) from error
        return Restored(step, restored["arrays"], restored["record"])

    def save_last(self, state: TrainState, step: int, record: dict[str, Any]) -> None:
        """Starts to write the whole state after `step` and the run's record."""
        self._save("last", step, state, record)

    def save_best(self, variables: PyTree, step: int, record: dict[str, Any]) -> None:
        """Starts to write the variables of the best epoch so far and what made it best."""
        self._save("best", step, variables, record)

    def last_record(self) -> dict[str, Any] | None:
        """The record beside the newest whole state, or None where there is none."""
        step = self._latest_step("last")
        if step is None:
            return None
        items = ocp.args.Composite(record=ocp.args.JsonRestore())
        return self._manager("last").restore(step, args=items)["record"]

    def restore_last(self, template: TrainState) -> Restored:
        """The newest whole state, laid out like `template`.

        Raises:
            UserError: there is none, or its arrays do not fit the template.
        """
        return self._whole("last", template)

    def restore_variables(self, which: str, template: TrainState) -> Restored:
        """The model's variables of the "best" or the "last" checkpoint.

        Raises:
            UserError: there is none, or its arrays do not fit the template.
        """
        if which == "best":
            return self._whole("best", template.variables)
        restored = self._whole("last", template)
        return restored._replace(arrays=restored.arrays.variables)

    def _whole(self, kind: str, template: PyTree) -> Restored:
        restored = self._restore(kind, template)
        if restored is None:
            raise UserError(
                f"{self._directory}: no {kind} checkpoint: train first (python -m mbh_jax.main "
                "--config=... --workdir=...), or name another --workdir"
            )
        return restored

    def wait(self) -> None:
        """Waits until everything is on disk."""
        for manager in self._managers.values():
            manager.wait_until_finished()

    def close(self) -> None:
        """Waits until everything is on disk and ends the background threads."""
        self.wait()
        for manager in self._managers.values():
            manager.close()
        self._managers.clear()
