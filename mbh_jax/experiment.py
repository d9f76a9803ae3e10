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
from mbh_jax import losses, models, optimizers, parallel, steps
from mbh_jax.data import preprocess
from mbh_jax.data.index import SliceIndex
from mbh_jax.data.order import steps_per_epoch
from mbh_jax.labels import NUM_CLASSES
from mbh_jax.losses import Loss
from mbh_jax.parallel import Batch, Parallel
from mbh_jax.train_state import TrainState


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What training and evaluation share.

    Attributes:
        config: the validated configuration.
        index: where each slice of the dataset is and what it holds.
        parallel: devices, and how steps run on them.
        loss: statistics and objective.
        schedule: learning rate by step, before the plateau rule.
        plateau: the plateau rule.
        init: the jitted maker of the initial state.
        template: shapes and dtypes of the state.
        train_step, eval_step, predict_step: compiled steps; see `steps.Steps`.
    """

    config: ConfigDict
    index: SliceIndex
    parallel: Parallel
    loss: Loss
    schedule: optax.Schedule
    plateau: optax.GradientTransformationExtraArgs
    init: Callable[[], TrainState]
    template: TrainState
    train_step: jax.stages.Wrapped
    eval_step: Callable[..., Any]
    predict_step: Callable[..., Any]

    def train_batches(
        self, examples: np.ndarray, epoch: int, start_batch: int = 0
    ) -> Iterator[Batch]:
        """This host's share of an epoch's shuffled batches, from `start_batch` on.

        Slices of one matrix are resized on the device; of several, on the host.
        """
        from mbh_jax.data import pipeline

        size = self.config.data.image_size
        return pipeline.train_batches(
            self.index,
            examples,
            global_batch=self.config.train.batch_size,
            seed=self.config.seed,
            epoch=epoch,
            start_batch=start_batch,
            host=jax.process_index(),
            num_hosts=jax.process_count(),
            resize_to=(size, size) if len(self.index.by_in_plane_shape(examples)) > 1 else None,
        )

    def eval_batches(self, examples: np.ndarray) -> Iterator[Batch]:
        """This host's share of `examples`, each at its scan's own matrix; last batches padded.

        Slices come in order, those of one matrix after those of another.
        """
        from mbh_jax.data import pipeline

        for of_one_shape in self.index.by_in_plane_shape(examples):
            yield from pipeline.eval_batches(
                self.index,
                of_one_shape,
                global_batch=self.config.eval.batch_size,
                host=jax.process_index(),
                num_hosts=jax.process_count(),
            )


def create_experiment(
    config: ConfigDict, batches: tuple[str, ...] = ("train.batch_size", "eval.batch_size")
) -> Experiment:
    """Validates `config`, opens its dataset and builds network, optimizer and steps.

    Args:
        config: the whole configuration.
        batches: the batches that are going to be used, which devices must divide.

    Raises:
        UserError: a key is wrong, keys do not fit each other, or the dataset is missing.
    """
    config_rules.validate(config, jax.device_count(), batches)
    index = SliceIndex.load(config.data.dir)
    how = parallel.create_parallel(config.parallel.mode)
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
    return Experiment(
        config=config,
        index=index,
        parallel=how,
        loss=loss,
        schedule=schedule,
        plateau=plateau,
        init=jax.jit(init, out_shardings=how.replicated),
        template=jax.eval_shape(init),
        train_step=parallel.compile_train_step(one_device.train, how),
        eval_step=parallel.compile_eval_step(one_device.evaluate, how),
        predict_step=parallel.compile_eval_step(one_device.predict, how),
    )
