"""How certain a mean over patients is, and whether two runs differ.

The patient is the unit: what is drawn again and again are patients, each with all scans and
classes. Rows of a patient and a class are not independent and are never treated as if they were.

Every mean here is a ratio of two sums over patients (values and how many there are, or 2 TP and
2 TP + FP + FN), so drawing patients is a product of their numbers of draws with these sums.
"""

from typing import NamedTuple

import numpy as np
from scipy import stats

NUM_RESAMPLES = 2000
CONFIDENCE = 0.95
RELIABLE_PATIENTS = 50
"""From about so many patients on, bootstrap intervals of a mean cover as often as they say."""

MIN_TEST_PATIENTS = 6
"""With fewer pairs the exact two-sided Wilcoxon test gives no p below 0.05: 2 / 2**5 = 0.0625."""


class Interval(NamedTuple):
    """A percentile interval, arrays of the shape of the statistic, NaN where it has no value."""

    low: np.ndarray
    high: np.ndarray


def draw_patients(
    num_patients: int, *, seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> np.ndarray:
    """How often each patient is drawn in each resample: (num_resamples, P) int64.

    Use the same draws for every class and metric: then a patient's classes stay together.
    Source: Efron, Annals of Statistics 7 (1979) 1-26.
    """
    rng = np.random.default_rng(seed)
    return rng.multinomial(num_patients, np.full(num_patients, 1 / num_patients), num_resamples)


def sum_by_patient(values: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Adds up the scans of each patient.

    Args:
        values: (V, ...) of each scan.
        patients: (V,) int, the patient of each scan, 0 to P-1.

    Returns:
        (P, ...), of the type of `values`.
    """
    sums = np.zeros((int(patients.max()) + 1, *values.shape[1:]), values.dtype)
    np.add.at(sums, patients, values)
    return sums


def resampled_ratios(
    numerators: np.ndarray, denominators: np.ndarray, draws: np.ndarray
) -> np.ndarray:
    """The ratio of sums over patients, in each resample.

    Args:
        numerators: (P, ...) finite, such as 2 TP.
        denominators: (P, ...) finite, such as 2 TP + FP + FN.
        draws: (R, P), of `draw_patients`.

    Returns:
        (R, ...) float64; NaN in a resample whose denominators are all 0.
    """
    above = np.tensordot(draws, np.asarray(numerators, np.float64), 1)
    below = np.tensordot(draws, np.asarray(denominators, np.float64), 1)
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below != 0)


def resampled_means(values: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """The mean over patients with a finite value, in each resample.

    Where patients have several scans, the mean over scans is a ratio of sums: add up values and
    their number with `sum_by_patient`, and use `resampled_ratios`.

    Args:
        values: (P, ...) float; NaN where a patient has no value. Infinite distances have no mean
            and are left out too: report how many there are beside it.
        draws: (R, P), of `draw_patients`.

    Returns:
        (R, ...) float64; NaN in a resample without a value. The mean over classes follows by
        `mbh_jax.evaluation.overlap.mean_of_known`, resample by resample.
    """
    known = np.isfinite(values)
    return resampled_ratios(np.where(known, values, 0.0), known, draws)


def percentile_interval(resampled: np.ndarray) -> Interval:
    """The 95 % percentile interval of a statistic, interpolated linearly.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.

    Args:
        resampled: (R, ...) the statistic in each resample. Resamples without a value are left out:
            a class that few patients have is in few of them.

    Returns:
        Arrays (...); NaN where no resample has a value.
    """
    shape = resampled.shape[1:]
    columns = resampled.reshape(len(resampled), -1).T
    tails = 100 * (1 - CONFIDENCE) / 2
    bounds = [
        np.percentile(known, (tails, 100 - tails)) if len(known) else (np.nan, np.nan)
        for known in (column[~np.isnan(column)] for column in columns)
    ]
    low, high = np.array(bounds).T
    return Interval(low.reshape(shape), high.reshape(shape))


def mean_interval(values: np.ndarray, *, seed: int = 0) -> Interval:
    """The 95 % interval of the mean over patients: 2,000 resamples, a patient's classes together.

    Args:
        values: (P, ...) float, see `resampled_means`.
        seed: to be recorded with the result.
    """
    return percentile_interval(resampled_means(values, draw_patients(len(values), seed=seed)))


class PairedComparison(NamedTuple):
    """Run A against run B, class by class; every array is (K,).

    Attributes:
        num_pairs: patients for whom both runs have a value.
        num_infinite: those of them with one infinite value: one run alone missed the class.
        difference: mean of A minus B over the pairs with finite values; NaN without any.
        interval: 95 % percentile bootstrap interval of the difference.
        p: of the two-sided Wilcoxon signed-rank test over all pairs (`scipy.stats.wilcoxon`: exact
            up to 50 pairs without ties); an infinite difference ranks above every finite one. 1
            where all differences are 0, NaN without pairs.
        p_holm: p, adjusted for the number of classes that have one.
    """

    num_pairs: np.ndarray
    num_infinite: np.ndarray
    difference: np.ndarray
    interval: Interval
    p: np.ndarray
    p_holm: np.ndarray


def compare_paired(run_a: np.ndarray, run_b: np.ndarray, *, seed: int = 0) -> PairedComparison:
    """Compares two runs on the same patients.

    Sources: Wilcoxon, Biometrics Bulletin 1 (1945) 80-83; Holm, Scandinavian Journal of Statistics
    6 (1979) 65-70.

    Args:
        run_a: (P, K) float, a value for each patient and class, the mean of a patient with several
            scans; NaN where there is none.
        run_b: (P, K) float, of the same patients in the same order.
        seed: of the bootstrap, to be recorded with the result.

    Raises:
        ValueError: the shapes differ.
    """
    if run_a.shape != run_b.shape or run_a.ndim != 2:
        raise ValueError(f"runs of one shape (P, K) are needed, not {run_a.shape}, {run_b.shape}")
    # Both infinite: both runs missed the class, which is no difference.
    with np.errstate(invalid="ignore"):
        differences = np.where(run_a == run_b, 0.0, run_a - run_b)
    finite = np.where(np.isfinite(differences), differences, np.nan)
    count = np.isfinite(finite).sum(0)
    p = np.array([_wilcoxon_p(column) for column in differences.T])
    return PairedComparison(
        num_pairs=(~np.isnan(differences)).sum(0),
        num_infinite=np.isinf(differences).sum(0),
        difference=np.where(count > 0, np.nansum(finite, 0) / np.maximum(count, 1), np.nan),
        interval=mean_interval(finite, seed=seed),
        p=p,
        p_holm=holm(p),
    )


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down adjustment of p-values (K,); NaN stays NaN and does not count.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979) 65-70.
    """
    adjusted = np.full(len(p), np.nan)
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]
    factors = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    return adjusted


def sample_size_warning(num_patients: int) -> str | None:
    """What to say beside intervals and tests of few patients; None where there are enough."""
    patients = "1 patient" if num_patients == 1 else f"{num_patients} patients"
    if num_patients < MIN_TEST_PATIENTS:
        return (
            f"{patients}: intervals are not reliable, and no paired test can reach "
            f"p < 0.05 with fewer than {MIN_TEST_PATIENTS}"
        )
    if num_patients < RELIABLE_PATIENTS:
        return (
            f"{patients}: with fewer than about {RELIABLE_PATIENTS} intervals tend to be too narrow"
        )
    return None


def _wilcoxon_p(differences: np.ndarray) -> float:
    """Two-sided p of the differences that are not NaN."""
    known = differences[~np.isnan(differences)]
    if not len(known):
        return float("nan")
    if not known.any():
        return 1.0
    # Infinite differences share the highest rank, as the largest finite number does.
    largest = np.finfo(np.float64).max
    return float(stats.wilcoxon(np.clip(known, -largest, largest)).pvalue)
