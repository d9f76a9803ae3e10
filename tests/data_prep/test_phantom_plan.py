"""What phantom heads are planned to be: frequencies, volumes, follow-ups, names."""

import re

import numpy as np
import pytest

from data_prep.phantom.plan import EVEN_BLOCK, EVEN_SMALLEST_ML, HeadPlan, plan_head
from mbh_jax.errors import UserError
from mbh_jax.labels import FOREGROUND

# Wu et al., MLMI 2023: volumes that hold each class, of 192.
BHSD_COUNTS = {1: 23, 2: 127, 3: 104, 4: 109, 5: 70}


def plans(prevalence: str, count: int, seed: int = 0) -> list[HeadPlan]:
    return [plan_head(seed, index, prevalence) for index in range(count)]


def test_bhsd_prevalence_has_the_class_frequencies_of_bhsd() -> None:
    bleeding = [plan for plan in plans("bhsd", 1500) if plan.volumes_ml]
    for value, count in BHSD_COUNTS.items():
        expected = count / 192
        share = np.mean([value in plan.volumes_ml for plan in bleeding])
        deviation = np.sqrt(expected * (1 - expected) / len(bleeding))
        assert share == pytest.approx(expected, abs=4 * deviation + 0.02), value


def test_bhsd_prevalence_has_the_volumes_of_bhsd_and_some_healthy_heads() -> None:
    drawn = plans("bhsd", 1500)
    totals = np.array([sum(plan.volumes_ml.values()) for plan in drawn if plan.volumes_ml])
    assert np.median(totals) == pytest.approx(15.0, rel=0.15)
    assert totals.mean() == pytest.approx(33.2, rel=0.2)
    assert totals.min() >= 0.05
    assert totals.max() <= 260.0
    assert 0.04 < np.mean([not plan.volumes_ml for plan in drawn]) < 0.13


def test_even_prevalence_balances_every_block_of_eight() -> None:
    drawn = [plan for plan in plans("even", 40) if plan.index == plan.head_index]
    for plan in drawn:
        assert all(volume >= EVEN_SMALLEST_ML for volume in plan.volumes_ml.values())
    whole = [
        block
        for block in np.split(np.arange(40), 40 // EVEN_BLOCK)
        if {*block} <= {plan.index for plan in drawn}
    ]
    assert whole
    for block in whole:
        classes = [plan_head(0, int(index), "even").volumes_ml for index in block]
        assert sum(not present for present in classes) == 1
        for value in FOREGROUND:
            assert sum(value in present for present in classes) == 4


def test_a_follow_up_is_the_same_patient_later() -> None:
    drawn = plans("bhsd", 300)
    later = [plan for plan in drawn if plan.head_index != plan.index]
    assert 5 <= len(later) <= 40
    for plan in later:
        first = drawn[plan.head_index]
        assert plan.patient_id == first.patient_id
        assert plan.study_id != first.study_id
        assert plan.volumes_ml.keys() == first.volumes_ml.keys()
        assert plan.blood_age_days > first.blood_age_days


def test_names_follow_bhsd_and_are_unique() -> None:
    drawn = plans("bhsd", 300)
    for plan in drawn:
        assert re.fullmatch(r"ID_[0-9a-f]{8}_ID_[0-9a-f]{10}", plan.name)
    assert len({plan.name for plan in drawn}) == 300
    assert len({plan.patient_id for plan in drawn}) == len({plan.head_index for plan in drawn})


def test_plans_depend_on_the_seed() -> None:
    assert plan_head(0, 3, "bhsd") == plan_head(0, 3, "bhsd")
    assert plan_head(0, 3, "bhsd").name != plan_head(1, 3, "bhsd").name


@pytest.mark.parametrize(
    ("seed", "index", "prevalence", "message"),
    [(0, 0, "odd", "prevalence 'odd'"), (-1, 0, "even", "seed -1"), (0, -2, "even", "index -2")],
)
def test_bad_arguments_are_named(seed: int, index: int, prevalence: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_head(seed, index, prevalence)
