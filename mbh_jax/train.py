"""The training loop, from a configuration to a trained, evaluated network."""

import math
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mbh_jax import config as config_rules
from mbh_jax import evaluate, history, parallel
from mbh_jax.checkpoints import Checkpoints
from mbh_jax.data.index import steps_per_epoch
from mbh_jax.errors import UserError
from mbh_jax.experiment import Experiment, create_experiment
from mbh_jax.preview import Preview
from mbh_jax.reporting import plots, writers
from mbh_jax.reporting.log import log
from mbh_jax.reporting.progress import Progress
from mbh_jax.run_record import RunRecord, add_sums, check_same_network, check_same_run
from mbh_jax.train_state import TrainState

PyTree = Any

TENSORBOARD_DIR = "tensorboard"


def train_and_evaluate(config: ConfigDict, workdir: Path) -> None:
    """Trains what `config` describes, then evaluates the best checkpoint on validation volumes.

    A run that was begun in `workdir` goes on where its last checkpoint stands, with the numbers it
    would have had without the interruption.

    Args:
        config: the recipe.
        workdir: gets checkpoints, curves, pictures and tables; README lists the files.

    Raises:
        UserError: the configuration is wrong, the dataset missing, the workdir holds another run,
            the loss is not finite, or the disk is full.
    """
    experiment = create_experiment(config)
    with Checkpoints(workdir, experiment.parallel.replicated) as saved:
        train(experiment, workdir, saved)
        saved.wait()
        best = saved.restore_variables("best", experiment.template.variables)
    table = evaluate.write_tables(experiment, best, workdir, split="validation", checkpoint="best")
    print(table)


def train(experiment: Experiment, workdir: Path, saved: Checkpoints) -> None:
    """Takes the steps that are left; see `train_and_evaluate`."""
    config = experiment.config
    train_examples = experiment.index.examples("train", config.data.slices)
    validation_examples = experiment.index.examples("validation", config.data.slices)
    num_batches = steps_per_epoch(len(train_examples), config.train.batch_size)

    state, record = begin_or_resume(experiment, saved, workdir)
    writers.write_config(workdir, config)
    preview = Preview(experiment, validation_examples, workdir)
    _log_setup(experiment, state, len(train_examples), len(validation_examples))

    step = int(state.step)
    with (
        writers.TensorBoardWriter(workdir / TENSORBOARD_DIR, step) as events,
        Progress(num_batches * config.train.num_epochs, step, config.train.batch_size) as progress,
    ):
        while record.epoch < config.train.num_epochs and not record.early_stopping.should_stop:
            started = time.monotonic()
            state, record = train_epoch(
                experiment, state, record, train_examples, saved=saved, progress=progress
            )
            trained = time.monotonic()
            with progress.paused("validation"):
                rows = evaluate.evaluate_examples(experiment, state.variables, validation_examples)
                entry = history.entry(experiment, state, record, rows)
                entry["train_seconds"] = trained - started
                entry["validation_seconds"] = time.monotonic() - trained
                _stop_unless_finite(entry["val_loss"], "validation loss", entry["step"])

                record = record.end_epoch(entry)
                state = apply_plateau_rule(experiment, state, entry["val_loss"])
                picture = preview.draw(state.variables, record.epoch)
                report_epoch(workdir, record, events, picture)
                progress.message(history.line(entry, record.early_stopping.has_improved))
                if record.early_stopping.has_improved:
                    saved.save_best(state.variables, entry["step"], entry)
                save_last(experiment, saved, state, record)


def begin_or_resume(
    experiment: Experiment, saved: Checkpoints, workdir: Path
) -> tuple[TrainState, RunRecord]:
    """The state to go on from: the last checkpoint's, given weights, or a new one.

    Raises:
        UserError: the workdir holds a run of another configuration or another dataset.
    """
    config = experiment.config
    patience = config.train.early_stopping_patience
    record = saved.last_record()
    if record is not None:
        check_same_run(record, config, experiment.index.fingerprint, workdir)
        restored = saved.restore_last(experiment.template)
        log.info("%s: going on after step %d", workdir, restored.step)
        return restored.arrays, RunRecord.from_json(restored.record, patience)
    saved.discard_best()
    state = experiment.init()
    if saved.has_initial():
        check_same_network(config, workdir)
        initial = saved.restore_variables("initial", experiment.template.variables)
        log.info("%s: beginning with the weights given there", workdir)
        state = state.with_variables(initial.arrays)
    return state, RunRecord.begin(patience)


def begin_from_variables(config: ConfigDict, workdir: Path, variables: PyTree) -> None:
    """Makes a workdir that evaluation takes up as it is, and training begins with.

    Args:
        config: what the run is to be; `config.json` keeps it.
        workdir: a folder without a run.
        variables: the model's variables.

    Raises:
        UserError: the configuration is wrong, or the workdir holds a run.
    """
    config_rules.validate(config, jax.device_count())
    how = parallel.create_parallel(config.parallel.mode)
    with Checkpoints(workdir, how.replicated) as saved:
        if saved.has_initial() or saved.last_record() is not None:
            raise UserError(f"{workdir} already holds a run: give another --workdir")
        writers.write_config(workdir, config)
        saved.save_initial(jax.device_put(variables, how.replicated), {})
    log.info("wrote %s", workdir)


def save_last(
    experiment: Experiment, saved: Checkpoints, state: TrainState, record: RunRecord
) -> None:
    """Starts to write the whole state and the run's record."""
    saved.save_last(
        state, int(state.step), record.to_json(experiment.config, experiment.index.fingerprint)
    )


def train_epoch(
    experiment: Experiment,
    state: TrainState,
    record: RunRecord,
    examples: np.ndarray,
    *,
    saved: Checkpoints,
    progress: Progress,
) -> tuple[TrainState, RunRecord]:
    """Takes the steps of an epoch that are left, and adds up what they return.

    The loop waits for the device at logging steps and at checkpoints only.

    Args:
        experiment: data and compiled steps.
        state: donated; use the returned one.
        record: its `epoch`, `batch` and `sums` say where to begin.
        examples: (n,) int32, the examples to train on.
        saved: gets a checkpoint every `config.train.checkpoint_every_steps` steps.
        progress: shows each step, and the loss at logging steps.

    Returns:
        State and record after the last batch; the record's `sums` are of the whole epoch.

    Raises:
        UserError: the loss is not finite.
    """
    config = experiment.config
    num_batches = steps_per_epoch(len(examples), config.train.batch_size)
    rng = jax.random.fold_in(jax.random.key(config.seed), record.epoch)
    step = int(state.step)
    pending: list[Any] = []

    def fetch(record: RunRecord) -> RunRecord:
        """Adds the sums still on the device to the record's, and checks their loss."""
        recent = add_sums({}, pending)
        loss = history.objective(experiment, recent)
        _stop_unless_finite(loss, "loss", step)
        _stop_unless_finite(float(recent["update_norm"]), "size of the updates", step)
        progress.update(step, epoch=record.epoch + 1, metrics={"loss": loss})
        sums = add_sums(record.sums, [recent])
        pending.clear()
        return record._replace(sums=sums)

    batches = experiment.train_batches(examples, record.epoch, start_batch=record.batch)
    for _, batch in parallel.prefetch(batches, experiment.parallel):
        state, sums = experiment.train_step(state, batch, rng)
        pending.append(sums)
        step += 1
        record = record._replace(batch=record.batch + 1)
        progress.update(step, epoch=record.epoch + 1)
        if step % config.train.log_every_steps == 0:
            record = fetch(record)
        every = config.train.checkpoint_every_steps
        # After the last batch the end of the epoch saves, with what it adds to the record.
        if every and step % every == 0 and record.batch < num_batches:
            record = fetch(record) if pending else record
            save_last(experiment, saved, state, record)
    return state, fetch(record) if pending else record


def apply_plateau_rule(experiment: Experiment, state: TrainState, val_loss: float) -> TrainState:
    """Tells the plateau rule an epoch's validation loss; it may lower the learning rate."""
    _, plateau = experiment.plateau.update({}, state.plateau, value=val_loss)
    return state.replace(plateau=jax.device_put(plateau, experiment.parallel.replicated))


def report_epoch(
    workdir: Path,
    record: RunRecord,
    events: writers.TensorBoardWriter,
    picture: np.ndarray | None,
) -> None:
    """Writes history, curves and TensorBoard events after an epoch."""
    writers.write_history(workdir, record.history)
    plots.write_plots(workdir, record.history)
    entry = record.history[-1]
    scalars = {name: value for name, value in entry.items() if name not in ("epoch", "step")}
    events.scalars(entry["step"], scalars)
    if picture is not None:
        events.image(entry["step"], "validation slices: truth and prediction", picture)


def _stop_unless_finite(loss: float, name: str, step: int) -> None:
    if not math.isfinite(loss):
        raise UserError(
            f"the {name} is not finite ({loss}) at step {step}: the last good checkpoint is kept; "
            "lower optimizer.learning_rate or set optimizer.clip_norm, and give a new --workdir"
        )


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
