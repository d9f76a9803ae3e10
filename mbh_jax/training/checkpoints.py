"""Checkpoints of a run, through Orbax. The only module that imports it.

A workdir holds, under `checkpoints/`, `last/<step>` (the whole state, from step 0 on; two are kept)
and `best/<step>` (the variables with the best validation loss; one is kept). Where a run was
initialized with given weights, they are in `initial/0`. A checkpoint has the items `variables`
(averaged over the steps, where training does so), `training` (all else of the state; in `last`
only) and `record` (JSON, with checksums of all). It is written in the background, into a temporary
folder that gets its name when it is whole.
"""

import contextlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from etils import epath

from mbh_jax.errors import UserError
from mbh_jax.files import move_folder
from mbh_jax.log import log
from mbh_jax.runtime import distributed
from mbh_jax.runtime.parallel import Parallel
from mbh_jax.training import checksums
from mbh_jax.training.checkpoints_dir import checkpoints_dir
from mbh_jax.training.train_state import TrainState

PyTree = Any

DAMAGED_DIR = "damaged"
_KEPT = {"last": 2, "best": 1, "initial": 1}
_ITEMS = ("variables", "training", "record")
_DOES_NOT_FIT = re.compile("structures do not match|not compatible with the stored shape")
"""What Orbax says of arrays that are whole, but others than those asked for."""


class Restored(NamedTuple):
    """A checkpoint's step, its arrays (a state or a model's variables) and its record."""

    step: int
    arrays: Any
    record: dict[str, Any]


class _DamagedError(Exception):
    """A checkpoint that cannot be read; the text says why."""


def _training_part(state: TrainState) -> dict[str, PyTree]:
    """What of a state is not in the variables that are evaluated."""
    part = {"step": state.step, "opt_state": state.opt_state, "plateau": state.plateau}
    return part if state.average is None else part | {"trained": state.trained}


class Checkpoints:
    """Writes and reads the checkpoints of one workdir; leaving its `with` block waits for the disk.

    Args:
        workdir: the run's folder.
        parallel: the devices; each holds all arrays, restored ones too.
    """

    def __init__(self, workdir: epath.PathLike, parallel: Parallel):
        self._directory = checkpoints_dir(workdir)
        self._parallel = parallel
        self._managers: dict[str, ocp.CheckpointManager] = {}

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        managers, self._managers = self._managers, {}
        with self._disk_errors():
            for manager in managers.values():
                manager.close()

    def save_first(self, state: TrainState, record: dict[str, Any]) -> None:
        """Writes the whole state before the first step, waits until it is on disk and reads it.

        Raises:
            UserError: it cannot be written, or what is read is not what was written.
        """
        self._save_whole_state(state, 0, record)
        self.wait()
        try:
            self._read("last", 0, variables=state.variables, training=_training_part(state))
        except _DamagedError as error:
            raise UserError(
                f"{self._directory / 'last' / '0'}: was written, but cannot be read back "
                f"({error}): give a --workdir on another disk"
            ) from error

    def save_last(self, state: TrainState, step: int, record: dict[str, Any]) -> None:
        """Starts to write the whole state after `step` and the run's record.

        Takes the place of one of the same step: of a run that was stopped between the last step of
        an epoch and what follows it.
        """
        self._save_whole_state(state, step, record)

    def save_best(self, variables: PyTree, step: int, record: dict[str, Any]) -> None:
        """Starts to write the variables of the best epoch so far and what made it best."""
        self._save("best", step, record, variables=variables)

    def save_initial(self, variables: PyTree, record: dict[str, Any]) -> None:
        """Starts to write the variables that a run is to start with."""
        self._save("initial", 0, record, variables=variables)

    def last_record(self) -> dict[str, Any] | None:
        """The record beside the newest whole state that can be read, or None where there is none.

        A damaged checkpoint is set aside, with a warning that names it.
        """
        while (step := self._latest_step("last")) is not None:
            with self._set_aside_if_damaged("last", step):
                return self._read("last", step)["record"]
        return None

    def restore_last(self, template: TrainState) -> Restored:
        """The newest whole state that can be read, laid out like `template`.

        A damaged checkpoint is set aside, with a warning that names it.

        Raises:
            UserError: there is none, or its arrays do not fit the template.
        """
        while True:
            step = self._existing_step("last")
            with self._set_aside_if_damaged("last", step):
                restored = self._read(
                    "last", step, variables=template.variables, training=_training_part(template)
                )
                state = template.with_variables(restored["variables"])
                training = restored["training"]
                if "trained" in training:
                    state = state.with_trained(training.pop("trained"))
                return Restored(step, state.replace(**training), restored["record"])

    def restore_variables(self, which: str, variables: PyTree) -> Restored:
        """The model's variables of a checkpoint, laid out like `variables`.

        Args:
            which: "best" or "last". Before the first step both are the weights that a run was
                initialized with.
            variables: arrays or their shapes and dtypes.

        Raises:
            UserError: there is none, it is damaged, or its arrays do not fit.
        """
        has_trained = bool(self._latest_step("last"))  # Neither None nor 0.
        use_initial = not self.has(which) and self.has("initial") and not has_trained
        kind = "initial" if use_initial else which
        step = self._existing_step(kind)
        try:
            restored = self._read(kind, step, variables=variables)
        except _DamagedError as error:
            raise UserError(f"{self._directory / kind / str(step)}: damaged ({error})") from error
        return Restored(step, restored["variables"], restored["record"])

    def has(self, kind: str) -> bool:
        """Whether there is a checkpoint of a kind: "last", "best" or "initial"."""
        return self._latest_step(kind) is not None

    def contents(self) -> list[str]:
        """What lies there, damaged or not, such as "best/12" and "damaged/last-24"."""
        kinds = [kind for kind in (*_KEPT, DAMAGED_DIR) if (self._directory / kind).is_dir()]
        return [
            f"{kind}/{folder.name}"
            for kind in kinds
            for folder in sorted((self._directory / kind).iterdir())
            if folder.name.removeprefix("last-").isdigit()
        ]

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
                    max_to_keep=_KEPT[kind],
                    enable_async_checkpointing=True,
                    # Processes meet at barriers named by the step; `last` and `best` may write the
                    # same one at a time.
                    multiprocessing_options=ocp.options.MultiprocessingOptions(
                        barrier_sync_key_prefix=kind
                    ),
                ),
                item_names=_ITEMS,
            )
        return self._managers[kind]

    def _save_whole_state(self, state: TrainState, step: int, record: dict[str, Any]) -> None:
        if step == self._latest_step("last"):
            with self._disk_errors():
                self._manager("last").wait_until_finished()
                self._manager("last").delete(step)
        self._save("last", step, record, variables=state.variables, training=_training_part(state))

    def _save(self, kind: str, step: int, record: dict[str, Any], **arrays: PyTree) -> None:
        with self._disk_errors():
            manager = self._manager(kind)
            # A resumed run takes steps again, to the same numbers, after its last whole state.
            if step in manager.all_steps():
                return
            arrays = self._parallel.replicate(arrays)
            sums = {name: checksums.of_arrays(tree) for name, tree in arrays.items()}
            sums["record"] = checksums.of_record(record)
            items = {name: ocp.args.StandardSave(tree) for name, tree in arrays.items()}
            items["record"] = ocp.args.JsonSave({"record": record, "checksums": sums})
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
                lambda x: jax.ShapeDtypeStruct(
                    x.shape, x.dtype, sharding=self._parallel.replicated
                ),
                tree,
            )
        )

    def _read(self, kind: str, step: int, **arrays: PyTree) -> dict[str, Any]:
        """The record, and arrays laid out like those given."""
        items = {name: self._like(tree) for name, tree in arrays.items()}
        items["record"] = ocp.args.JsonRestore()
        try:
            restored = self._manager(kind).restore(step, args=ocp.args.Composite(**items))
            content = restored["record"]
            found = {"record": content["record"]} | {name: restored[name] for name in arrays}
            for name, value in found.items():
                checksum = checksums.of_record if name == "record" else checksums.of_arrays
                if checksum(value) != content["checksums"][name]:
                    raise _DamagedError(f"{name}: wrong checksum")
            return found
        except (_DamagedError, ImportError, PermissionError, jax.errors.JaxRuntimeError):
            raise
        except Exception as error:
            # Orbax has no type of its own for files that are missing or wrong.
            reason = " ".join(str(error).split())[:200]
            if _DOES_NOT_FIT.search(str(error)):
                raise UserError(
                    f"{self._directory / kind / str(step)}: does not fit the configuration's "
                    "network and optimizer: give the configuration it was trained with, or another "
                    f"--workdir ({reason})"
                ) from error
            raise _DamagedError(reason) from error

    @contextlib.contextmanager
    def _set_aside_if_damaged(self, kind: str, step: int) -> Iterator[None]:
        """Moves a checkpoint that turns out damaged out of the way of the one before."""
        try:
            yield
        except _DamagedError as error:
            path = self._directory / kind / str(step)
            aside = self._directory / DAMAGED_DIR / f"{kind}-{step}"
            log.warning(
                "warning: %s: damaged, moved to %s; going on from the one before (%s)",
                path,
                aside,
                error,
            )
            self._managers.pop(kind).close()
            if distributed.is_primary():
                move_folder(path, aside)
            distributed.wait_for_all()

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """Says in one line what the disk refused to the threads that write."""
        try:
            yield
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"{self._directory}: could not be written: {reason}") from error
