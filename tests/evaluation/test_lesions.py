"""Lesions of small masks, counted by hand and by a flood fill."""

import numpy as np
import pytest

from mbh_jax.evaluation import lesions
from mbh_jax.evaluation.abc2 import abc2_ml

AFFINE = np.diag([-0.5, -0.5, 5.0, 1.0])
VOXEL_ML = 1.25e-3


def _mask(shape: tuple[int, ...], *where: tuple) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for index in where:
        mask[index] = True
    return mask


def test_voxels_that_touch_at_an_edge_or_a_corner_are_one_lesion() -> None:
    """T7: with 6 neighbours they would be three lesions, with 18 two."""
    mask = _mask((2, 3, 3), (0, 0, 0), (0, 1, 1), (1, 2, 2))
    found = lesions.match_lesions(mask, np.zeros_like(mask), AFFINE)
    assert found.reference_ml.tolist() == [3 * VOXEL_ML]


def test_one_found_one_missed_one_false() -> None:
    """T8: panoptica's recognition quality, F1 of lesions, is 0.5, its segmentation quality 1."""
    reference = _mask((3, 20, 20), (1, slice(2, 6), slice(2, 6)), (1, slice(12, 15), 4))
    prediction = _mask((3, 20, 20), (1, slice(2, 6), slice(2, 6)), (2, 18, slice(10, 12)))
    found = lesions.match_lesions(reference, prediction, AFFINE)
    assert found.reference_ml.tolist() == [16 * VOXEL_ML, 3 * VOXEL_ML]
    assert found.reference_covered.tolist() == [1, 0]
    assert found.prediction_ml.tolist() == [16 * VOXEL_ML, 2 * VOXEL_ML]
    assert found.prediction_covered.tolist() == [1, 0]
    counts = lesions.count_by_size(found)
    assert (lesions.sensitivity(counts), lesions.precision(counts)) == (0.5, 0.5)
    assert found.reference_slices.tolist() == [[1, 1], [1, 1]]
    assert found.prediction_slices.tolist() == [[1, 1], [2, 2]]
    true, false, missed = counts.found.sum(), counts.false.sum(), counts.missed.sum()
    assert true / (true + false / 2 + missed / 2) == 0.5


def test_one_voxel_of_overlap_finds_both_of_two_lesions() -> None:
    """One predicted lesion that touches two of the reference finds both and is false in neither."""
    reference = _mask((1, 3, 12), (0, 1, slice(0, 4)), (0, 1, slice(8, 12)))
    prediction = _mask((1, 3, 12), (0, 1, slice(3, 9)))
    found = lesions.match_lesions(reference, prediction, AFFINE)
    assert found.reference_covered.tolist() == [0.25, 0.25]
    assert found.prediction_covered.tolist() == pytest.approx([1 / 3])
    assert found.found.all()
    assert not found.false.any()


def test_sizes() -> None:
    """800 voxels are 1 mL: a lesion at a limit, and one a voxel smaller or larger."""
    voxels = np.array([1, 799, 800, 3999, 4000, 24000, 24001])
    groups = [0, 0, 1, 1, 2, 2, 3]
    for number, group in zip(voxels, groups, strict=True):
        one = lesions.Lesions(
            np.array([number * VOXEL_ML]),
            np.array([0.5]),
            np.array([0.1]),
            np.array([0.0]),
            np.array([number]),
            np.array([80]),
            *[np.array([[0, 0]])] * 2,
            *[np.array([1.0])] * 2,
        )
        counts = lesions.count_by_size(one)
        assert counts.found.tolist() == [int(i == group) for i in range(4)]
        assert counts.false.tolist() == [1, 0, 0, 0]
        assert counts.missed.sum() == counts.true.sum() == 0
    large = _mask((4, 80, 90), (slice(0, 4), slice(1, 80), slice(1, 80)))
    counts = lesions.count_by_size(lesions.match_lesions(large, ~large, AFFINE))
    assert counts.missed.tolist() == [0, 0, 0, 1]
    assert counts.false.tolist() == [0, 1, 0, 0]  # 3836 voxels around two sides


def _flood_fill(mask: np.ndarray) -> list[set[tuple[int, ...]]]:
    """Lesions of a mask as sets of voxels, grown one neighbour at a time."""
    left = {tuple(voxel) for voxel in np.argwhere(mask).tolist()}
    found = []
    while left:
        lesion, border = set(), [left.pop()]
        while border:
            voxel = border.pop()
            lesion.add(voxel)
            near = {v for v in left if max(abs(np.subtract(v, voxel))) <= 1}
            left -= near
            border += near
        found.append(lesion)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_random_masks_equal_a_flood_fill(seed: int) -> None:
    reference, prediction = np.random.default_rng(seed).random((2, 4, 9, 10)) < 0.08
    found = lesions.match_lesions(reference, prediction, AFFINE)
    for mask, other, sizes_ml, covered in (
        (reference, prediction, found.reference_ml, found.reference_covered),
        (prediction, reference, found.prediction_ml, found.prediction_covered),
    ):
        expected = sorted(
            (len(lesion) * VOXEL_ML, sum(other[v] for v in lesion) / len(lesion))
            for lesion in _flood_fill(mask)
        )
        np.testing.assert_allclose(
            sorted(zip(sizes_ml.tolist(), covered.tolist(), strict=True)), expected
        )


def test_sizes_are_not_guessed_where_millimetres_are_not_known() -> None:
    mask = np.ones((1, 2, 2), bool)
    found = lesions.match_lesions(mask, mask, None)
    assert found.found.tolist() == [True]
    with pytest.raises(ValueError, match="volume of a voxel"):
        lesions.count_by_size(found)


def test_abc2_stands_beside_the_volume_of_each_lesion() -> None:
    """Each lesion alone has the estimate that it has among others."""
    mask = _mask((4, 30, 30), (slice(0, 3), slice(2, 4), slice(2, 6)), (3, slice(20, 26), 20))
    found = lesions.match_lesions(mask, ~mask, AFFINE)
    expected = [
        abc2_ml(part, AFFINE)
        for part in (
            mask & (np.indices(mask.shape)[1] < 10),
            mask & (np.indices(mask.shape)[1] > 10),
        )
    ]
    assert found.reference_abc2_ml.tolist() == pytest.approx(expected)
    assert found.reference_ml.tolist() == pytest.approx([24 * VOXEL_ML, 6 * VOXEL_ML])
    assert np.isnan(lesions.match_lesions(mask, mask, None).reference_abc2_ml).all()
