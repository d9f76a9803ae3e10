"""Counts against loops and bincount, Dice against hand-computed numbers and the Keras fixtures."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import distance

from mbh_jax.evaluation.confusion import confusion_counts, dice_coef_multiclass
from mbh_jax.evaluation.overlap import (
    class_overlap,
    per_case_scores,
    pooled_scores,
    present_only_scores,
    volumes_ml,
)
from mbh_jax.labels import FOREGROUND, NUM_CLASSES

FIXTURES = Path(__file__).parents[3] / "shared" / "fixtures"


def _random_labels(rng, shape):
    return np.where(rng.random(shape) < 0.8, 0, rng.integers(0, NUM_CLASSES, shape))


def _counts(*entries):
    """A (K,K) matrix from `(true, predicted, voxels)`."""
    confusion = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)
    for true, predicted, voxels in entries:
        confusion[true, predicted] = voxels
    return confusion


@pytest.mark.parametrize("label_dtype", [np.uint8, np.int32])
def test_confusion_counts_equal_bincount(label_dtype):
    rng = np.random.default_rng(0)
    label, prediction = _random_labels(rng, (3, 33, 47)), _random_labels(rng, (3, 33, 47))
    expected = [
        np.bincount((NUM_CLASSES * t + p).ravel(), minlength=NUM_CLASSES**2)
        for t, p in zip(label, prediction, strict=True)
    ]
    counts = jax.jit(confusion_counts, static_argnums=2)(
        jnp.asarray(label.astype(label_dtype)), jnp.asarray(prediction), NUM_CLASSES
    )
    assert counts.dtype == jnp.int32
    np.testing.assert_array_equal(
        counts, np.reshape(expected, (3, NUM_CLASSES, NUM_CLASSES)), strict=False
    )


def test_confusion_counts_are_exact_at_full_size():
    """262,143 is odd and above what bfloat16 or float16 counts can hold."""
    label = jnp.zeros((1, 512, 512), jnp.uint8).at[0, 0, 0].set(5)
    counts = np.asarray(confusion_counts(label, jnp.zeros_like(label), NUM_CLASSES))
    assert counts[0, 0, 0] == 512 * 512 - 1
    assert counts[0, 5, 0] == 1
    assert counts.sum() == 512 * 512


def test_confusion_counts_under_pmap():
    rng = np.random.default_rng(1)
    label, prediction = (_random_labels(rng, (1, 2, 8, 8)) for _ in range(2))
    counts = jax.pmap(lambda t, p: confusion_counts(t, p, NUM_CLASSES))(label, prediction)
    np.testing.assert_array_equal(counts[0], confusion_counts(label[0], prediction[0], NUM_CLASSES))


def _numpy_dice_coef_multiclass(probabilities, label):
    values = []
    for p, y in zip(probabilities.astype(np.float64), label, strict=True):
        y_flat, p_flat = np.eye(p.shape[-1])[y].ravel(), p.ravel()
        values.append((2 * y_flat @ p_flat + 1) / (y_flat.sum() + p_flat.sum() + 1))
    return np.asarray(values)


def test_dice_coef_multiclass_equals_its_formula_at_full_size():
    rng = np.random.default_rng(2)
    probabilities = rng.dirichlet(np.full(NUM_CLASSES, 0.3), (2, 512, 512)).astype(np.float32)
    label = _random_labels(rng, (2, 512, 512))
    value = jax.jit(dice_coef_multiclass)(probabilities, label)
    expected = _numpy_dice_coef_multiclass(probabilities, label)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert not np.isclose(expected[0], expected[1], rtol=1e-5)


@pytest.mark.parametrize("name", ["keras_flexunet_plain", "keras_flexunet_dilated_norm"])
def test_dice_coef_multiclass_equals_keras(name):
    folder = FIXTURES / name
    if not folder.exists():
        pytest.skip("the Keras fixtures are not here")
    forward = np.load(folder / "forward.npz")
    expected = json.loads((folder / "fixture.json").read_text())["dice_coef_multiclass"]
    value = dice_coef_multiclass(forward["probabilities"], forward["label"])
    np.testing.assert_allclose(value.mean(), expected, rtol=1e-6)


def test_overlap_equals_boolean_masks():
    """Dice and IoU against SciPy's distances of the masks, the counts against the masks."""
    rng = np.random.default_rng(3)
    label, prediction = _random_labels(rng, (4, 20, 20)), _random_labels(rng, (4, 20, 20))
    scores = class_overlap(np.asarray(confusion_counts(label, prediction, NUM_CLASSES), np.int64))
    for case in range(4):
        for c in range(NUM_CLASSES):
            true, predicted = label[case].ravel() == c, prediction[case].ravel() == c
            assert scores.tp[case, c] == (true & predicted).sum()
            assert scores.fp[case, c] == (~true & predicted).sum()
            assert scores.fn[case, c] == (true & ~predicted).sum()
            assert scores.tn[case, c] == (~true & ~predicted).sum()
            assert scores.n_pred[case, c] == predicted.sum()
            assert scores.n_ref[case, c] == true.sum()
            np.testing.assert_allclose(scores.dice[case, c], 1 - distance.dice(true, predicted))
            np.testing.assert_allclose(scores.iou[case, c], 1 - distance.jaccard(true, predicted))


# Three cases. EDH (1): case 0 has 10 voxels and 5 found; case 1 lacks it and 4 are predicted in
# background; case 2 lacks it on both sides. IPH (2): only case 1 has it, all 20 taken for SDH (5).
CASES = np.stack(
    [
        _counts((0, 0, 85), (1, 1, 5), (1, 0, 5), (0, 5, 5)),
        _counts((0, 0, 76), (0, 1, 4), (2, 5, 20)),
        _counts((0, 0, 100)),
    ]
)


def test_per_case_leaves_out_the_absent_and_counts_false_blood_as_zero():
    scores = per_case_scores(CASES)
    # EDH: 2*5 / (5 + 10) and 0. IPH: 0. IVH, SAH: in no case. SDH: 0 and 0.
    np.testing.assert_allclose(scores.dice[1:], [(2 / 3 + 0) / 2, 0, np.nan, np.nan, 0])
    np.testing.assert_allclose(scores.iou[1:], [(1 / 2 + 0) / 2, 0, np.nan, np.nan, 0])
    np.testing.assert_array_equal(scores.num_cases[1:], [2, 1, 0, 0, 2])
    dice, iou, num_classes = scores.foreground
    np.testing.assert_allclose([dice, iou, num_classes], [(1 / 3) / 3, 0.25 / 3, 3])


def test_present_only_counts_cases_whose_reference_has_the_class():
    scores = present_only_scores(CASES)
    np.testing.assert_allclose(scores.dice[1:], [2 / 3, 0, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(scores.num_cases[1:], [1, 1, 0, 0, 0])
    assert scores.foreground == pytest.approx((1 / 3, 1 / 4, 2))


def test_pooled_adds_counts_before_dividing():
    scores = pooled_scores(CASES)
    # EDH: TP 5, FP 4, FN 5. SDH: TP 0, FP 25.
    np.testing.assert_allclose(scores.dice[1:], [10 / 19, 0, np.nan, np.nan, 0])
    np.testing.assert_allclose(scores.iou[1:], [5 / 14, 0, np.nan, np.nan, 0])
    np.testing.assert_array_equal(scores.num_cases[1:], [1, 1, 0, 0, 0])


def test_a_set_without_blood_has_no_score():
    healthy = np.stack([_counts((0, 0, 100))] * 2)
    for scores in (
        per_case_scores(healthy),
        present_only_scores(healthy),
        pooled_scores(healthy),
    ):
        assert np.isnan(scores.dice[list(FOREGROUND)]).all()
        dice, iou, num_classes = scores.foreground
        assert np.isnan(dice)
        assert np.isnan(iou)
        assert num_classes == 0


def test_volumes_in_millilitres():
    volumes = volumes_ml(CASES, np.array([0.001, 0.01, 1.0]))
    np.testing.assert_allclose(volumes.reference_ml[:, 1], [0.010, 0, 0])
    np.testing.assert_allclose(volumes.predicted_ml[:, 1], [0.005, 0.04, 0])
    np.testing.assert_allclose(volumes.predicted_ml[:, 5], [0.005, 0.20, 0])
    # SDH where IPH is: the wrong kind of blood, but not false blood.
    np.testing.assert_allclose(volumes.false_blood_ml[:, 5], [0.005, 0, 0])
    np.testing.assert_allclose(volumes.false_blood_ml.sum(1), [0.005, 0.04, 0])
    assert CASES[0, 0, 0] == 85, "the counts handed in are left as they were"
