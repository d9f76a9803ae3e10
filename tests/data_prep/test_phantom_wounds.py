"""Wounds, and subdural blood on both sides, in layers, and as thick as a lens, in varied heads."""

import functools

import numpy as np
import pytest
import scipy.ndimage

from data_prep.phantom import extra_axial, make_head, tissue
from data_prep.phantom.bleeds import Layers
from data_prep.phantom.extra_axial import ExtraAxial, place_extra_axial
from data_prep.phantom.plan import EDH, SDH, HeadPlan, plan_head
from data_prep.phantom.scan import Grid, draw_scan, make_grid
from data_prep.phantom.skull import Skull, draw_build, make_skull
from data_prep.phantom.wound import GAP_MM, OPENINGS, Wound, add_wound, draw_wound

WOUND = Wound((58.0, 0.0, 20.0), 30.0, "removed", 8.0, 40.0)


@functools.cache
def skull_on_grid() -> tuple[Skull, Grid]:
    rng = np.random.default_rng(3)
    grid = make_grid(draw_scan(rng, 64, 24))
    return make_skull(rng, draw_build(rng), grid.points), grid


def subdural(plan: HeadPlan) -> ExtraAxial:
    skull, grid = skull_on_grid()
    rng = np.random.default_rng(plan.index)
    return place_extra_axial(plan, rng, grid, skull, np.zeros_like(skull.cavity))[SDH]


def from_middle_mm(grid: Grid) -> np.ndarray:
    """Distance along a sphere of 78 mm from the middle of `WOUND`."""
    points = np.stack(grid.points, axis=-1)
    entry = np.asarray(WOUND.entry)
    cosine = points @ entry / np.linalg.norm(entry) / np.linalg.norm(points, axis=-1)
    return 78.0 * np.arccos(cosine.clip(-1.0, 1.0))


@pytest.mark.parametrize("opening", OPENINGS)
def test_bone_is_missing_where_a_wound_was_opened(opening: str) -> None:
    skull, grid = skull_on_grid()
    wound = WOUND._replace(opening_kind=opening)
    wounded = add_wound(skull, grid.points, wound)
    arc_mm = from_middle_mm(grid)
    missing = wound.opening(wounded) > 0.0
    expected = {
        "none": np.zeros_like(missing),
        "gap": np.abs(arc_mm - WOUND.radius_mm) < 0.5 * GAP_MM,
        "removed": arc_mm < WOUND.radius_mm,
    }
    # Points at the very border may fall to either side of it.
    assert (missing != expected[opening]).mean() < 1e-3
    assert missing.any() == (opening != "none")


def test_the_scalp_is_swollen_over_a_wound_and_only_there() -> None:
    skull, grid = skull_on_grid()
    wounded = add_wound(skull, grid.points, WOUND)
    arc_mm = from_middle_mm(grid)
    np.testing.assert_array_equal(wounded.cavity, skull.cavity)
    thicker_mm = wounded.skin - skull.skin
    np.testing.assert_allclose(thicker_mm[arc_mm < 23.0], WOUND.swelling_mm, rtol=1e-5)
    assert not thicker_mm[arc_mm > 40.0].any()
    swollen = WOUND.swollen(wounded) > 0.0
    assert swollen.any()
    assert not swollen[(wounded.cavity > 0.0) | (wounded.skin < 0.0) | (arc_mm > 40.0)].any()
    # Where bone is left, not in it.
    in_bone = (skull.cavity < -1.0) & (skull.cavity + skull.bone_mm > 1.0) & (arc_mm > 31.0)
    assert not swollen[in_bone].any()


def test_some_heads_have_wounds_of_each_kind() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_wound(rng) for _ in range(200)]
    wounds = [wound for wound in drawn if wound is not None]
    assert 40 < len(wounds) < 100
    assert {wound.opening_kind for wound in wounds} == set(OPENINGS)


def test_a_rendered_head_has_no_bone_in_its_opening(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only `varied` heads have wounds; there the ring of bone around the brain is not closed."""

    def holes(prevalence: str) -> int:
        """Slices in which bone does not enclose the brain."""
        one = make_head(0, 1, 96, prevalence, max_slices=12)
        bone = one.hu > 300
        closed = [
            scipy.ndimage.binary_fill_holes(bone[..., k]).sum() > 2 * bone[..., k].sum()
            for k in range(5, 9)
        ]
        return closed.count(False)

    monkeypatch.setattr("data_prep.phantom.head.draw_wound", lambda _: None)
    assert holes("varied") == holes("even") == 0
    monkeypatch.setattr("data_prep.phantom.head.draw_wound", lambda _: WOUND)
    assert holes("varied") > 0
    assert holes("even") == 0


def test_subdural_blood_of_varied_heads_is_on_one_side_or_both() -> None:
    plans = [plan_head(0, index, "varied") for index in range(80)]
    x = skull_on_grid()[1].points.x
    bilateral = []
    for plan in [plan for plan in plans if SDH in plan.volumes_ml][:24]:
        bleed = subdural(plan)
        if not bleed.pushes:  # Along the falx.
            continue
        both = all((bleed.profile[side * x > 8.0] > 0.1).any() for side in (-1.0, 1.0))
        bilateral.append(both)
        assert not (both and EDH in plan.volumes_ml)
    assert 0 < sum(bilateral) < len(bilateral) / 2


def test_a_crescent_of_the_same_volume_is_a_film_or_as_thick_as_a_lens() -> None:
    skull, grid = skull_on_grid()
    tone = np.zeros_like(skull.cavity)
    entry = np.array([55.0, 4.0, 30.0])

    def crescent(thickness: float, other_side: float) -> ExtraAxial:
        return extra_axial._subdural(
            30.0, entry, grid, skull, tone, thickness=thickness, other_side=other_side
        )

    thin, thick = crescent(0.45, 0.0), crescent(2.2, 0.0)
    assert thick.thickness_mm > 3.0 * thin.thickness_mm
    assert thick.thickness_mm > 8.0
    # Two sides hold the volume together, each of the thickness that one of half of it has.
    both = crescent(1.0, 1.0)
    half = extra_axial._subdural(15.0, entry, grid, skull, tone, thickness=1.0, other_side=0.0)
    assert both.thickness_mm == pytest.approx(half.thickness_mm, rel=0.1)


def test_layers_of_subdural_blood_are_denser_behind_and_at_their_membrane() -> None:
    y_mm = np.linspace(60.0, -60.0, 7, dtype=np.float32)[:, None]
    border = np.linspace(0.0, 8.0, 5, dtype=np.float32)[None]
    layers = Layers(0.0, 10.0, 5.0)
    hu = tissue.layers_hu(layers, y_mm, border, np.full_like(border, 20.0))
    np.testing.assert_allclose(hu[:, -1], 10.0 * np.tanh(-y_mm[:, 0] / 12.0), rtol=1e-5)
    np.testing.assert_allclose(hu[:, 0] - hu[:, -1], 5.0, rtol=1e-5)
    at_bone = tissue.layers_hu(layers, y_mm, border, np.full_like(border, 0.5))
    np.testing.assert_allclose(at_bone, np.broadcast_to(hu[:, -1:], hu.shape), rtol=1e-5)
