"""Agreement of volumes, against numbers worked out by hand."""

import numpy as np
import pytest

from mbh_jax.evaluation import volumes
from mbh_jax.inference.measure import abc2_ml

NAN = float("nan")


def test_limits_of_agreement() -> None:
    """T9: differences of 1, 2, 3 and 4 mL; the case that lacks the class is left out."""
    reference = np.array([10.0, 0.0, 0.0, 7.0, 5.0])
    found = volumes.volume_agreement(reference + np.array([1, 2, 0, 3, 4]), reference)
    assert found.num_cases == 4
    assert found.bias_ml == 2.5
    assert (found.lower_ml, found.upper_ml) == pytest.approx((-0.030349, 5.030349), abs=1e-6)


def test_signed_and_absolute_errors() -> None:
    """Found too large, found too small, missed, false, and a scan without millimetres."""
    predicted, reference = np.array([12.0, 3, 0, 2, NAN]), np.array([10.0, 4, 6, 0, NAN])
    errors = volumes.volume_errors_ml(predicted, reference)
    np.testing.assert_array_equal(errors, [2, -1, -6, 2, NAN])
    found = volumes.volume_agreement(predicted, reference)
    assert found.num_cases == 4
    assert (found.bias_ml, found.mean_absolute_ml) == (-0.75, 2.75)


def test_one_case_has_a_bias_and_no_limits() -> None:
    found = volumes.volume_agreement(np.array([3.0]), np.array([1.0]))
    assert (found.num_cases, found.bias_ml, found.mean_absolute_ml) == (1, 2, 2)
    assert np.isnan([found.lower_ml, found.upper_ml]).all()


def test_no_case_has_no_agreement() -> None:
    found = volumes.volume_agreement(np.zeros(3), np.zeros(3))
    assert found.num_cases == 0
    assert np.isnan(found[1:]).all()


def test_false_blood_of_a_class_and_of_healthy_heads() -> None:
    """Heads: with the class; with other blood; healthy three times, one called bloody; no mm."""
    reference = np.array([5.0, 0, 0, 0, 0, NAN])
    predicted = np.array([4.0, 2, 0, 1, 0, NAN])
    of_class = volumes.false_blood(predicted, reference)
    assert of_class == volumes.FalseBlood(4, 2, 0.75, 0.5, 2.0, 3.0)
    all_blood = np.array([9.0, 8, 0, 0, 0, NAN])
    healthy = volumes.false_blood(predicted, all_blood)
    assert healthy == volumes.FalseBlood(3, 1, pytest.approx(1 / 3), 0.0, 1.0, 1.0)


def test_no_healthy_head_is_no_result() -> None:
    found = volumes.false_blood(np.array([0.0, 3.0]), np.array([1.0, 2.0]))
    assert (found.num_cases, found.num_with_false, found.total_ml) == (0, 0, 0)
    assert np.isnan([found.mean_ml, found.median_ml, found.max_ml]).all()


def test_abc2_of_diameters_and_slices() -> None:
    """T10: A 40 mm, B 30 mm, six slices of 5 mm; an ellipsoid of these axes is pi/3 as large."""
    rows, columns = np.abs(np.indices((64, 84)) - np.array([31.5, 41.5])[:, None, None])
    rhombus = columns / 40.5 + rows / 30.5 <= 1
    assert (np.ptp(np.nonzero(rhombus)[1]) + 1, np.ptp(np.nonzero(rhombus)[0]) + 1) == (80, 60)
    found_ml = abc2_ml(np.stack([rhombus] * 6), np.diag([0.5, 0.5, 5.0, 1.0]))
    assert found_ml == pytest.approx(18)
    ellipsoid_ml = np.pi / 6 * 4 * 3 * 3
    assert ellipsoid_ml == pytest.approx(18.850, abs=1e-3)
    assert found_ml / ellipsoid_ml == pytest.approx(3 / np.pi)
