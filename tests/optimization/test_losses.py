"""Losses against formulas written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from mbh_jax.optimization import losses
from mbh_jax.optimization.loss import Loss

K = 6


@pytest.fixture
def example():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 8, 10, K)).astype(np.float32)
    label = rng.integers(0, K, size=(3, 8, 10))
    return logits, label


def summed(loss, logits, label, keep):
    rows = loss.statistics(jnp.asarray(logits), jnp.asarray(label))
    sums = {name: values[jnp.asarray(keep)].sum(0) for name, values in rows.items()}
    return {**sums, "examples": jnp.float32(len(keep))}


def numpy_cross_entropy(logits, label):
    log_probability = scipy.special.log_softmax(logits.astype(np.float64), axis=-1)
    return -np.take_along_axis(log_probability, label[..., None], -1).mean()


def test_cross_entropy_is_the_mean_over_pixels_and_examples(example):
    logits, label = example
    loss = losses.cross_entropy()
    value = loss.objective(summed(loss, logits, label, [0, 1, 2]))
    np.testing.assert_allclose(value, numpy_cross_entropy(logits, label), rtol=1e-6)


def test_cross_entropy_dice_adds_one_minus_the_foreground_dice_of_the_batch(example):
    logits, label = example
    probabilities = scipy.special.softmax(logits.astype(np.float64), axis=-1)
    truth = np.eye(K)[label]
    dice = [
        (2 * (probabilities[..., k] * truth[..., k]).sum() + 1)
        / (probabilities[..., k].sum() + truth[..., k].sum() + 1)
        for k in range(1, K)
    ]
    expected = numpy_cross_entropy(logits, label) + 0.5 * (1 - np.mean(dice))
    loss = losses.cross_entropy_dice(dice_weight=0.5)
    np.testing.assert_allclose(
        loss.objective(summed(loss, logits, label, [0, 1, 2])), expected, rtol=1e-6
    )


def test_background_does_not_enter_the_dice():
    label = np.zeros((1, 4, 4), int)
    confident = np.full((1, 4, 4, K), -50.0, np.float32)
    confident[..., 0] = 50.0
    rows = losses.soft_dice_statistics(jnp.asarray(confident), jnp.asarray(label))
    np.testing.assert_allclose(rows["intersection"], np.zeros((1, K - 1)), atol=1e-6)
    np.testing.assert_allclose(rows["cardinality"], np.zeros((1, K - 1)), atol=1e-6)


def test_a_class_that_the_batch_lacks_is_pushed_down_less_the_smaller_the_smoothing():
    label = jnp.zeros((1, 4, 4), int)
    logits = jnp.zeros((1, 4, 4, K))

    def push(dice_smooth: float) -> float:
        loss = losses.cross_entropy_dice(dice_smooth=dice_smooth)
        dice_alone = Loss(loss.statistics, lambda s: loss.objective(s | no_entropy), False)
        gradient = jax.grad(lambda x: dice_alone.objective(total(loss.statistics(x, label))))(
            logits
        )
        return float(jnp.abs(gradient[..., 1:]).max())

    no_entropy = {"cross_entropy": 0.0, "examples": 1.0}

    def total(rows):
        return {name: value.sum(0) for name, value in rows.items()}

    assert push(1e-5) < 1e-3 * push(1.0)


def test_sums_over_parts_give_the_loss_of_the_whole(example):
    logits, label = example
    loss = losses.cross_entropy_dice(1.0)
    parts = [summed(loss, logits, label, [0]), summed(loss, logits, label, [1, 2])]
    together = jax.tree.map(lambda a, b: a + b, *parts)
    np.testing.assert_allclose(
        loss.objective(together), loss.objective(summed(loss, logits, label, [0, 1, 2])), rtol=1e-6
    )


@pytest.mark.parametrize("loss", [losses.cross_entropy(), losses.cross_entropy_dice(1.0)])
def test_a_linear_loss_has_one_gradient_for_all_statistics(example, loss):
    logits, label = example
    gradients = [
        jax.grad(loss.objective)(summed(loss, factor * logits, label, [0, 1, 2]))
        for factor in (1.0, 3.0)
    ]
    for gradient in gradients:
        del gradient["examples"]
    same = jax.tree.map(lambda a, b: np.allclose(a, b, rtol=1e-6), *gradients)
    assert all(jax.tree.leaves(same)) == loss.linear
