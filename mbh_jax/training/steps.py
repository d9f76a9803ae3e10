"""The training, evaluation and prediction steps, written for one device's share of a batch.

Steps are pure: a state or variables and a batch in, arrays out. Sums and counts leave a step, never
means: the loop divides once, by the count of real examples over all devices and batches.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from mbh_jax.data import augment, preprocess
from mbh_jax.evaluation.confusion import confusion_counts, dice_coef_multiclass
from mbh_jax.labels import NUM_CLASSES
from mbh_jax.training import microbatch
from mbh_jax.training.losses import Loss, pixel_cross_entropy
from mbh_jax.training.train_state import TrainState

PyTree = Any
Batch = Mapping[str, jax.Array]


class Steps(NamedTuple):
    """The three steps of a run.

    Attributes:
        train: `(state, batch, rng, *, axis_name=None) -> (state, sums)`; `rng` is the key of the
            epoch, `sums` are totals over all devices. With `train.max_nonfinite_steps` they hold
            `nonfinite_steps`, 1 where the batch was skipped and all other sums are zero.
        evaluate: `(variables, batch) -> {name: (B, ...)}`, one row an example.
        predict: `(variables, batch) -> (B,H,W) uint8`, label values on the scan's own matrix.
    """

    train: Callable[..., tuple[TrainState, PyTree]]
    evaluate: Callable[[PyTree, Batch], dict[str, jax.Array]]
    predict: Callable[[PyTree, Batch], jax.Array]


def example_keys(rng: jax.Array, example: jax.Array) -> jax.Array:
    """One PRNG key an example, (B,), from the epoch's key and the example numbers (B,)."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(rng, example)


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


def create_steps(
    config: ConfigDict,
    model: nn.Module,
    loss: Loss,
    optimizer: optax.GradientTransformationExtraArgs,
) -> Steps:
    """The steps of the run that `config` describes, to be compiled by `parallel`."""
    size, preset = config.data.image_size, config.data.window

    def network_input(hu: jax.Array) -> jax.Array:
        return preprocess.resize_image(preprocess.apply_window(hu, preset), size)

    def predict_logits(variables: PyTree, batch: Batch) -> jax.Array:
        logits = model.apply(variables, network_input(batch["image"]), train=False)
        assert isinstance(logits, jax.Array)
        return logits

    def native_prediction(logits: jax.Array, batch: Batch) -> jax.Array:
        return preprocess.resize_logits(logits, *batch["image"].shape[1:3]).argmax(-1)

    def forward(
        params: PyTree, model_state: PyTree, batch: Batch, rng: jax.Array
    ) -> tuple[PyTree, tuple[PyTree, PyTree]]:
        """Sums of the loss's statistics; the model's new state and the sums of what is reported."""
        keys = jax.vmap(jax.random.split)(example_keys(rng, batch["example"]))
        augment_keys, dropout_keys = keys[:, 0], keys[:, 1]
        image = network_input(augment.augment_hu(augment_keys, batch["image"], config.augment))
        label = preprocess.resize_label(batch["label"], size)
        image, label = augment.augment_geometry(augment_keys, image, label, config.augment)
        logits, model_state = model.apply(
            {"params": params, **model_state},
            image,
            train=True,
            weight=batch["weight"],
            dropout_keys=dropout_keys,
            mutable=list(model_state),
        )
        reported = _prediction_metrics(jax.lax.stop_gradient(logits), label)
        return _sum_over_examples(loss.statistics(logits, label), batch["weight"]), (
            model_state,
            _sum_over_examples(reported, batch["weight"]),
        )

    def train_step(
        state: TrainState, batch: Batch, rng: jax.Array, *, axis_name: str | None = None
    ) -> tuple[TrainState, PyTree]:
        def total(tree: PyTree) -> PyTree:
            return tree if axis_name is None else jax.lax.psum(tree, axis_name)

        model_state, of_this_device = microbatch.of_batch(
            functools.partial(forward, rng=rng),
            loss,
            state,
            batch,
            total=total,
            num_parts=config.train.accumulate_steps,
        )
        gradient, sums = total(of_this_device)
        # Of the gradient, not of the update: that would be computed twice.
        sums["gradient_norm"] = optax.global_norm(gradient)

        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        updates = jax.tree.map(lambda update: state.plateau.scale * update, updates)
        new_state = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            model_state=model_state,
            opt_state=opt_state,
        )
        if config.train.max_nonfinite_steps:
            return _skip_unless_finite(state, new_state, sums, loss.objective(sums))
        return new_state, sums

    def eval_step(variables: PyTree, batch: Batch) -> dict[str, jax.Array]:
        logits = predict_logits(variables, batch)
        label = preprocess.resize_label(batch["label"], size)
        return {
            **loss.statistics(logits, label),
            "cross_entropy": pixel_cross_entropy(logits, label),
            **_prediction_metrics(logits, label),
            "native_confusion": confusion_counts(
                batch["label"], native_prediction(logits, batch), NUM_CLASSES
            ),
        }

    def predict_step(variables: PyTree, batch: Batch) -> jax.Array:
        return native_prediction(predict_logits(variables, batch), batch).astype(jnp.uint8)

    return Steps(train_step, eval_step, predict_step)
