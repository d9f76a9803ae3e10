from collections import Counter

import numpy as np
import pytest

from data_prep import splits
from data_prep.sources import Case, CaseFacts, SourceFile
from mbh_jax.data.index import SPLIT_NAMES
from mbh_jax.errors import UserError
from mbh_jax.labels import FOREGROUND


def facts_of(volume_id, patient_id, classes=()):
    counts = np.zeros((2, 6), np.int64)
    counts[0, list(classes)] = 1
    file = SourceFile(f"{volume_id}.nii.gz")
    return CaseFacts(Case(volume_id, patient_id, file, file), (2, 8, 8), counts, ())


def bhsd_like(num_patients, seed):
    """Patients with BHSD's class frequencies; every tenth has two volumes."""
    rng = np.random.default_rng(seed)
    chances = np.array([23, 127, 104, 109, 70]) / 192
    facts = []
    for patient in range(num_patients):
        for study in range(1 + (patient % 10 == 0)):
            classes = [label for label in FOREGROUND if rng.random() < chances[label - 1]]
            facts.append(facts_of(f"v{patient:04d}_{study}", f"p{patient:04d}", classes))
    return facts


@pytest.mark.parametrize("num_patients", [3, 4, 5, 7, 20, 191])
@pytest.mark.parametrize("seed", range(5))
def test_patients_are_never_divided_and_no_split_is_empty(num_patients, seed):
    facts = bhsd_like(num_patients, seed)
    divided = splits.split_cases(facts, "patient", (0.7, 0.15, 0.15), seed)
    assert tuple(divided) == SPLIT_NAMES
    patients = {name: {fact.case.patient_id for fact in cases} for name, cases in divided.items()}
    assert sum(map(len, patients.values())) == num_patients
    assert all(patients.values())
    ids = [fact.case.volume_id for cases in divided.values() for fact in cases]
    assert sorted(ids) == sorted(fact.case.volume_id for fact in facts)
    for cases in divided.values():
        names = [fact.case.volume_id for fact in cases]
        assert names == sorted(names)


@pytest.mark.parametrize("seed", range(5))
def test_classes_and_sizes_are_near_their_shares(seed):
    classes_of = splits.classes_of_patients(bhsd_like(190, seed))
    shares = dict(zip(SPLIT_NAMES, (0.7, 0.15, 0.15), strict=True))
    split_of = splits.stratify(classes_of, shares, seed)
    sizes = Counter(split_of.values())
    for split, share in shares.items():
        assert sizes[split] == pytest.approx(share * 190, abs=4)
        for label in FOREGROUND:
            with_class = [name for name in classes_of if label in classes_of[name]]
            here = sum(split_of[name] == split for name in with_class)
            assert here == pytest.approx(share * len(with_class), abs=4)


def test_a_rare_class_is_on_every_side_where_it_can_be():
    for seed in range(10):
        classes_of = {f"p{number}": frozenset({2}) for number in range(27)}
        classes_of |= {f"rare{number}": frozenset({1, 2}) for number in range(3)}
        split_of = splits.stratify(classes_of, {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, seed)
        assert {split_of[f"rare{number}"] for number in range(3)} == {"a", "b", "c"}
        assert set(Counter(split_of.values()).values()) == {10}


def test_the_seed_alone_decides():
    facts = bhsd_like(40, 0)

    def split(seed, given=facts):
        divided = splits.split_cases(given, "patient", (0.6, 0.2, 0.2), seed)
        return {fact.case.volume_id: name for name, cases in divided.items() for fact in cases}

    assert split(1) == split(1)
    assert split(1) == split(1, facts[::-1])
    assert split(1) != split(2)


def test_a_second_volume_adds_its_classes_to_the_patient():
    facts = [facts_of("b", "p", [2]), facts_of("a", "p", [1]), facts_of("c", "healthy")]
    assert splits.classes_of_patients(facts) == {"healthy": frozenset(), "p": frozenset({1, 2})}


def official_facts():
    sides = splits.official_sides()
    ids = sorted(sides["train"] | sides["test"])
    return [facts_of(name, name[:11], [1 + number % 5]) for number, name in enumerate(ids)]


def test_official_sides_are_the_authors():
    sides = splits.official_sides()
    assert len(sides["train"]) == len(sides["test"]) == 96
    assert not sides["train"] & sides["test"]
    patients = {side: {name[:11] for name in names} for side, names in sides.items()}
    assert not patients["train"] & patients["test"]
    assert len(patients["train"]) == 95
    assert sum(name.startswith("ID_2db7ee14") for name in sides["train"]) == 2
    assert any(name.startswith("ID_56faaf6f") for name in sides["test"])


@pytest.mark.parametrize("seed", range(3))
def test_official_takes_validation_from_training_by_patient(seed):
    divided = splits.split_cases(official_facts(), "official", (0.7, 0.15, 0.15), seed)
    names = {split: {fact.case.volume_id for fact in cases} for split, cases in divided.items()}
    assert names["test"] == splits.official_sides()["test"]
    assert names["train"] | names["validation"] == splits.official_sides()["train"]
    assert len(names["validation"]) == pytest.approx(0.15 * 96, abs=2)
    patients = {split: {name[:11] for name in ids} for split, ids in names.items()}
    assert not patients["train"] & patients["validation"]


def test_default_method_follows_the_names():
    ids = [fact.case.volume_id for fact in official_facts()]
    sides = splits.official_sides()
    assert splits.default_method(ids) == "official"
    assert splits.default_method(ids[:50]) == "official"
    assert splits.default_method(sorted(sides["train"])) == "patient"
    assert splits.default_method([*ids, "ID_a_ID_b"]) == "patient"


def test_impossible_splits_are_told():
    with pytest.raises(UserError, match="2 patients cannot be divided into train, validation, te"):
        splits.split_cases(bhsd_like(2, 0), "patient", (0.7, 0.15, 0.15), 0)
    with pytest.raises(UserError, match="v0000_0 is not one of BHSD's 192"):
        splits.split_cases(bhsd_like(5, 0), "official", (0.7, 0.15, 0.15), 0)
    train = splits.official_sides()["train"]
    one_sided = [fact for fact in official_facts() if fact.case.volume_id in train]
    with pytest.raises(UserError, match="none of the volumes is on BHSD's test side"):
        splits.split_cases(one_sided, "official", (0.7, 0.15, 0.15), 0)


@pytest.mark.parametrize(
    "fractions", [(0.7, 0.3), (0.7, 0.3, 0.0), (0.7, 0.2, 0.2), (1.2, -0.1, -0.1)]
)
def test_impossible_fractions_are_told(fractions):
    with pytest.raises(UserError, match=r"three numbers above 0 .* that add up to 1"):
        splits.check_fractions(fractions)
