"""The loop over the steps of an epoch."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mbh_jax.data.loader import Loader
from mbh_jax.data.sampling import Sampler
from mbh_jax.reporting.progress import Progress
from mbh_jax.runtime import distributed, xla
from mbh_jax.runtime.parallel import each_step, num_steps_of, prefetch, stack_batches
from mbh_jax.runtime.preemption import StopRequest
from mbh_jax.runtime.profiling import StepProfiler
from mbh_jax.training import epoch_log, memory, nonfinite
from mbh_jax.training.run_state import RunRecord, add_sums
from mbh_jax.training.setup import Training
from mbh_jax.training.train_state import TrainState

PyTree = Any


class TrainingLoop:
    """Takes the steps of an epoch, and adds up what they return.

    A call takes `config.train.steps_per_call` steps, counted from the beginning of the epoch; those
    left at its end are taken one by one. The loop waits for the device at logging steps and at
    checkpoints only, which come after the call that took a step they are due at.

    Args:
        training: network, objective and steps of the run.
        loader: of its dataset.
        examples: (n,) int32, the examples to train on.
        sampler: draws from them.
        save_last: writes a checkpoint, every `config.train.checkpoint_every_steps` steps.
        stop: asked after every call.
        progress: shows each call, and the loss at logging steps.
        profiler: traces the calls that take its steps.
    """

    def __init__(
        self,
        training: Training,
        loader: Loader,
        examples: np.ndarray,
        sampler: Sampler,
        *,
        save_last: Callable[[TrainState, RunRecord], None],
        stop: StopRequest,
        progress: Progress,
        profiler: StepProfiler,
    ):
        self._training = training
        self._config = training.network.config
        self._loader = loader
        self._sampler = sampler
        self._save_last = save_last
        self._stop = stop
        self._progress = progress
        self._profiler = profiler
        self._slices = loader.resident_slices(examples, training.parallel.hold)
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
            UserError: the loss or a gradient is not finite: in a batch that may not be skipped, or
                in all batches of the epoch.
        """
        config = self._config.train
        num_batches = self._sampler.num_batches
        rng = jax.random.fold_in(jax.random.key(self._config.seed), record.epoch)
        step = int(state.step)
        pending: list[PyTree] = []

        batches = self._loader.train_batches(
            self._sampler.order(record.epoch),
            global_batch=config.batch_size,
            start_batch=record.batch,
        )
        groups = stack_batches(batches, config.steps_per_call)
        on_devices = prefetch(groups, self._training.parallel)
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
            if _holds_multiple(taken, config.log_every_steps):
                record = self._fetch(record, pending, step)
            stopping = self._stop.is_set()
            every = config.checkpoint_every_steps
            # After the last batch the end of the epoch saves, with what it adds to the record.
            due = every and _holds_multiple(taken, every) and record.batch < num_batches
            if due and not stopping:
                record = self._fetch(record, pending, step)
                self._save_last(state, record)
            if stopping:
                break
        record = self._fetch(record, pending, step)
        if record.batch == num_batches:
            nonfinite.check_epoch(record)
        return state, record

    def _take_steps(
        self, num_steps: int, state: TrainState, batch: PyTree, rng: jax.Array
    ) -> tuple[TrainState, PyTree]:
        if num_steps not in self._programs:
            program = self._training.compile_train(num_steps)
            lowered = program.lower(state, batch, rng, *self._slices)
            compiled = xla.compile_lowered(lowered)
            memory.report(compiled, self._config, num_steps)
            calls_compiled = self._training.parallel.calls_compiled
            self._programs[num_steps] = compiled if calls_compiled else program
            distributed.wait_for_all()
        return self._programs[num_steps](state, batch, rng, *self._slices)

    def _fetch(self, record: RunRecord, pending: list[PyTree], step: int) -> RunRecord:
        """Adds the sums still on the devices to the record's, checks them and shows the loss."""
        if not pending:
            return record
        fetched = [sums for call_sums in jax.device_get(pending) for sums in each_step(call_sums)]
        pending.clear()
        loss = self._training.loss
        nonfinite.check_steps(
            loss,
            record,
            fetched,
            allowed=self._config.train.max_nonfinite_steps,
            describe_batch=lambda batch: self._describe_batch(record.epoch, batch),
        )
        metrics = {"loss": epoch_log.objective(loss, add_sums({}, fetched))}
        self._progress.update(step, epoch=record.epoch + 1, metrics=metrics)
        return record._replace(sums=add_sums(record.sums, fetched))

    def _describe_batch(self, epoch: int, batch: int) -> str:
        """The slices of a batch, in words."""
        size = self._config.train.batch_size
        examples = self._sampler.order(epoch)[batch * size : (batch + 1) * size]
        return ", ".join(self._loader.index.describe(int(example)) for example in examples)


def _holds_multiple(steps: range, every: int) -> bool:
    """Whether one of consecutive `steps` is a multiple of `every`."""
    return steps[-1] // every > (steps[0] - 1) // every
