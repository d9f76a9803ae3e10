"""From a configuration to the things a run is made of: data, network, compiled steps."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from mbh_jax import config as config_rules
from mbh_jax import models
from mbh_jax.data import preprocess, resident
from mbh_jax.data.index import SliceIndex
from mbh_jax.data.order import steps_per_epoch
from mbh_jax.data.packed import PackedSlices
from mbh_jax.data.resident import ResidentSlices
from mbh_jax.labels import NUM_CLASSES
from mbh_jax.runtime.parallel import (
    Batch,
    Parallel,
    compile_eval_step,
    compile_train_step,
    create_parallel,
)
from mbh_jax.training import losses, optimizers, steps
from mbh_jax.training.losses import Loss
from mbh_jax.training.train_state import TrainState


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What training and evaluation share.

    Attributes:
        config: the validated configuration.
        index: where each slice of the dataset is and what it holds.
        packed: with `data.resident` the decoded slices, which then take the place of the records.
        parallel: devices, and how steps run on them.
        loss: statistics and objective.
        schedule: learning rate by step, before the plateau rule.
        plateau: the plateau rule.
        init: the jitted maker of the initial state.
        template: shapes and dtypes of the state.
        train_step, eval_step, predict_step: compiled steps; see `steps.Steps`. With
            `data.resident` a training step takes `resident_slices` after the key.
        train_steps: `train.steps_per_call` training steps in one call; `train_step` where that
            is 1.
    """

    config: ConfigDict
    index: SliceIndex
    packed: PackedSlices | None
    parallel: Parallel
    loss: Loss
    schedule: optax.Schedule
    plateau: optax.GradientTransformationExtraArgs
    init: Callable[[], TrainState]
    template: TrainState
    train_step: jax.stages.Wrapped
    train_steps: jax.stages.Wrapped
    eval_step: Callable[..., Any]
    predict_step: Callable[..., Any]

    def train_batches(
        self, examples: np.ndarray, epoch: int, start_batch: int = 0
    ) -> Iterator[Batch]:
        """This host's share of an epoch's shuffled batches, from `start_batch` on.

        Slices of one matrix are resized on the device; of several, on the host. With
        `data.resident` a batch has no pixels.
        """
        which = {
            "global_batch": self.config.train.batch_size,
            "seed": self.config.seed,
            "epoch": epoch,
            "start_batch": start_batch,
            "host": jax.process_index(),
            "num_hosts": jax.process_count(),
        }
        if self.packed is not None:
            return resident.batches(examples, **which)
        from mbh_jax.data import pipeline

        size = self.config.data.image_size
        several = len(self.index.by_in_plane_shape(examples)) > 1
        resize_to = (size, size) if several else None
        return pipeline.train_batches(self.index, examples, **which, resize_to=resize_to)

    def resident_slices(self, examples: np.ndarray) -> tuple[ResidentSlices, ...]:
        """With `data.resident` the pixels of `examples`, brought to every device; else nothing.

        Raises:
            UserError: the slices are of several sizes.
        """
        if self.packed is None:
            return ()
        return (resident.load(self.packed, examples, self.parallel.hold),)

    def eval_batches(self, examples: np.ndarray) -> Iterator[Batch]:
        """This host's share of `examples`, each at its scan's own matrix; last batches padded.

        Slices come in order, those of one matrix after those of another. They are streamed with
        `data.resident` too, from the packed files: each is read once an epoch, evaluation of any
        split and any matrix stays one program, and the memory is left to training.
        """
        which = {
            "global_batch": self.config.eval.batch_size,
            "host": jax.process_index(),
            "num_hosts": jax.process_count(),
        }
        for of_one_shape in self.index.by_in_plane_shape(examples):
            if self.packed is not None:
                yield from self.packed.eval_batches(of_one_shape, **which)
            else:
                from mbh_jax.data import pipeline

                yield from pipeline.eval_batches(self.index, of_one_shape, **which)


def create_experiment(
    config: ConfigDict, batches: tuple[str, ...] = ("train.batch_size", "eval.batch_size")
) -> Experiment:
    """Validates `config`, opens its dataset and builds network, optimizer and steps.

    Args:
        config: the whole configuration.
        batches: the batches that are going to be used, which devices must divide.

    Raises:
        UserError: a key is wrong, keys do not fit each other, or the dataset or, with
            `data.resident`, its packed cache is missing.
    """
    config_rules.validate(config, jax.device_count(), batches)
    index = SliceIndex.load(config.data.dir, with_records=not config.data.resident)
    packed = PackedSlices(index) if config.data.resident else None
    how = create_parallel(config.parallel.mode)
    model = models.create_model(config.model, NUM_CLASSES, axis_name=how.axis_name)
    loss = losses.create_loss(config.loss)
    num_batches = steps_per_epoch(
        index.num_examples("train", config.data.slices), config.train.batch_size
    )
    schedule = optimizers.create_schedule(config.optimizer, num_batches, config.train.num_epochs)
    optimizer = optimizers.create_optimizer(config.optimizer, schedule)
    plateau = optimizers.create_plateau(config.optimizer)

    def init() -> TrainState:
        channels = preprocess.num_channels(config.data.window)
        image = jnp.zeros((1, config.data.image_size, config.data.image_size, channels))
        variables = model.init(jax.random.key(config.seed), image)
        return TrainState.create(dict(variables), optimizer, plateau)

    one_device = steps.create_steps(config, model, loss, optimizer)
    train_step = resident.with_gather(one_device.train) if packed else one_device.train

    def compile_train(num_steps: int) -> jax.stages.Wrapped:
        return compile_train_step(
            train_step, how, num_steps=num_steps, num_shared=1 if packed else 0
        )

    return Experiment(
        config=config,
        index=index,
        packed=packed,
        parallel=how,
        loss=loss,
        schedule=schedule,
        plateau=plateau,
        init=jax.jit(init, out_shardings=how.replicated),
        template=jax.eval_shape(init),
        train_step=compile_train(1),
        train_steps=compile_train(config.train.steps_per_call),
        eval_step=compile_eval_step(one_device.evaluate, how),
        predict_step=compile_eval_step(one_device.predict, how),
    )
