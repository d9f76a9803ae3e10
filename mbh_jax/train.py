"""Training, from a configuration to a trained network."""

import time
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from mbh_jax import config as config_keys
from mbh_jax.data import spacing
from mbh_jax.data.index import SliceIndex
from mbh_jax.data.loader import Loader
from mbh_jax.data.sampling import Sampler
from mbh_jax.errors import Stopped
from mbh_jax.log import log
from mbh_jax.reporting.progress import Progress
from mbh_jax.reporting.run_files import RunFiles
from mbh_jax.runtime import distributed, run_lock
from mbh_jax.runtime.parallel import create_parallel
from mbh_jax.runtime.preemption import StopRequest
from mbh_jax.runtime.profiling import StepProfiler
from mbh_jax.training import epoch_log, memory, nonfinite
from mbh_jax.training.checkpoints import Checkpoints
from mbh_jax.training.initialize import initialize_from, initialize_or_resume
from mbh_jax.training.loop import TrainingLoop
from mbh_jax.training.preview import Preview
from mbh_jax.training.run_state import RunRecord
from mbh_jax.training.setup import Training, create_training
from mbh_jax.training.train_state import TrainState
from mbh_jax.training.validation import validate


def train(
    config: ConfigDict,
    workdir: epath.Path,
    stop: StopRequest,
    *,
    init_from: epath.Path | None = None,
) -> None:
    """Trains what `config` describes.

    A run that has begun in `workdir` goes on from its last checkpoint, with the numbers it would
    have had without the interruption.

    Args:
        config: the recipe.
        workdir: gets checkpoints, curves and pictures; docs/outputs.md lists the files.
        stop: asked after every call of the compiled step and every validation batch.
        init_from: workdir of another run, with whose weights a new run starts.

    Raises:
        UserError: the configuration is wrong, the dataset missing, the workdir in use or that of
            another run, the loss not finite, the devices' memory too small, or the disk full.
        Stopped: SIGTERM or Ctrl-C came; what had been done is saved.
    """
    config_keys.validate(config, jax.device_count())
    loader = Loader(config.data, with_extra=True)
    index = loader.index
    train_examples, validation_examples = (
        index.examples(split, config.data.slices) for split in ("train", "validation")
    )
    sampler = Sampler(config, index, train_examples)
    parallel = create_parallel(config.parallel.mode)
    training = create_training(config, parallel, steps_per_epoch=sampler.num_batches)

    with (
        memory.out_of_memory_errors(config),
        run_lock.locked(workdir),
        Checkpoints(workdir, parallel) as checkpoints,
    ):
        if init_from is not None:
            initialize_from(config, workdir, init_from, parallel)
        state, record = initialize_or_resume(training, index.fingerprints, checkpoints, workdir)
        _log_setup(training, state, len(train_examples), len(validation_examples))
        step = int(state.step)
        # A run killed after an epoch's checkpoint may lack what is written after it.
        must_report = bool(record.history) and not record.batch

        trained_on = _describe_data(index, train_examples)

        def save_last(state: TrainState, record: RunRecord) -> None:
            whole = record.to_json(config, index.fingerprints) | trained_on
            checkpoints.save_last(state, int(state.step), whole)

        with (
            RunFiles(
                workdir,
                config,
                steps_kept=step - 1 if must_report else step,
                enabled=distributed.is_primary(),
            ) as run_files,
            StepProfiler(config.profile.steps, workdir) as profiler,
            Progress(
                sampler.num_batches * config.train.num_epochs, step, config.train.batch_size
            ) as progress,
        ):
            preview = Preview(
                loader,
                validation_examples,
                number=config.train.preview_slices,
                batch_size=config.eval.batch_size,
                predict=training.predict_step,
                parallel=parallel,
                workdir=workdir,
            )

            def report(state: TrainState, record: RunRecord) -> None:
                with progress.paused("pictures"):
                    picture = preview.draw(state.variables, record.epoch)
                    run_files.write_epoch(record.history, picture)

            if must_report:
                report(state, record)
            loop = TrainingLoop(
                training,
                loader,
                train_examples,
                sampler,
                save_last=save_last,
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
                        validated = validate(
                            training.validation_step,
                            state.variables,
                            loader.eval_batches(
                                validation_examples, global_batch=config.eval.batch_size
                            ),
                            parallel,
                            stop=stop,
                        )
                except Stopped:
                    save_last(state, record)
                    raise
                entry = epoch_log.entry(
                    training.loss,
                    epoch=record.epoch + 1,
                    step=int(state.step),
                    learning_rate=_learning_rate(training, state),
                    trained=record.sums,
                    validated=validated,
                ) | {
                    "train_seconds": trained - started,
                    "validation_seconds": time.monotonic() - trained,
                }
                nonfinite.check_validation_loss(entry["val_loss"], entry["epoch"])

                record = record.end_epoch(entry)
                state = apply_plateau_rule(training, state, entry["val_loss"])
                # The whole state after the best variables: a run killed between takes the epoch
                # again. Both before what people look at, whose failure costs no epoch.
                if record.early_stopping.has_improved:
                    checkpoints.save_best(state.variables, entry["step"], entry | trained_on)
                save_last(state, record)
                progress.message(epoch_log.line(entry, record.early_stopping.has_improved))
                report(state, record)
        if message := record.early_stop(config.train.num_epochs):
            log.info(message)


def _describe_data(index: SliceIndex, examples: np.ndarray) -> dict[str, Any]:
    """What a checkpoint says of the data that its weights are trained on."""
    volumes = [index.volumes[number] for number in np.unique(index.volume[examples])]
    seen = spacing.training_spacing(volumes)
    return {"dataset": index.fingerprint, "training_spacing": spacing.to_json(seen)}


def _learning_rate(training: Training, state: TrainState) -> float:
    """That of the last step taken."""
    return float(training.schedule(int(state.step) - 1) * state.plateau.scale)


def apply_plateau_rule(training: Training, state: TrainState, val_loss: float) -> TrainState:
    """Gives the plateau rule an epoch's validation loss; it may lower the learning rate."""
    _, plateau = training.plateau.update({}, state.plateau, value=val_loss)
    return state.replace(plateau=training.parallel.replicate(plateau))


def _log_setup(training: Training, state: TrainState, num_train: int, num_validation: int) -> None:
    devices = training.parallel.mesh.devices
    log.info(
        "%s parameters, %d training and %d validation slices (%s), %s on %d %s",
        f"{sum(leaf.size for leaf in jax.tree.leaves(state.params)):,}",
        num_train,
        num_validation,
        training.network.config.data.slices,
        training.parallel.mode,
        devices.size,
        devices.flat[0].device_kind,
    )
