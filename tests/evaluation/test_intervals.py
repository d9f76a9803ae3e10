"""Intervals against bootstraps listed in full, tests against scipy's other ways and by hand."""

import itertools
from collections import Counter

import numpy as np
import pytest

from mbh_jax.evaluation import statistics

NAN, INF = float("nan"), float("inf")


def _all_draws(num_patients: int) -> np.ndarray:
    """Every ordered resample of so many patients, as numbers of draws."""
    resamples = itertools.product(range(num_patients), repeat=num_patients)
    counts = [Counter(resample) for resample in resamples]
    return np.array([[count[patient] for patient in range(num_patients)] for count in counts])


@pytest.mark.parametrize(
    ("values", "low", "high"), [((0.2, 0.4, 0.6, 0.8), 0.3, 0.7), ((0, 0, 1), 0, 0.78333)]
)
def test_all_resamples(values: tuple[float, ...], low: float, high: float) -> None:
    """T12: 256 and 27 resamples."""
    draws = _all_draws(len(values))
    assert len(draws) == len(values) ** len(values)
    found = statistics.percentile_interval(statistics.resampled_means(np.array(values), draws))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-5)


def test_drawn_resamples_are_near_all_of_them() -> None:
    values = np.array([0.2, 0.4, 0.6, 0.8])
    found = statistics.mean_interval(values, seed=1)
    assert (found.low, found.high) == pytest.approx((0.3, 0.7), abs=0.026)
    draws = statistics.draw_patients(4, seed=1)
    assert draws.shape == (2000, 4)
    assert (draws.sum(1) == 4).all()
    again = statistics.mean_interval(values, seed=1)
    assert (found.low, found.high) == (again.low, again.high)


def test_the_classes_of_a_patient_stay_together() -> None:
    """The sum of two classes that cancel out in each patient is the same in every resample."""
    first = np.random.default_rng(0).random(9)
    resampled = statistics.resampled_means(
        np.stack([first, 1 - first], 1), statistics.draw_patients(9)
    )
    np.testing.assert_allclose(resampled.sum(1), 1)
    assert resampled[:, 0].std() > 0.05


def test_missing_values_are_left_out_of_every_resample() -> None:
    values = np.array([[0.5, NAN, NAN], [0.7, NAN, 0.25], [0.9, NAN, INF]])
    draws = np.array([[3, 0, 0], [1, 1, 1], [0, 2, 1]])
    np.testing.assert_allclose(
        statistics.resampled_means(values, draws),
        [[0.5, NAN, NAN], [0.7, NAN, 0.25], [2.3 / 3, NAN, 0.25]],
    )
    found = statistics.mean_interval(values)
    assert np.isnan([found.low[1], found.high[1]]).all()
    assert found.low[2] == found.high[2] == 0.25


def test_pooled_dice_of_patients_with_several_scans() -> None:
    tp, errors = np.array([10, 5, 0]), np.array([2, 0, 6])
    patients = np.array([0, 0, 1])
    twice = statistics.sum_by_patient(2 * tp, patients)
    either = statistics.sum_by_patient(2 * tp + errors, patients)
    assert (twice.tolist(), either.tolist()) == ([30, 0], [32, 6])
    draws = np.array([[2, 0], [1, 1], [0, 2]])
    expected = [30 / 32, 30 / 38, 0]
    np.testing.assert_allclose(statistics.resampled_ratios(twice, either, draws), expected)


@pytest.mark.parametrize(
    ("number", "p"), [(5, 0.0625), (6, 0.03125), (8, 0.0078125), (10, 0.001953125)]
)
def test_differences_of_one_sign(number: int, p: float) -> None:
    """T11: five patients can never reach 0.05."""
    run_b = np.random.default_rng(0).random((number, 1))
    run_a = run_b + np.arange(1, number + 1)[:, None] / 100
    found = statistics.compare_paired(run_a, run_b)
    assert found.p == pytest.approx([p], abs=1e-12)
    assert found.num_pairs.tolist() == [number]
    assert (number >= statistics.MIN_TEST_PATIENTS) == (p < 0.05)


def test_p_equals_all_signs_of_the_ranks() -> None:
    """The share of the 2**7 signs whose smaller rank sum is no larger than the one found."""
    differences = np.array([0.31, -0.02, 0.17, 0.05, -0.11, 0.23, 0.4])
    ranks = np.argsort(np.argsort(np.abs(differences))) + 1

    def smaller_sum(signs: np.ndarray) -> int:
        return min(ranks[signs > 0].sum(), ranks[signs < 0].sum())

    all_signs = np.array(list(itertools.product((-1, 1), repeat=7)))
    sums = np.array([smaller_sum(signs) for signs in all_signs])
    expected = (sums <= smaller_sum(np.sign(differences))).mean()
    found = statistics.compare_paired(differences[:, None], np.zeros((7, 1)))
    assert found.p == pytest.approx([expected])
    assert found.difference == pytest.approx([differences.mean()])
    assert found.interval.low[0] < differences.mean() < found.interval.high[0]


def test_pairs_without_a_value_and_with_an_infinite_one() -> None:
    """Classes: all known; one missed by B alone, one by both; nothing known; no difference."""
    run_a = np.array(
        [[5, 5, NAN, 1], [6, 6, 1, 1], [7, 7, NAN, 1], [8, INF, NAN, 1], [9, NAN, NAN, 1]], float
    )
    run_b = np.array(
        [[4, 4, 1, 1], [4, INF, NAN, 1], [4, 4, NAN, 1], [4, INF, NAN, 1], [4, 4, NAN, 1]], float
    )
    found = statistics.compare_paired(run_a, run_b)
    assert found.num_pairs.tolist() == [5, 4, 0, 5]
    assert found.num_infinite.tolist() == [0, 1, 0, 0]
    # The pairs of the second class: 1, -infinity, 3 and, where both missed it, 0.
    np.testing.assert_allclose(found.difference, [3, 4 / 3, NAN, 0])
    assert found.p[0] == pytest.approx(0.0625)
    # Ranks 1 and 2 against 3 (0 is dropped): sums are equal.
    assert found.p[1] == pytest.approx(1)
    assert np.isnan([found.p[2], found.p_holm[2], found.interval.low[2]]).all()
    assert (found.p[3], found.p_holm[3]) == (1, 1)
    assert found.p_holm[0] == pytest.approx(3 * 0.0625)


def test_holm() -> None:
    """By hand: 0.01 x 4, 0.02 x 3, 0.03 x 2, and 0.04 x 1 raised to the 0.06 before it."""
    np.testing.assert_allclose(
        statistics.holm(np.array([0.04, 0.01, NAN, 0.03, 0.02])), [0.06, 0.04, NAN, 0.06, 0.06]
    )
    np.testing.assert_allclose(statistics.holm(np.array([0.5, 0.9])), [1, 1])


@pytest.mark.parametrize(
    ("patients", "words"),
    [(5, "no paired test can reach"), (6, "too narrow"), (49, "too narrow"), (50, None)],
)
def test_few_patients_are_warned_of(patients: int, words: str | None) -> None:
    found = statistics.sample_size_warning(patients)
    assert (
        (found is None) if words is None else (f"{patients} patients" in found and words in found)
    )


def test_runs_of_different_patients_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        statistics.compare_paired(np.zeros((3, 5)), np.zeros((4, 5)))
