"""The terms of `weighted_sum` against formulas written out in NumPy, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from ml_collections import ConfigDict

from configs import flexunet
from mbh_jax import config as config_keys
from mbh_jax.errors import UserError
from mbh_jax.optimization import loss_terms, losses

K = 6
CLASS_WEIGHTS = (0.5, 1.0, 2.0, 0.0, 1.5, 3.0)


@pytest.fixture
def logits():
    return np.random.default_rng(0).normal(size=(3, 8, 10, K)).astype(np.float32)


@pytest.fixture
def label():
    """Class 4 is in no example, class 5 in the first alone."""
    drawn = np.random.default_rng(1).integers(0, K - 2, size=(3, 8, 10))
    drawn[0, :2, :3] = 5
    return drawn


def value_of(loss, logits, label, parts=((0, 1, 2),)):
    """The objective of sums that are added over `parts` of the batch."""
    logits = jnp.asarray(logits)
    sums = {"examples": jnp.float32(0)}
    for part in parts:
        rows = loss.statistics(logits[jnp.array(part)], jnp.asarray(label)[jnp.array(part)])
        for name, values in rows.items():
            sums[name] = sums.get(name, 0) + values.sum(0)
        sums["examples"] += len(part)
    return loss.objective(sums)


def entropies(logits, label, smoothing=0.0):
    """Cross-entropy of each pixel (B,H,W)."""
    truth = np.eye(K)[label] * (1 - smoothing) + smoothing / K
    return -(truth * scipy.special.log_softmax(logits.astype(np.float64), -1)).sum(-1)


def counts(logits, label, axes):
    """Soft TP, FP and FN of the classes but background."""
    p = scipy.special.softmax(logits.astype(np.float64), -1)[..., 1:]
    t = np.eye(K)[label][..., 1:]
    return (p * t).sum(axes), (p * (1 - t)).sum(axes), ((1 - p) * t).sum(axes)


def test_label_smoothing(logits, label):
    loss = loss_terms.cross_entropy(label_smoothing=0.1)
    expected = entropies(logits, label, 0.1).mean()
    np.testing.assert_allclose(value_of(loss, logits, label), expected, rtol=1e-5)


def test_class_weights_divide_by_the_weight_of_all_labels(logits, label):
    loss = loss_terms.cross_entropy(CLASS_WEIGHTS)
    weights = np.array(CLASS_WEIGHTS)[label]
    expected = (weights * entropies(logits, label)).sum() / weights.sum()
    np.testing.assert_allclose(value_of(loss, logits, label), expected, rtol=1e-5)


def test_a_batch_of_labels_of_weight_zero_costs_nothing(logits):
    loss = loss_terms.cross_entropy(CLASS_WEIGHTS)
    label = np.full((3, 8, 10), 3)
    assert value_of(loss, logits, label) == 0
    assert np.isfinite(jax.grad(lambda x: value_of(loss, x, label))(jnp.asarray(logits))).all()


def test_top_k_takes_the_worst_pixels_of_each_example(logits, label):
    loss = loss_terms.top_k_cross_entropy(0.1)
    worst = np.sort(entropies(logits, label).reshape(3, -1), axis=1)[:, -8:]
    np.testing.assert_allclose(value_of(loss, logits, label), worst.mean(), rtol=1e-5)


def test_focal(logits, label):
    probability = np.exp(-entropies(logits, label))
    expected = ((1 - probability) ** 2 * -np.log(probability)).mean()
    np.testing.assert_allclose(value_of(loss_terms.focal(2.0), logits, label), expected, rtol=1e-5)


@pytest.mark.parametrize("over", ["batch", "sample"])
def test_dice(logits, label, over):
    tp, fp, fn = counts(logits, label, (0, 1, 2) if over == "batch" else (1, 2))
    expected = 1 - ((2 * tp + 1e-5) / (2 * tp + fp + fn + 1e-5)).mean()
    loss = loss_terms.overlap("dice", loss_terms.dice(1e-5), over)
    np.testing.assert_allclose(value_of(loss, logits, label), expected, rtol=1e-5)


def test_generalized_dice(logits, label):
    tp, fp, fn = counts(logits, label, (0, 1, 2))
    pixels = np.array([(label == k).sum() for k in range(1, K)])
    weight = 1 / pixels[pixels > 0].min() ** 2 * np.ones(K - 1)
    weight[pixels > 0] = 1 / pixels[pixels > 0] ** 2
    expected = 1 - 2 * (weight * tp).sum() / (weight * (2 * tp + fp + fn)).sum()
    loss = loss_terms.overlap("generalized_dice", loss_terms.generalized_dice(1e-9), "batch")
    np.testing.assert_allclose(value_of(loss, logits, label), expected, rtol=1e-5)


@pytest.mark.parametrize("gamma", [1.0, 4 / 3])
def test_tversky(logits, label, gamma):
    tp, fp, fn = counts(logits, label, (0, 1, 2))
    expected = ((1 - (tp + 1) / (tp + 0.3 * fp + 0.7 * fn + 1)) ** (1 / gamma)).mean()
    loss = loss_terms.overlap("tversky", loss_terms.tversky(0.3, 0.7, gamma, 1.0), "batch")
    np.testing.assert_allclose(value_of(loss, logits, label), expected, rtol=1e-5)


def test_an_absent_class_counts_and_pulls_its_prediction_down(logits):
    """TP = FN = 0: the Dice is s / (FP + s), as the module says."""
    label = np.zeros((3, 8, 10), int)
    _, fp, _ = counts(logits, label, (0, 1, 2))
    loss = loss_terms.overlap("dice", loss_terms.dice(2.0), "batch")
    expected = 1 - (2.0 / (fp + 2.0)).mean()
    np.testing.assert_allclose(value_of(loss, logits, label), expected, rtol=1e-5)
    gradient = jax.grad(lambda x: value_of(loss, x, label))(jnp.asarray(logits))
    assert (gradient[..., 1:].sum(-1) > 0).all()


ALL_TERMS = {
    "cross_entropy": 1.0,
    "top_k": 0.5,
    "focal": 0.25,
    "dice": 1.0,
    "generalized_dice": 0.75,
    "tversky": 0.3,
}


def section(**values):
    """The section "loss" of a configuration with `weighted_sum`."""
    config = flexunet.get_config()
    config.loss = ConfigDict({"name": "weighted_sum", **values})
    return config_keys.complete(config).loss


@pytest.mark.parametrize("over", ["batch", "sample"])
def test_a_sum_is_the_weighted_sum_of_its_terms_and_adds_over_parts(logits, label, over):
    names = [name for name in ALL_TERMS if name != "dice"]
    only = {
        name: losses.create_loss(
            section(**dict.fromkeys(ALL_TERMS, 0.0) | {name: 1.0}, overlap_over=over)
        )
        for name in ALL_TERMS
    }
    together = losses.create_loss(section(**ALL_TERMS, overlap_over=over))
    expected = sum(ALL_TERMS[name] * value_of(only[name], logits, label) for name in ALL_TERMS)
    parts = value_of(together, logits, label, parts=((0,), (1, 2)))
    np.testing.assert_allclose(parts, expected, rtol=1e-5)
    assert all(only[name].linear for name in names) == (over == "sample")


def test_the_default_is_nnunets_cross_entropy_and_dice(logits, label):
    tp, fp, fn = counts(logits, label, (0, 1, 2))
    dice = ((2 * tp + 1e-5) / (2 * tp + fp + fn + 1e-5)).mean()
    expected = entropies(logits, label).mean() + 1 - dice
    np.testing.assert_allclose(
        value_of(losses.create_loss(section()), logits, label), expected, rtol=1e-5
    )


@pytest.mark.parametrize("blood", [True, False])
@pytest.mark.parametrize("size", [0.0, 40.0])
def test_gradients_are_finite_for_certain_predictions(blood, size):
    """Perfect, wrong and undecided logits, with and without blood, in every term at once."""
    label = np.zeros((2, 4, 4), int)
    label[:, :2] = 2 if blood else 0
    for truth in (label, 5 - label):
        logits = jnp.asarray(size * (2 * np.eye(K)[truth] - 1), jnp.float32)
        loss = losses.create_loss(section(**ALL_TERMS, tversky_gamma=1.5))

        def objective(x, loss=loss):
            return value_of(loss, x, label, parts=((0, 1),))

        assert np.isfinite(objective(logits))
        assert np.isfinite(jax.grad(objective)(logits)).all()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("class_weights", "1,2", "6 numbers"),
        ("class_weights", "0,0,0,0,0,0", "6 numbers"),
        ("top_k_fraction", 0.0, "from 1e-06"),
        ("overlap_over", "slice", "one of batch, sample"),
        ("cross_entropy", 0.0, "has no term"),
    ],
)
def test_wrong_values_are_one_line(key, value, said):
    config = flexunet.get_config()
    config.loss = ConfigDict({"name": "weighted_sum", "dice": 0.0, key: value})
    with pytest.raises(UserError, match=said):
        config_keys.validate(config_keys.complete(config), 1)
