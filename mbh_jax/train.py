"""The training loop, from a configuration to a trained, evaluated network."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from mbh_jax import evaluate
from mbh_jax.data.order import steps_per_epoch
from mbh_jax.errors import Stopped
from mbh_jax.log import log
from mbh_jax.reporting.progress import Progress
from mbh_jax.reporting.run_files import RunFiles
from mbh_jax.runtime import distributed, xla
from mbh_jax.runtime.parallel import each_step, num_steps_of, prefetch, stack_batches
from mbh_jax.runtime.preemption import StopRequest
from mbh_jax.runtime.profiling import StepProfiler
from mbh_jax.training import epoch_log, memory, nonfinite
from mbh_jax.training.checkpoints import Checkpoints
from mbh_jax.training.initialize import begin_or_resume
from mbh_jax.training.preview import Preview
from mbh_jax.training.run_state import RunRecord, add_sums
from mbh_jax.training.setup import Experiment, create_experiment
from mbh_jax.training.train_state import TrainState

PyTree = Any


def train_and_evaluate(config: ConfigDict, workdir: epath.Path) -> None:
    """Trains what `config` describes, then evaluates the best checkpoint on validation volumes.

    A run that was begun in `workdir` goes on where its last checkpoint stands, with the numbers it
    would have had without the interruption.

    Args:
        config: the recipe.
        workdir: gets checkpoints, curves, pictures and tables; README lists the files.

    Raises:
        UserError: the configuration is wrong, the dataset missing, the workdir holds another run,
            the loss is not finite, the devices' memory does not suffice, or the disk is full.
        Stopped: SIGTERM or Ctrl-C came; what had been done is saved.
    """
    experiment = create_experiment(config)
    with (
        StopRequest() as stop,
        Checkpoints(workdir, experiment.parallel) as saved,
        memory.out_of_memory_errors(config),
    ):
        train(experiment, workdir, saved, stop)
        saved.wait()
        best = saved.restore_variables("best", experiment.template.variables)
        evaluate.evaluate_split(
            experiment, best, workdir, split="validation", checkpoint="best", stop=stop
        )


def train(
    experiment: Experiment, workdir: epath.Path, saved: Checkpoints, stop: StopRequest
) -> None:
    """Takes the steps that are left; see `train_and_evaluate`."""
    config = experiment.config
    train_examples = experiment.index.examples("train", config.data.slices)
    validation_examples = experiment.index.examples("validation", config.data.slices)
    num_batches = steps_per_epoch(len(train_examples), config.train.batch_size)

    state, record = begin_or_resume(experiment, saved, workdir)
    _log_setup(experiment, state, len(train_examples), len(validation_examples))
    step = int(state.step)
    with (
        RunFiles(workdir, config, step) as run_files,
        StepProfiler(config.profile.steps, workdir) as profiler,
        Progress(num_batches * config.train.num_epochs, step, config.train.batch_size) as progress,
    ):
        preview = Preview(experiment, validation_examples, workdir)
        loop = TrainingLoop(
            experiment,
            train_examples,
            saved=saved,
            stop=stop,
            progress=progress,
            profiler=profiler,
        )
        while record.epoch < config.train.num_epochs and not record.early_stopping.should_stop:
            started = time.monotonic()
            state, record = loop.run_epoch(state, record)
            trained = time.monotonic()
            try:
                stop.raise_if_set()
                with progress.paused("validation"):
                    rows = evaluate.evaluate_examples(
                        experiment, state.variables, validation_examples, stop=stop
                    )
            except Stopped:
                save_last(experiment, saved, state, record)
                raise
            entry = epoch_log.entry(experiment, state, record, rows)
            entry["train_seconds"] = trained - started
            entry["validation_seconds"] = time.monotonic() - trained
            nonfinite.check_validation_loss(entry["val_loss"], entry["epoch"])

            record = record.end_epoch(entry)
            state = apply_plateau_rule(experiment, state, entry["val_loss"])
            with progress.paused("pictures"):
                run_files.write_epoch(record.history, preview.draw(state.variables, record.epoch))
            progress.message(epoch_log.line(entry, record.early_stopping.has_improved))
            # Last, so that a run killed before does it all again.
            if record.early_stopping.has_improved:
                saved.save_best(state.variables, entry["step"], entry)
            save_last(experiment, saved, state, record)


def save_last(
    experiment: Experiment, saved: Checkpoints, state: TrainState, record: RunRecord
) -> None:
    """Starts to write the whole state and the run's record."""
    saved.save_last(
        state, int(state.step), record.to_json(experiment.config, experiment.index.fingerprint)
    )


class TrainingLoop:
    """Takes the steps of an epoch, and adds up what they return.

    A call takes `config.train.steps_per_call` steps, counted from the beginning of the epoch; what
    is left at its end it takes one by one. The loop waits for the device at logging steps and at
    checkpoints only, which come after the call that took a step they are due at.

    Args:
        experiment: data and compiled steps.
        examples: (n,) int32, the examples to train on.
        saved: gets a checkpoint every `config.train.checkpoint_every_steps` steps.
        stop: asked after every call.
        progress: shows each call, and the loss at logging steps.
        profiler: traces the calls that take its steps.
    """

    def __init__(
        self,
        experiment: Experiment,
        examples: np.ndarray,
        *,
        saved: Checkpoints,
        stop: StopRequest,
        progress: Progress,
        profiler: StepProfiler,
    ):
        self._experiment = experiment
        self._examples = examples
        self._saved = saved
        self._stop = stop
        self._progress = progress
        self._profiler = profiler
        self._slices = experiment.resident_slices(examples)
        self._programs: dict[int, Callable[..., tuple[TrainState, PyTree]]] = {}

    def run_epoch(self, state: TrainState, record: RunRecord) -> tuple[TrainState, RunRecord]:
        """Takes the steps of an epoch that are left, or those until it is to stop.

        Args:
            state: donated; use the returned one.
            record: its `epoch`, `batch` and `sums` say where to begin.

        Returns:
            State and record after the last batch taken; the record's `sums` are of all batches of
            the epoch so far.

        Raises:
            UserError: the loss or a gradient is not finite.
        """
        config = self._experiment.config
        num_batches = steps_per_epoch(len(self._examples), config.train.batch_size)
        rng = jax.random.fold_in(jax.random.key(config.seed), record.epoch)
        step = int(state.step)
        pending: list[PyTree] = []

        batches = stack_batches(
            self._experiment.train_batches(self._examples, record.epoch, record.batch),
            config.train.steps_per_call,
        )
        on_devices = prefetch(batches, self._experiment.parallel)
        for group, batch in self._progress.watch_input(on_devices):
            num_steps = num_steps_of(group)
            taken = range(step + 1, step + 1 + num_steps)
            for number in taken:
                self._profiler.before_step(number)
            state, sums = self._take_steps(num_steps, state, batch, rng)
            for number in taken:
                self._profiler.after_step(number, sums)
            pending.append(sums)
            step += num_steps
            record = record._replace(batch=record.batch + num_steps)
            self._progress.update(step, epoch=record.epoch + 1)
            if _holds_multiple(taken, config.train.log_every_steps):
                record = self._fetch(record, pending, step)
            stopping = self._stop.is_set()
            every = config.train.checkpoint_every_steps
            # After the last batch the end of the epoch saves, with what it adds to the record.
            due = every and _holds_multiple(taken, every) and record.batch < num_batches
            if due and not stopping:
                record = self._fetch(record, pending, step)
                save_last(self._experiment, self._saved, state, record)
            if stopping:
                break
        return state, self._fetch(record, pending, step)

    def _take_steps(
        self, num_steps: int, state: TrainState, batch: PyTree, rng: jax.Array
    ) -> tuple[TrainState, PyTree]:
        experiment = self._experiment
        if num_steps not in self._programs:
            program = experiment.train_step if num_steps == 1 else experiment.train_steps
            lowered = program.lower(state, batch, rng, *self._slices)
            compiled = xla.compile_lowered(lowered)
            memory.report(compiled, experiment.config, num_steps)
            calls_compiled = experiment.parallel.calls_compiled
            self._programs[num_steps] = compiled if calls_compiled else program
            distributed.wait_for_all()
        return self._programs[num_steps](state, batch, rng, *self._slices)

    def _fetch(self, record: RunRecord, pending: list[PyTree], step: int) -> RunRecord:
        """Adds the sums still on the devices to the record's, checks them and shows the loss."""
        if not pending:
            return record
        fetched = [sums for of_call in jax.device_get(pending) for sums in each_step(of_call)]
        pending.clear()
        nonfinite.check_steps(self._experiment, record, fetched, self._examples)
        loss = epoch_log.objective(self._experiment, add_sums({}, fetched))
        self._progress.update(step, epoch=record.epoch + 1, metrics={"loss": loss})
        return record._replace(sums=add_sums(record.sums, fetched))


def _holds_multiple(steps: range, every: int) -> bool:
    """Whether one of consecutive `steps` is a multiple of `every`."""
    return steps[-1] // every > (steps[0] - 1) // every


def apply_plateau_rule(experiment: Experiment, state: TrainState, val_loss: float) -> TrainState:
    """Tells the plateau rule an epoch's validation loss; it may lower the learning rate."""
    _, plateau = experiment.plateau.update({}, state.plateau, value=val_loss)
    return state.replace(plateau=experiment.parallel.replicate(plateau))


def _log_setup(
    experiment: Experiment, state: TrainState, num_train: int, num_validation: int
) -> None:
    devices = experiment.parallel.mesh.devices
    log.info(
        "%s parameters, %d training and %d validation slices (%s), %s on %d %s",
        f"{sum(leaf.size for leaf in jax.tree.leaves(state.params)):,}",
        num_train,
        num_validation,
        experiment.config.data.slices,
        experiment.parallel.mode,
        devices.size,
        devices.flat[0].device_kind,
    )
