"""A case with every class: each number equals that of the function for one class."""

import numpy as np
import pytest

from mbh_jax.evaluation import case, lesions, surface
from mbh_jax.evaluation.case_table import slice_confusion
from mbh_jax.evaluation.overlap import class_overlap
from mbh_jax.labels import CLASS_NAMES, FOREGROUND

AFFINE = np.array([[-0.5, 0, 0, 9], [0, -0.5, 1, 8], [0, 0, 5, 7], [0, 0, 0, 1]])


def _labels(seed: int) -> np.ndarray:
    """A volume with boxes of each class, some of which overlap those of another seed."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((6, 40, 44), np.uint8)
    for label in [*FOREGROUND, *FOREGROUND]:
        z, y, x = rng.integers(0, (4, 30, 34))
        labels[z : z + 2, y : y + 9, x : x + 8] = label
    return labels


def test_each_class_and_any() -> None:
    reference, prediction = _labels(0), _labels(1)
    prediction[3, 5:9, 5:9] = reference[3, 5:9, 5:9]
    found = case.score_case(reference, prediction, AFFINE)
    assert list(found) == [*CLASS_NAMES[1:], "any"]
    overlap = class_overlap(slice_confusion(reference, prediction).sum(0))
    masks = {CLASS_NAMES[c]: (reference == c, prediction == c) for c in FOREGROUND}
    for c in FOREGROUND:
        one = found[CLASS_NAMES[c]]
        assert (one.n_ref, one.n_pred, one.tp) == (
            overlap.n_ref[c],
            overlap.n_pred[c],
            overlap.tp[c],
        )
        assert (one.dice, one.iou) == pytest.approx((overlap.dice[c], overlap.iou[c]))
    masks["any"] = (reference > 0, prediction > 0)
    for name, (ref, pred) in masks.items():
        one = found[name]
        by_voxel = surface.voxel_distances(ref, pred, AFFINE)
        by_area = surface.element_distances(ref, pred, AFFINE)
        assert one.hd95_mm == surface.hd95_mm(by_voxel)
        assert one[6:10] == pytest.approx(
            [surface.surface_dice(by, mm) for by in (by_voxel, by_area) for mm in (1, 2)]
        )
        assert one.ref_ml == pytest.approx(ref.sum() * 1.25e-3)
        assert one.pred_ml == pytest.approx(pred.sum() * 1.25e-3)
        for ours, expected in zip(
            one.lesions, lesions.match_lesions(ref, pred, AFFINE), strict=True
        ):
            np.testing.assert_allclose(ours, expected)
    assert found["any"].dice == pytest.approx(
        2
        * ((reference > 0) & (prediction > 0)).sum()
        / ((reference > 0).sum() + (prediction > 0).sum())
    )


def test_a_healthy_head() -> None:
    empty = np.zeros((3, 8, 8), np.uint8)
    for one in case.score_case(empty, empty, AFFINE).values():
        assert (one.n_ref, one.n_pred, one.tp, one.ref_ml, one.pred_ml) == (0, 0, 0, 0, 0)
        assert np.isnan([one.dice, one.iou, *one[5:10]]).all()
        assert [len(values) for values in one.lesions] == [0] * len(one.lesions)


def test_without_millimetres_voxels_and_lesions_still_count() -> None:
    labels = np.zeros((2, 8, 8), np.uint8)
    labels[0, 2:4, 2:4] = 3
    found = case.score_case(labels, labels, None)
    assert (found["IVH"].dice, found["IVH"].n_ref) == (1, 4)
    assert found["IVH"].lesions.found.tolist() == [True]
    assert np.isnan(found["IVH"][3:10]).all()
