"""How well predicted volumes agree with true ones, and how much blood is predicted where none is.

Everything is in millilitres, of one class over cases. A case without the class in reference and
prediction has no error: it is left out, so that healthy cases do not make the limits narrow.
"""

from typing import NamedTuple

import numpy as np

LIMITS_SD = 1.96
"""Limits of agreement are so many standard deviations from the bias: 95 % of a normal spread."""


class VolumeAgreement(NamedTuple):
    """Errors of the volumes of a class, predicted minus true, over cases.

    Attributes:
        num_cases: cases where reference or prediction has the class.
        bias_ml: mean of the signed errors; NaN without cases.
        lower_ml, upper_ml: limits of agreement, bias -+ 1.96 standard deviations with divisor n-1;
            NaN for fewer than two cases.
        mean_absolute_ml: mean of the absolute errors; NaN without cases.
    """

    num_cases: int
    bias_ml: float
    lower_ml: float
    upper_ml: float
    mean_absolute_ml: float


class FalseBlood(NamedTuple):
    """Blood predicted in cases whose reference has none.

    Attributes:
        num_cases: cases whose reference has none.
        num_with_false: those of them where the prediction has some.
        mean_ml, median_ml, max_ml: of the predicted volume over the `num_cases`; NaN without any.
        total_ml: sum of it.
    """

    num_cases: int
    num_with_false: int
    mean_ml: float
    median_ml: float
    max_ml: float
    total_ml: float


def volume_errors_ml(predicted_ml: np.ndarray, reference_ml: np.ndarray) -> np.ndarray:
    """Signed errors: predicted minus true volume, NaN where both are 0.

    Args:
        predicted_ml: float of any shape; NaN where the volume of a voxel is not known.
        reference_ml: likewise, of the same shape.

    Returns:
        float64 of that shape; of missed blood minus its volume, of false blood plus its volume.
    """
    predicted = np.asarray(predicted_ml, np.float64)
    reference = np.asarray(reference_ml, np.float64)
    return np.where((predicted == 0) & (reference == 0), np.nan, predicted - reference)


def volume_agreement(predicted_ml: np.ndarray, reference_ml: np.ndarray) -> VolumeAgreement:
    """Bias and limits of agreement of a class.

    Source: Bland and Altman, Lancet 327 (1986) 307-310.

    Args:
        predicted_ml: (V,) float; a case where it is NaN is left out.
        reference_ml: (V,) float, likewise.
    """
    errors = volume_errors_ml(predicted_ml, reference_ml)
    errors = errors[~np.isnan(errors)]
    if not len(errors):
        return VolumeAgreement(0, np.nan, np.nan, np.nan, np.nan)
    bias = errors.mean()
    spread = LIMITS_SD * errors.std(ddof=1) if len(errors) > 1 else np.nan
    return VolumeAgreement(
        len(errors),
        float(bias),
        float(bias - spread),
        float(bias + spread),
        float(np.abs(errors).mean()),
    )


def false_blood(predicted_ml: np.ndarray, reference_ml: np.ndarray) -> FalseBlood:
    """Volume predicted where the reference has none.

    With the volumes of a class: where the class is absent, be it other blood or none. With the
    volumes of all blood: in healthy heads.

    Args:
        predicted_ml: (V,) float.
        reference_ml: (V,) float; a case where it is NaN, not 0, is left out.
    """
    false_ml = np.asarray(predicted_ml, np.float64)[np.asarray(reference_ml) == 0]
    if not len(false_ml):
        return FalseBlood(0, 0, np.nan, np.nan, np.nan, 0.0)
    return FalseBlood(
        len(false_ml),
        int(np.count_nonzero(false_ml)),
        float(false_ml.mean()),
        float(np.median(false_ml)),
        float(false_ml.max()),
        float(false_ml.sum()),
    )
