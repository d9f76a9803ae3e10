"""Phantom heads: blood lies where anatomy puts it, has its density and its planned volume."""

import functools

import numpy as np
import pytest
import scipy.ndimage

from data_prep.phantom import Head, hounsfield, make_head
from data_prep.phantom.cerebrum import draw_cerebrum, vary_cerebrum
from data_prep.phantom.extra_axial import place_extra_axial
from data_prep.phantom.head import DRAWN_BONE_LIKE_HU
from data_prep.phantom.plan import EDH, IPH, IVH, SAH, SDH, plan_head
from data_prep.phantom.render import fill_gaps
from data_prep.phantom.scan import draw_scan, make_grid
from data_prep.phantom.skull import draw_build, make_skull
from data_prep.phantom.tissue import AIR, BONE, BRAIN, CSF, SOFT_TISSUE, VENTRICLE
from mbh_jax.errors import UserError
from mbh_jax.labels import FOREGROUND

SIZE = 128
INDICES = range(6)


@functools.cache
def head(index: int) -> Head:
    return make_head(0, index, SIZE, "even")


def heads_with(value: int) -> list[Head]:
    found = [head(index) for index in INDICES if value in head(index).plan.volumes_ml]
    assert found
    return found


def share_in(one: Head, value: int, *tissues: int, margin_px: int = 0) -> float:
    compartment = np.isin(one.tissue, tissues)
    if margin_px:
        compartment = scipy.ndimage.binary_dilation(compartment, iterations=margin_px)
    return float(compartment[one.label == value].mean())


def depth_below_bone_mm(one: Head) -> np.ndarray:
    """In-plane distance of each voxel from the nearest voxel of bone."""
    slices = [
        scipy.ndimage.distance_transform_edt(one.tissue[..., k] != BONE, one.spacing_mm[:2])
        for k in range(one.tissue.shape[2])
    ]
    return np.stack(slices, axis=2)


def test_arrays_have_bhsds_types_and_range() -> None:
    for index in INDICES:
        one = head(index)
        num_slices = one.hu.shape[2]
        assert one.hu.shape == one.label.shape == one.tissue.shape == (SIZE, SIZE, num_slices)
        assert 24 <= num_slices <= 60
        assert one.hu.dtype == np.int16
        assert one.label.dtype == np.uint16
        assert one.hu.min() >= -1024
        assert np.median(one.hu[one.tissue == AIR]) == pytest.approx(-1000, abs=5)
        assert 1000 < one.hu.max() <= 3071
        assert 500 < np.median(one.hu[one.tissue == BONE]) < 1500
        assert 0.37 <= one.spacing_mm[0] * SIZE / 512 <= 0.68
        assert 2.0 <= one.spacing_mm[2] <= 6.6


def test_grey_matter_is_brighter_than_white_and_csf_darker() -> None:
    one = head(0)
    without_blood = scipy.ndimage.binary_dilation(one.label > 0, iterations=4) == 0
    deep = depth_below_bone_mm(one) > 15
    brain = scipy.ndimage.binary_erosion(one.tissue == BRAIN, np.ones((3, 3, 1)))
    ventricle = scipy.ndimage.binary_erosion(one.tissue == VENTRICLE, np.ones((3, 3, 1)))
    assert 26 < np.median(one.hu[brain & deep & without_blood]) < 42
    assert np.median(one.hu[ventricle & without_blood]) < 18
    cortex = (one.tissue == BRAIN) & (depth_below_bone_mm(one) < 6) & without_blood
    assert np.mean(one.hu[cortex]) > np.mean(one.hu[brain & deep & without_blood]) + 2


@pytest.mark.parametrize("value", FOREGROUND)
def test_blood_has_the_density_of_blood(value: int) -> None:
    for one in heads_with(value):
        inside = scipy.ndimage.binary_erosion(one.label == value, np.ones((3, 3, 1)))
        voxels = one.hu[inside] if inside.sum() > 20 else one.hu[one.label == value]
        assert 45 <= np.median(voxels) <= 90


@pytest.mark.parametrize("value", FOREGROUND)
def test_blood_has_its_planned_volume(value: int) -> None:
    for one in heads_with(value):
        volume_ml = (one.label == value).sum() * np.prod(one.spacing_mm) / 1000.0
        assert volume_ml == pytest.approx(one.plan.volumes_ml[value], rel=0.25)


def test_no_blood_is_labelled_but_what_was_planned() -> None:
    for index in range(8):
        one = head(index)
        assert set(np.unique(one.label)) - {0} == set(one.plan.volumes_ml)


def test_epidural_blood_is_a_lens_on_one_bone() -> None:
    for one in heads_with(EDH):
        blood = one.label == EDH
        assert share_in(one, EDH, CSF, margin_px=1) > 0.95
        depth = depth_below_bone_mm(one)
        pieces, count = scipy.ndimage.label(blood, np.ones((3, 3, 3)))
        sizes = np.bincount(pieces.ravel())[1:]
        assert sizes.max() > 0.95 * sizes.sum()
        assert depth[pieces == 1 + sizes.argmax()].min() < 2.5 * one.spacing_mm[0]
        # A lens of this volume, thick for its width; a crescent is a third of it or less.
        thickness_mm = depth[blood].max()
        wide_mm = max(np.ptp(np.nonzero(blood)[axis]) * one.spacing_mm[axis] for axis in range(3))
        assert 0.15 < thickness_mm / wide_mm < 0.7
        assert lateralisation(one, EDH) > 0.98
        assert count < 10


def test_subdural_blood_is_thin_wide_and_on_one_side() -> None:
    for one in heads_with(SDH):
        blood = one.label == SDH
        assert share_in(one, SDH, CSF, margin_px=1) > 0.9
        depth = depth_below_bone_mm(one)
        wide_mm = np.ptp(np.nonzero(blood)[1]) * one.spacing_mm[1]
        assert depth[blood].max() < 0.35 * wide_mm
        assert lateralisation(one, SDH) > 0.97


def test_no_epidural_blood_crosses_a_suture() -> None:
    for seed in range(4):
        plan = next(
            plan
            for plan in (plan_head(seed, index, "even") for index in range(40))
            if EDH in plan.volumes_ml
        )
        grid = make_grid(draw_scan(np.random.default_rng(seed), 64, None))
        rng = np.random.default_rng(seed)
        skull = make_skull(rng, draw_build(rng), grid.points)
        lens = place_extra_axial(plan, rng, grid, skull, np.zeros_like(grid.scan_y))[EDH]
        x, y, z = (p[(lens.distance() > 0.0) & (skull.cavity > 0.0)] for p in grid.points)
        before_coronal = y - 10.0 > 0.36 * (70.0 - z)
        before_lambdoid = y > 0.35 * np.abs(x) - 76.0
        for side in (x > 0.0, before_coronal, before_lambdoid):
            assert side.all() or not side.any()


def lateralisation(one: Head, value: int) -> float:
    """Share of a class on its heavier side of the head's middle, slice by slice."""
    inside = (one.tissue != AIR) & (one.tissue != SOFT_TISSUE)
    columns = np.arange(SIZE)[:, None, None]
    middle = (columns * inside).sum(axis=(0, 1)) / np.maximum(inside.sum(axis=(0, 1)), 1)
    i, _, k = np.nonzero(one.label == value)
    on_right = i < middle[k]
    return float(max(on_right.mean(), 1.0 - on_right.mean()))


def test_intraventricular_blood_is_in_the_ventricles_and_settles_behind() -> None:
    for one in heads_with(IVH):
        assert share_in(one, IVH, VENTRICLE) > 0.8
        assert share_in(one, IVH, VENTRICLE, margin_px=1) > 0.97
        lateral_level = one.tissue == VENTRICLE
        _, j_blood, _ = np.nonzero((one.label == IVH) & lateral_level)
        _, j_free, _ = np.nonzero((one.label != IVH) & lateral_level)
        if j_free.size > 50:
            assert j_blood.mean() < j_free.mean()


def test_subarachnoid_blood_is_along_csf_and_not_in_ventricles() -> None:
    for one in heads_with(SAH):
        assert share_in(one, SAH, CSF) > 0.4
        assert share_in(one, SAH, CSF, margin_px=1) > 0.9
        assert share_in(one, SAH, VENTRICLE) < 0.02


def test_parenchymal_blood_is_in_the_brain_with_oedema_around() -> None:
    for one in heads_with(IPH):
        assert share_in(one, IPH, BRAIN) > 0.8
        assert share_in(one, IPH, VENTRICLE) < 0.03
        blood = one.label == IPH
        no_other = scipy.ndimage.binary_dilation((one.label > 0) & ~blood, iterations=3) == 0
        brain = (one.tissue == BRAIN) & no_other & (one.label == 0)
        near = scipy.ndimage.distance_transform_edt(~blood, one.spacing_mm)
        rim = brain & (near > 2.0) & (near < 4.0)
        far = brain & (near > 15.0)
        assert one.hu[rim].mean() < one.hu[far].mean() - 3


def test_the_same_arguments_make_the_same_head() -> None:
    first, second = (make_head(5, 2, 64, "even", max_slices=6) for _ in range(2))
    assert first.hu.tobytes() == second.hu.tobytes()
    assert first.label.tobytes() == second.label.tobytes()
    assert first.hu.shape[2] == 6
    other = make_head(6, 2, 64, "even", max_slices=6)
    assert first.hu.tobytes() != other.hu.tobytes()


def test_a_follow_up_shows_the_same_head() -> None:
    later = next(
        plan
        for plan in (plan_head(0, index, "even") for index in range(200))
        if plan.index == plan.head_index + 1 and plan.volumes_ml
    )
    studies = [make_head(0, index, 64, "even") for index in (later.head_index, later.index)]
    volumes_ml = [
        np.isin(one.tissue, (CSF, BRAIN, VENTRICLE)).sum() * np.prod(one.spacing_mm) / 1000.0
        for one in studies
    ]
    # Slices start elsewhere and are tilted otherwise, so the visible part differs a little.
    assert volumes_ml[0] == pytest.approx(volumes_ml[1], rel=0.08)


def test_size_changes_resolution_and_not_anatomy() -> None:
    small, large = (make_head(0, 2, size, "even") for size in (64, 128))
    assert small.spacing_mm[0] == pytest.approx(2 * large.spacing_mm[0])
    assert small.hu.shape[2] == large.hu.shape[2]
    cavities = [
        np.isin(one.tissue, (CSF, BRAIN, VENTRICLE)).sum() * np.prod(one.spacing_mm) / 1000.0
        for one in (small, large)
    ]
    assert cavities[0] == pytest.approx(cavities[1], rel=0.03)
    assert 1100 < cavities[1] < 1900


@pytest.mark.parametrize(("size", "max_slices"), [(16, None), (5000, None), (64, 0)])
def test_sizes_out_of_range_are_refused(size: int, max_slices: int | None) -> None:
    with pytest.raises(UserError, match="out of range"):
        make_head(0, 0, size, "even", max_slices)


def test_varied_heads_have_blood_as_faint_as_real_and_less_noise() -> None:
    """Densities of each class lie in its range; all but the classes' balance differs from even."""
    plans = [plan_head(0, index, "varied") for index in range(24)]
    assert {value for plan in plans for value in plan.volumes_ml} == set(FOREGROUND)
    assert min(min(plan.volumes_ml.values(), default=99.0) for plan in plans) < 2.0
    chosen = next(plan for plan in plans if max(plan.volumes_ml.values(), default=0.0) > 15.0)
    value = max(chosen.volumes_ml, key=chosen.volumes_ml.__getitem__)
    varied = make_head(0, chosen.index, SIZE, "varied")
    low_hu, high_hu = hounsfield.VARIED_BLOOD_HU[value - 1]
    median_hu = np.median(varied.hu[varied.label == value])
    # Nobody labels what reads as bone.
    assert varied.hu[varied.label > 0].max() < DRAWN_BONE_LIKE_HU
    # Cupping, hardening and mixed voxels move it.
    lowest_hu, highest_hu = hounsfield.VARIED_CUPPING_HU[0], hounsfield.VARIED_HARDENING_HU[1]
    assert low_hu + lowest_hu - 5 < median_hu < high_hu + highest_hu
    even = make_head(0, chosen.index, SIZE, "even")
    noise_hu = [np.diff(one.hu[deep_brain(one)[0]].astype(float)).std() for one in (varied, even)]
    assert noise_hu[0] < noise_hu[1]


def deep_brain(one: Head) -> tuple[np.ndarray, np.ndarray]:
    """Unlabelled brain without its border, and the distance to the nearest bone in mm, in plane."""
    brain = scipy.ndimage.binary_erosion((one.tissue == BRAIN) & (one.label == 0), iterations=2)
    steps = (one.spacing_mm[0], one.spacing_mm[1], 1000.0)
    return brain, scipy.ndimage.distance_transform_edt(one.tissue != BONE, steps)


def test_brain_beside_bone_reads_denser_in_varied_heads_as_in_real_ones() -> None:
    found = []
    for index in (3, 5):
        for prevalence in ("even", "varied"):
            one = make_head(0, index, SIZE, prevalence)
            brain, from_bone_mm = deep_brain(one)
            beside = np.median(one.hu[brain & (from_bone_mm < 9.0)])
            found.append(beside - np.median(one.hu[brain & (from_bone_mm > 25.0)]))
    assert sum(found[1::2]) > sum(found[::2]) + 4.0


def test_labels_of_subarachnoid_blood_cover_gaps_as_people_draw_them() -> None:
    label = np.zeros((9, 9), np.uint8)
    label[2:7, 3], label[2:7, 5], label[4, 7] = SAH, SAH, SDH
    joined = fill_gaps(label, label == 0, 1)
    assert (joined[3:6, 4] == SAH).all()
    assert joined[4, 7] == SDH
    assert (joined > 0).sum() == (label > 0).sum() + 3
    kept = fill_gaps(label, np.zeros_like(label, bool), 1)
    np.testing.assert_array_equal(kept, label)


def test_membranes_calcifications_and_infarcts_vary_with_the_head() -> None:
    rng = np.random.default_rng(0)
    brains = [vary_cerebrum(rng, draw_cerebrum(rng, 60.0)) for _ in range(60)]
    infarcts = [brain.infarct for brain in brains if brain.infarct is not None]
    assert 5 < len(infarcts) < 30
    low_hu, high_hu = hounsfield.INFARCT_HU
    assert all(low_hu <= infarct.hu <= high_hu for infarct in infarcts)
    assert len({brain.dura_hu for brain in brains}) == 60
    assert any(brain.calcified_falx for brain in brains)


def test_intraventricular_blood_settles_behind_or_in_some_varied_heads_clots_elsewhere() -> None:
    def forwards_px(one: Head) -> float:
        """How far in front of all ventricles' middle the blood lies."""
        ventricles = np.argwhere((one.tissue == VENTRICLE) | (one.label == IVH))
        return float((np.argwhere(one.label == IVH).mean(0) - ventricles.mean(0))[1])

    indices = [index for index in range(10) if IVH in plan_head(0, index, "varied").volumes_ml]
    settled = [forwards_px(make_head(0, index, 64, "even")) for index in indices[:3]]
    clotted = [forwards_px(make_head(0, index, 64, "varied")) for index in indices]
    assert max(settled) < 1.0
    assert max(clotted) > 3.0
