"""The steps of training, validation and evaluation, written for one device's share of a batch.

Steps are pure: a state or variables and a batch in, arrays out. Sums and counts leave a step, never
means: the loop divides once, by the number of real examples over all devices and batches.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mbh_jax.data import crops, preprocess
from mbh_jax.data.augmentation import create_augmentation
from mbh_jax.evaluation.confusion import confusion_counts, dice_coef_multiclass
from mbh_jax.labels import NUM_CLASSES
from mbh_jax.optimization.loss import Loss
from mbh_jax.optimization.losses import pixel_cross_entropy
from mbh_jax.training import microbatch
from mbh_jax.training.network import Network
from mbh_jax.training.train_state import TrainState, updated_average

PyTree = Any
Batch = Mapping[str, jax.Array]


def example_keys(rng: jax.Array, draw: jax.Array) -> jax.Array:
    """One PRNG key an example, (B,), from the epoch's key and the numbers of the draws (B,)."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(rng, draw)


def _sum_over_examples(statistics: Mapping[str, jax.Array], weight: jax.Array) -> PyTree:
    """Adds (B, ...) statistics of real examples; integers stay integers."""

    def add(rows: jax.Array) -> jax.Array:
        # Not a matrix product: accelerators would round its operands.
        return (weight.astype(rows.dtype).reshape(-1, *(1,) * (rows.ndim - 1)) * rows).sum(0)

    return {**{name: add(rows) for name, rows in statistics.items()}, "examples": weight.sum()}


def _prediction_metrics(logits: jax.Array, label: jax.Array) -> dict[str, jax.Array]:
    """What is reported beside the loss, one row an example."""
    return {
        "dice_coef_multiclass": dice_coef_multiclass(jax.nn.softmax(logits), label),
        "confusion": confusion_counts(label, logits.argmax(-1), NUM_CLASSES),
    }


def _where(condition: jax.Array, on_true: PyTree, on_false: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), on_true, on_false)


def _skip_unless_finite(
    old: TrainState, new: TrainState, sums: PyTree, objective: jax.Array
) -> tuple[TrainState, PyTree]:
    """`new` and `sums`; where loss or gradient is not finite, `old` and nothing but a count.

    The step counts in either. The optimizer's own count, its place in the schedule, does not.
    """
    finite = jnp.isfinite(objective) & jnp.isfinite(sums["gradient_norm"])
    state = _where(finite, new, old).replace(step=new.step)
    sums = _where(finite, sums, jax.tree.map(jnp.zeros_like, sums))
    return state, {**sums, "nonfinite_steps": (~finite).astype(jnp.int32)}


def create_train_step(
    network: Network, loss: Loss, optimizer: optax.GradientTransformationExtraArgs
) -> Callable[..., tuple[TrainState, PyTree]]:
    """A training step.

    Args:
        network: with its configuration, whose sections "augment" and "train" it reads too.
        loss: statistics and objective.
        optimizer: from gradients to updates.

    Returns:
        `(state, batch, rng, *, axis_name=None) -> (state, sums)`. `rng` is the key of the epoch,
        `sums` are totals over all devices. With `train.max_nonfinite_steps` they hold
        `nonfinite_steps`, 1 where the batch was skipped and all other sums are zero.
    """
    config = network.config
    augmentation = create_augmentation(config.augment, config.data.window)

    def forward(
        params: PyTree, model_state: PyTree, batch: Batch, rng: jax.Array
    ) -> tuple[PyTree, tuple[PyTree, PyTree]]:
        """Sums of the loss's statistics; the model's new state and the sums of what is reported."""
        keys = jax.vmap(jax.random.split)(example_keys(rng, batch["draw"]))
        augment_keys, dropout_keys = keys[:, 0], keys[:, 1]
        hu = augmentation.augment_hu(augment_keys, batch["image"])
        image = network.input_of(hu)
        label = preprocess.resize_label(batch["label"], config.data.image_size)
        image, label = augmentation.augment_image(augment_keys, image, label)
        if config.data.crop_size:
            image, label = crops.crop(
                augment_keys,
                image,
                label,
                size=config.data.crop_size,
                blood_share=config.data.crop_blood_share,
            )
        logits, model_state = network.model.apply(
            {"params": params, **model_state},
            image,
            train=True,
            weight=batch["weight"],
            dropout_keys=dropout_keys,
            mutable=list(model_state),
        )
        # With deep supervision there are logits of several resolutions, the finest first.
        finest = logits[0] if isinstance(logits, tuple) else logits
        reported = _prediction_metrics(jax.lax.stop_gradient(finest), label)
        return _sum_over_examples(loss.statistics(logits, label), batch["weight"]), (
            model_state,
            _sum_over_examples(reported, batch["weight"]),
        )

    def train_step(
        state: TrainState, batch: Batch, rng: jax.Array, *, axis_name: str | None = None
    ) -> tuple[TrainState, PyTree]:
        def total(tree: PyTree) -> PyTree:
            return tree if axis_name is None else jax.lax.psum(tree, axis_name)

        model_state, device_share = microbatch.accumulate_gradients(
            functools.partial(forward, rng=rng),
            loss,
            state,
            batch,
            total=total,
            num_microbatches=config.train.accumulate_steps,
        )
        gradient, sums = total(device_share)
        # The norm of the gradient and not of the update, which XLA would compute a second time.
        sums["gradient_norm"] = optax.global_norm(gradient)

        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        updates = jax.tree.map(lambda update: state.plateau.scale * update, updates)
        new_state = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            model_state=model_state,
            opt_state=opt_state,
        )
        if config.train.ema_decay:
            average = updated_average(new_state, config.train.ema_decay)
            new_state = new_state.replace(average=average)
        if config.train.max_nonfinite_steps:
            return _skip_unless_finite(state, new_state, sums, loss.objective(sums))
        return new_state, sums

    return train_step


def create_validation_step(
    network: Network, loss: Loss
) -> Callable[[PyTree, Batch], dict[str, jax.Array]]:
    """A validation step: `(variables, batch) -> {name: (B, ...)}`, one row an example.

    Rows are the loss's statistics, `cross_entropy`, `dice_coef_multiclass` and `confusion` at the
    network's resolution, and `native_confusion` (K,K) on the scan's own grid.
    """

    def validation_step(variables: PyTree, batch: Batch) -> dict[str, jax.Array]:
        logits = network.logits(variables, batch["image"])
        label = preprocess.resize_label(batch["label"], network.config.data.image_size)
        return {
            **loss.statistics(logits, label),
            "cross_entropy": pixel_cross_entropy(logits, label),
            **_prediction_metrics(logits, label),
            "native_confusion": confusion_counts(
                batch["label"], network.labels_of(logits, batch["image"]), NUM_CLASSES
            ),
        }

    return validation_step


def create_mask_step(network: Network) -> Callable[[PyTree, Batch], dict[str, jax.Array]]:
    """An evaluation step: `(variables, batch) -> {name: (B, ...)}`, one row an example.

    Rows are `mask` (H,W) uint8, label values on the scan's own grid, and at the network's
    resolution `cross_entropy` and `dice_coef_multiclass`, which cannot be computed from a mask.
    """

    def mask_step(variables: PyTree, batch: Batch) -> dict[str, jax.Array]:
        logits = network.logits(variables, batch["image"])
        label = preprocess.resize_label(batch["label"], network.config.data.image_size)
        return {
            "mask": network.labels_of(logits, batch["image"]).astype(jnp.uint8),
            "cross_entropy": pixel_cross_entropy(logits, label),
            "dice_coef_multiclass": dice_coef_multiclass(jax.nn.softmax(logits), label),
        }

    return mask_step
