"""How well the probabilities of a network match how often it is right.

Voxels are sorted into bins by the probability of the predicted class. The sums of bins add up: of
slices to a volume, of volumes to a set. Over whole scans background dominates, and the error is
small whatever becomes of blood; so it is reported beside that of the foreground.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

NUM_BINS = 15


class CalibrationBins(NamedTuple):
    """Sums over the voxels of each bin, which hold (i/N, (i+1)/N]; bin 0 holds 0 too.

    Attributes:
        voxels: (N,) int64 number of voxels.
        confidence: (N,) float64 sum of the probabilities of the predicted class.
        correct: (N,) int64 number of voxels whose prediction is right.
    """

    voxels: np.ndarray
    confidence: np.ndarray
    correct: np.ndarray


def calibration_bins(
    confidence: np.ndarray, correct: np.ndarray, num_bins: int = NUM_BINS
) -> CalibrationBins:
    """Sorts predictions into bins.

    Args:
        confidence: float of any shape, 0 to 1, the probability given to each prediction.
        correct: bool of the same shape, whether the prediction is right.
        num_bins: N.

    Raises:
        ValueError: a confidence is not between 0 and 1.
    """
    confidence = np.asarray(confidence, np.float64).ravel()
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError("confidences must lie between 0 and 1")
    numbers = np.searchsorted(np.arange(1, num_bins) / num_bins, confidence)
    return CalibrationBins(
        np.bincount(numbers, minlength=num_bins),
        np.bincount(numbers, weights=confidence, minlength=num_bins),
        np.bincount(numbers[np.asarray(correct, bool).ravel()], minlength=num_bins),
    )


class VolumeCalibration(NamedTuple):
    """Bins of a volume: of all its voxels, and of those with blood in truth or prediction."""

    whole: CalibrationBins
    foreground: CalibrationBins


def volume_calibration(probabilities: np.ndarray, label: np.ndarray) -> VolumeCalibration:
    """Bins of the predictions of a volume, or of some of its slices.

    Args:
        probabilities: (..., K) float, over classes with background first.
        label: (...) int, true label values.
    """
    predicted = probabilities.argmax(-1)
    confidence, correct = probabilities.max(-1), predicted == label
    blood = (predicted > 0) | (label > 0)
    return VolumeCalibration(
        calibration_bins(confidence, correct), calibration_bins(confidence[blood], correct[blood])
    )


def add_bins(bins: Sequence[CalibrationBins]) -> CalibrationBins:
    """The bins of several volumes added up."""
    return CalibrationBins(*(np.sum(column, axis=0) for column in zip(*bins, strict=True)))


def expected_calibration_error(bins: CalibrationBins) -> float:
    """Mean over voxels of how far confidence and accuracy of their bin lie apart.

    Source: Naeini et al., AAAI 2015, 2901-2907; Guo et al., ICML 2017 (arXiv:1706.04599).

    Returns:
        0 to 1; NaN without voxels.
    """
    total = bins.voxels.sum()
    return float(np.abs(bins.confidence - bins.correct).sum() / total) if total else float("nan")
