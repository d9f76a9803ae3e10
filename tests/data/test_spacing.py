"""The spacing of training data, against lengths known by hand."""

import dataclasses
import json

import numpy as np
import pytest

from mbh_jax.data import spacing
from mbh_jax.data.schema import VolumeFacts

AFFINE = np.diag([-0.5, -0.5, 5.0, 1.0])


def facts(affine: np.ndarray, shape: tuple[int, int, int] = (30, 400, 512)) -> VolumeFacts:
    return VolumeFacts(
        volume_id="a", patient_id="a", shape=shape, affine=affine, stored_axcodes="LPS"
    )


def test_lengths_of_a_volume_with_tilt_and_oblong_pixels() -> None:
    tilted = np.diag([-0.4, -0.9, 5.0, 1.0])
    tilted[1, 2] = 1.5  # The step to the next slice is longer, their distance is not.
    found = spacing.lengths(tilted, (30, 400, 512))
    assert found == pytest.approx((0.6, 5.0, 360.0))
    assert spacing.lengths(AFFINE, (30, 400, 512)).field_mm == 256


def test_the_spread_over_volumes_leaves_out_what_has_no_millimetres() -> None:
    thin, thick = AFFINE.copy(), AFFINE.copy()
    thin[2, 2], thick[2, 2] = 1.0, 8.0
    picture = dataclasses.replace(facts(np.eye(4)), spacing_known=False)
    found = spacing.training_spacing([facts(thick), picture, facts(thin), facts(AFFINE)])
    assert found is not None and found.slice_mm == pytest.approx((1.0, 5.0, 8.0))
    assert found.pixel_mm == pytest.approx((0.5, 0.5, 0.5)) and found.field_mm.median == 256
    assert spacing.from_json(json.loads(json.dumps(spacing.to_json(found)))) == found
    assert spacing.training_spacing([picture]) is spacing.from_json(spacing.to_json(None)) is None
