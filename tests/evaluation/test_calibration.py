"""Calibration error against numbers worked out by hand, and by a loop over bins."""

import numpy as np
import pytest

from mbh_jax.evaluation import calibration


def _error(confidence: list[float], correct: list[int], num_bins: int) -> float:
    bins = calibration.calibration_bins(np.array(confidence), np.array(correct), num_bins)
    return calibration.expected_calibration_error(bins)


def test_two_confidences() -> None:
    """T13: 0.9 with 3 of 4 right, 0.6 with 2 of 4."""
    error = _error([0.9] * 4 + [0.6] * 4, [1, 1, 1, 0, 1, 1, 0, 0], calibration.NUM_BINS)
    assert error == pytest.approx(0.125)


@pytest.mark.parametrize(("num_bins", "error"), [(2, 0.109), (5, 0.315), (10, 0.359)])
def test_numbers_of_bins(num_bins: int, error: float) -> None:
    """T14, MetricsReloaded's own test, which rounds to 0.11, 0.32 and 0.36; the sums by hand."""
    confidence = [0.22, 0.48, 0.49, 0.96, 0.55, 0.64, 0.78, 0.82, 0.34, 0.87]
    correct = [0, 1, 0, 0, 1, 1, 1, 1, 1, 0]
    assert _error(confidence, correct, num_bins) == pytest.approx(error)


def test_a_bin_holds_its_upper_limit_and_the_first_holds_zero() -> None:
    limits = np.arange(6) / 5
    bins = calibration.calibration_bins(limits, np.array([0, 1, 0, 1, 0, 1]), 5)
    assert bins.voxels.tolist() == [2, 1, 1, 1, 1]
    assert bins.confidence == pytest.approx(limits[1:])
    assert bins.correct.tolist() == [1, 0, 1, 0, 1]


def test_foreground_is_where_truth_or_prediction_has_blood() -> None:
    """Two background voxels that are right flatter the error of the whole volume."""
    probabilities = np.array(
        [[0.98, 0.02, 0], [0.98, 0.02, 0], [0.3, 0.7, 0], [0.9, 0.1, 0], [0.1, 0.4, 0.5]]
    ).reshape(1, 5, 1, 3)
    label = np.array([0, 0, 0, 1, 2]).reshape(1, 5, 1)
    found = calibration.volume_calibration(probabilities, label)
    assert (found.whole.voxels.sum(), found.foreground.voxels.sum()) == (5, 3)
    foreground = (0.7 + 0.9 + 0.5) / 3
    assert calibration.expected_calibration_error(found.foreground) == pytest.approx(foreground)
    # The bin above 14/15 holds 0.98 twice, both right; the others hold one voxel each.
    whole = (2 * 0.02 + 0.7 + 0.9 + 0.5) / 5
    assert calibration.expected_calibration_error(found.whole) == pytest.approx(whole)


def test_sums_of_parts_equal_the_whole() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(6) / 2, (4, 8, 9)).astype(np.float32)
    label = rng.integers(0, 6, (4, 8, 9))
    whole = calibration.volume_calibration(probabilities, label).whole
    parts = [
        calibration.volume_calibration(*part).whole
        for part in zip(probabilities, label, strict=True)
    ]
    for one, several in zip(whole, zip(*parts, strict=True), strict=True):
        np.testing.assert_allclose(one, np.sum(several, 0))
    confidence, right = probabilities.max(-1), probabilities.argmax(-1) == label
    expected = 0.0
    for i in range(15):
        inside = (confidence > i / 15) & (confidence <= (i + 1) / 15)
        if inside.any():
            gap = abs(right[inside].mean() - confidence[inside].mean(dtype=np.float64))
            expected += inside.mean() * gap
    assert calibration.expected_calibration_error(whole) == pytest.approx(expected)


def test_no_voxels_have_no_error() -> None:
    assert np.isnan(_error([], [], 15))


@pytest.mark.parametrize("confidence", [-0.1, 1.1, float("nan")])
def test_what_is_no_probability_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        calibration.calibration_bins(np.array([confidence]), np.array([True]))
