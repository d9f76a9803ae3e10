"""Wounds, and subdural blood on both sides, of layers, and as thick as a lens, in varied heads."""

import functools

import numpy as np
import pytest

from data_prep.phantom import make_head, tissue
from data_prep.phantom.bleeds import Layers
from data_prep.phantom.extra_axial import ExtraAxial, place_extra_axial
from data_prep.phantom.plan import EDH, SDH, HeadPlan, plan_head
from data_prep.phantom.scan import Grid, draw_scan, make_grid
from data_prep.phantom.shapes import arc_mm
from data_prep.phantom.skull import Skull, draw_build, make_skull
from data_prep.phantom.wound import OPENINGS, Wound, add_wound, draw_wound


@functools.cache
def skull_on_grid() -> tuple[Skull, Grid]:
    rng = np.random.default_rng(3)
    grid = make_grid(draw_scan(rng, 64, 24))
    return make_skull(rng, draw_build(rng), grid.points), grid


def subdural(plan: HeadPlan) -> ExtraAxial:
    skull, grid = skull_on_grid()
    rng = np.random.default_rng(plan.index)
    return place_extra_axial(plan, rng, grid, skull, np.zeros_like(skull.cavity))[SDH]


@pytest.mark.parametrize("opening", OPENINGS)
def test_bone_is_missing_where_a_wound_was_opened(opening: str) -> None:
    skull, grid = skull_on_grid()
    wound = Wound((58.0, 0.0, 20.0), 30.0, opening, 8.0, 40.0)
    wounded = add_wound(skull, grid.points, wound)
    arc = arc_mm(grid.points, np.asarray(wound.entry))
    missing = wounded.bone_mm < 0.0
    if opening == "none":
        np.testing.assert_array_equal(wounded.bone_mm, skull.bone_mm)
    else:
        # A ring of the gap's width, or the whole of the opening.
        assert missing[np.abs(arc - 30.0) < (0.2 if opening == "gap" else 0.0)].all()
        assert missing[arc < 25.0].all() == (opening == "removed")
        assert not missing[arc > 32.0].any()
    np.testing.assert_array_equal(wounded.cavity, skull.cavity)
    np.testing.assert_allclose((wounded.skin - skull.skin)[arc < 20.0], 8.0, rtol=1e-5)
    far = arc > 45.0
    np.testing.assert_array_equal(wounded.skin[far], skull.skin[far])
    assert (wounded.swollen[far] < 0.0).all()
    assert (wounded.swollen[(arc < 20.0) & (wounded.skin > 5.0)] > 0.0).all()


def test_some_heads_have_wounds_of_each_kind() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_wound(rng) for _ in range(200)]
    wounds = [wound for wound in drawn if wound is not None]
    assert 40 < len(wounds) < 100
    assert {wound.opening for wound in wounds} == set(OPENINGS)


def test_only_varied_heads_have_wounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.phantom.wound.SHARE", 1.0)
    for prevalence, expected in (("even", False), ("varied", True)):
        without = make_head(0, 1, 64, prevalence, max_slices=8)
        monkeypatch.setattr("data_prep.phantom.wound.SHARE", 0.0)
        differs = not np.array_equal(make_head(0, 1, 64, prevalence, max_slices=8).hu, without.hu)
        monkeypatch.setattr("data_prep.phantom.wound.SHARE", 1.0)
        assert differs == expected


def test_subdural_blood_of_varied_heads_is_thin_or_thick_and_on_one_side_or_both() -> None:
    plans = [plan_head(0, index, "varied") for index in range(80)]
    plans = [plan for plan in plans if SDH in plan.volumes_ml][:24]
    x = skull_on_grid()[1].points.x
    bilateral, thickness_mm = 0, []
    for plan in plans:
        bleed = subdural(plan)
        if not bleed.pushes:  # Along the falx.
            continue
        both = all((bleed.profile[side * x > 8.0] > 0.1).any() for side in (-1.0, 1.0))
        bilateral += both
        thickness_mm.append(bleed.thickness_mm)
        assert not (both and EDH in plan.volumes_ml)
    assert 0 < bilateral < len(thickness_mm) / 2
    assert min(thickness_mm) < 4.0
    assert max(thickness_mm) > 10.0


def test_layers_of_subdural_blood_are_denser_behind_and_at_the_brain() -> None:
    y = np.linspace(60.0, -60.0, 7, dtype=np.float32)[:, None]
    border = np.linspace(0.0, 8.0, 5, dtype=np.float32)[None]
    hu = tissue.layers_hu(Layers(0.0, 10.0, 5.0), y, border)
    np.testing.assert_allclose(hu[:, -1], 10.0 * np.tanh(-y[:, 0] / 12.0), rtol=1e-5)
    np.testing.assert_allclose(hu[:, 0] - hu[:, -1], 5.0, rtol=1e-5)
