"""Scores of two challenges: by hand, and BraTS' own script run once on the same masks."""

import numpy as np
import pytest

from mbh_jax.evaluation import challenges
from mbh_jax.labels import NUM_CLASSES


def _confusion(*entries: tuple[int, int, int]) -> np.ndarray:
    confusion = np.zeros((1, NUM_CLASSES, NUM_CLASSES), np.int64)
    for true, predicted, voxels in entries:
        confusion[0, true, predicted] = voxels
    return confusion


@pytest.mark.parametrize(
    ("voxels", "score"), [(0, 1), (50, 2 / 3), (99, 2 / 101), (100, 0), (9999, 0)]
)
def test_mbhseg_healthy_head(voxels: int, score: float) -> None:
    """T18; of any mixture of classes."""
    confusion = _confusion((0, 0, 10**6), (0, 2, voxels // 2), (0, 5, voxels - voxels // 2))
    assert challenges.mbhseg25_scores(confusion) == pytest.approx([score])


def test_mbhseg_mean_is_over_classes_of_the_reference() -> None:
    """IPH 2 * 6 / (10 + 8), SDH missed; false EDH is free."""
    confusion = _confusion((2, 2, 6), (2, 0, 4), (0, 2, 2), (5, 0, 7), (0, 1, 1000))
    assert challenges.mbhseg25_scores(confusion) == pytest.approx([(12 / 18 + 0) / 2])


def _boxes(*corners: tuple[int, int, int]) -> np.ndarray:
    """Boxes of 4 x 4 x 4 voxels."""
    mask = np.zeros((40, 40, 40), bool)
    for z, y, x in corners:
        mask[z : z + 4, y : y + 4, x : x + 4] = True
    return mask


def test_brats_one_found_one_missed_one_false() -> None:
    """T8."""
    reference, prediction = _boxes((4, 4, 4), (4, 30, 30)), _boxes((4, 4, 4), (30, 4, 30))
    found = challenges.brats_lesion_wise(reference, prediction, np.eye(4))
    assert found == pytest.approx((1 / 3, 748 / 3))


def test_brats_distance_of_a_moved_lesion() -> None:
    """Moved by two voxels: two parallel faces are 2 mm away, and Dice is that of halves."""
    found = challenges.brats_lesion_wise(_boxes((9, 9, 9)), _boxes((9, 9, 11)), np.eye(4))
    assert found == (0.5, 2)


def test_brats_merges_lesions_and_matches_what_touches_their_dilation() -> None:
    """Two boxes 5 voxels apart are one lesion; a prediction 2 voxels beside it belongs to it."""
    reference = _boxes((9, 9, 9), (9, 9, 18))
    prediction = _boxes((9, 9, 9), (9, 15, 9))
    found = challenges.brats_lesion_wise(reference, prediction, np.eye(4))
    assert found.dice == 2 * 64 / (128 + 128)
    far = challenges.brats_lesion_wise(_boxes((9, 9, 9), (9, 9, 30)), prediction, np.eye(4))
    assert far.dice == (2 * 64 / (64 + 128) + 0) / 2


def test_brats_leaves_small_lesions_out() -> None:
    """64 voxels of 0.75 mm^3 are 48 mm^3. To predict one neither helps nor harms."""
    small = _boxes((9, 9, 9))
    affine = np.diag([1, 1, 0.75, 1])
    assert challenges.brats_lesion_wise(small, small, affine) == (1, 0)
    assert challenges.brats_lesion_wise(small, np.zeros_like(small), affine) == (1, 0)


def test_brats_absent_class() -> None:
    empty, blood = _boxes(), _boxes((9, 9, 9))
    assert challenges.brats_lesion_wise(empty, empty, np.eye(4)) == (1, 0)
    assert challenges.brats_lesion_wise(empty, blood, np.eye(4)) == (0, 374)
    assert challenges.brats_lesion_wise(blood, empty, np.eye(4)) == (0, 374)


def _balls(rng: np.random.Generator, number: int) -> np.ndarray:
    grid = np.indices((30, 36, 33))
    mask = np.zeros(grid.shape[1:], bool)
    for _ in range(number):
        center, radius = rng.integers(0, mask.shape), rng.integers(2, 7)
        mask |= sum((axis - c) ** 2 for axis, c in zip(grid, center, strict=True)) <= radius**2
    return mask


@pytest.mark.parametrize(
    ("seed", "dice", "hd95_mm"),
    [(0, 0.052258, 136.543852), (3, 0.195059, 225.261626), (5, 0.156428, 268.796247)],
)
def test_brats_equals_its_own_script(seed: int, dice: float, hd95_mm: float) -> None:
    """Balls, of which the prediction has some moved, lacks some and adds others."""
    rng = np.random.default_rng(seed)
    kept, missed, false = (_balls(rng, number) for number in (2, 2, 2))
    reference, prediction = kept | missed, np.roll(kept, (1, 2, -1), (0, 1, 2)) | false
    found = challenges.brats_lesion_wise(reference, prediction, np.diag([0.9, 0.8, 2, 1]))
    assert found == pytest.approx((dice, hd95_mm), abs=1e-6)
