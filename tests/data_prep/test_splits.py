import dataclasses
import json
from collections import Counter

import numpy as np
import pytest

from data_prep import splits
from data_prep.sources import Case, CaseFacts, SourceFile
from data_prep.stratification import stratify
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
    divided = splits.split_cases(facts, splits.parse("patient"), seed)
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
    split_of = stratify(classes_of, shares, seed)
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
        split_of = stratify(classes_of, {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, seed)
        assert {split_of[f"rare{number}"] for number in range(3)} == {"a", "b", "c"}
        assert set(Counter(split_of.values()).values()) == {10}
        split_of = stratify(classes_of, {"a": 0.8, "b": 0.15, "c": 0.05}, seed)
        assert {split_of[f"rare{number}"] for number in range(3)} == {"a", "b", "c"}


def test_the_seed_alone_decides():
    facts = bhsd_like(40, 0)

    def split(seed, given=facts):
        divided = splits.split_cases(given, splits.parse("patient:0.6,0.2,0.2"), seed)
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
    divided = splits.split_cases(official_facts(), splits.parse("official"), seed)
    names = {split: {fact.case.volume_id for fact in cases} for split, cases in divided.items()}
    assert names["test"] == splits.official_sides()["test"]
    assert names["train"] | names["validation"] == splits.official_sides()["train"]
    assert len(names["validation"]) == pytest.approx(0.15 * 96, abs=2)
    patients = {split: {name[:11] for name in ids} for split, ids in names.items()}
    assert not patients["train"] & patients["validation"]


def given_facts(*given_splits):
    facts = [facts_of(f"v{number}", f"p{number}", [1]) for number in range(len(given_splits))]
    return [
        dataclasses.replace(fact, case=dataclasses.replace(fact.case, given_split=split))
        for fact, split in zip(facts, given_splits, strict=True)
    ]


def test_default_rule_follows_the_source():
    cases = [fact.case for fact in official_facts()]
    train = [case for case in cases if case.volume_id in splits.official_sides()["train"]]
    given = [fact.case for fact in given_facts("train", "validation", "test")]
    stranger = facts_of("ID_a_ID_b", "ID_a").case

    def method(cases):
        return splits.default_rule(cases).metadata["method"]

    assert method(cases) == "official"
    assert method(cases[:50]) == "official"
    assert method(train) == "patient"
    assert method([*cases, stranger]) == "patient"
    assert method(given) == "given"
    assert method([*given, stranger]) == "patient"
    assert method(given[:2]) == "given"
    assert method(given[1:]) == "patient"


def test_the_sources_own_division_is_kept():
    facts = given_facts("test", "train", "validation", "train")
    divided = splits.split_cases(facts, splits.parse("given"), 0)
    assert {split: [f.case.volume_id for f in cases] for split, cases in divided.items()} == {
        "train": ["v1", "v3"],
        "validation": ["v2"],
        "test": ["v0"],
    }
    with pytest.raises(UserError, match="--split given: the source does not say where v3 belongs"):
        splits.split_cases(
            given_facts("test", "train", "validation", None), splits.parse("given"), 0
        )
    with pytest.raises(UserError, match="--split given: the source has nothing for train"):
        splits.split_cases(given_facts("test", "validation"), splits.parse("given"), 0)


@pytest.mark.parametrize(("given", "missing"), [("test", "validation"), ("validation", "test")])
def test_what_the_source_lacks_is_drawn_from_its_train(given, missing):
    """20 patients of two volumes in train, one of whom is in the given part, too."""
    facts = given_facts(*["train"] * 40, *[given] * 4)
    patients = [f"p{number // 2}" for number in range(40)] + ["p0", "q1", "q2", "q3"]
    facts = [
        dataclasses.replace(fact, case=dataclasses.replace(fact.case, patient_id=patient_id))
        for fact, patient_id in zip(facts, patients, strict=True)
    ]
    cases = [fact.case for fact in facts]
    assert splits.missing_splits(cases) == [missing]
    assert splits.default_rule(cases).metadata == {"method": "given"}
    divided = splits.split_cases(facts, splits.parse("given"), 0)
    patients_in = {s: {fact.case.patient_id for fact in facts} for s, facts in divided.items()}
    assert patients_in[given] == {"p0", "q1", "q2", "q3"}
    assert len(patients_in[missing]) == 3  # 15 % of the 19 patients that are in train only.
    assert "p0" in patients_in["train"]
    assert not patients_in["train"] & patients_in[missing]


def test_unlabelled_test_scans_do_not_make_a_test_split():
    *facts, last = given_facts(*["train"] * 10, "test")
    facts.append(dataclasses.replace(last, case=dataclasses.replace(last.case, label=None)))
    assert splits.missing_splits([fact.case for fact in facts]) == ["validation", "test"]
    divided = splits.split_cases(facts, splits.parse("given"), 0)
    assert len(divided["train"]) == 7
    assert facts[10] in divided["test"]
    for split in ("validation", "test"):
        assert 1 <= sum(fact.case.label is not None for fact in divided[split]) <= 2


def test_leaks_are_reported():
    facts = given_facts("train", "validation", "test")
    assert splits.leak_warning(splits.split_cases(facts, splits.parse("given"), 0)) is None
    leaking = [dataclasses.replace(facts[0].case, patient_id="p1"), *(f.case for f in facts[1:])]
    facts = [dataclasses.replace(f, case=c) for f, c in zip(facts, leaking, strict=True)]
    warning = splits.leak_warning(splits.split_cases(facts, splits.parse("given"), 0))
    assert warning and warning.startswith("warning: 1 of 2 patients are in several splits")


def test_kfold_tests_and_validates_every_patient_once():
    facts = bhsd_like(43, 1)
    classes_of = splits.classes_of_patients(facts)
    seen: Counter[tuple[str, str]] = Counter()
    for fold in range(5):
        divided = splits.split_cases(facts, splits.parse(f"kfold:5/{fold}"), 7)
        patients = {
            name: {fact.case.patient_id for fact in cases} for name, cases in divided.items()
        }
        assert sum(map(len, patients.values())) == 43
        assert len(patients["test"]) == pytest.approx(43 / 5, abs=2)
        for label in FOREGROUND:
            everywhere = sum(label in classes for classes in classes_of.values())
            here = sum(label in classes_of[name] for name in patients["test"])
            assert here == pytest.approx(everywhere / 5, abs=2)
        seen.update((name, split) for split in ("validation", "test") for name in patients[split])
    assert seen == {(name, split): 1 for name in classes_of for split in ("validation", "test")}


def test_slices_are_dealt_out_one_by_one():
    facts = [facts_of(f"v{number}", f"p{number}", [1]) for number in range(50)]
    rule = splits.parse("slice")
    divided = splits.split_cases(facts, rule, 3)
    assert [len(divided[split]) for split in SPLIT_NAMES] == [80, 15, 5]
    ids = [fact.case.volume_id for cases in divided.values() for fact in cases]
    assert sorted(ids) == sorted(f"v{number}_slice_{k:03d}" for number in range(50) for k in (0, 1))
    for cases in divided.values():
        for fact in cases:
            assert fact.shape == (1, 8, 8)
            is_first = fact.case.slice_index == 0
            assert fact.pixels_per_class[:, 1].tolist() == [is_first]
    patients = {split: {fact.case.patient_id for fact in divided[split]} for split in SPLIT_NAMES}
    assert patients["train"] & patients["test"]
    assert "remembered" in (splits.leak_warning(divided) or "")
    other = splits.split_cases(facts, rule, 4)
    assert [fact.case.volume_id for fact in other["test"]] != ids[-5:]
    with pytest.raises(UserError, match="--split slice: 2 slices are too few"):
        splits.split_cases(facts[:1], rule, 0)


def write_listing(path, **lists):
    path.write_text(json.dumps(lists))
    return str(path)


def test_a_listing_of_ones_own_is_followed(tmp_path):
    facts = bhsd_like(12, 0)
    listing = write_listing(
        tmp_path / "mine.json",
        train=[f"p{number:04d}" for number in range(2, 12)],
        validation=["p0000", "not among these"],
        test=["v0001_0"],
    )
    rule = splits.parse(listing)
    assert rule.metadata == {"method": "file", "file": "mine.json"}
    divided = splits.split_cases(facts, rule, 0)
    assert [fact.case.volume_id for fact in divided["test"]] == ["v0001_0"]
    assert [fact.case.volume_id for fact in divided["validation"]] == ["v0000_0", "v0000_1"]
    assert len(divided["train"]) == len(facts) - 3


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (
            {"train": ["p0000", "p0001"], "validation": ["p0002"], "test": []},
            "listed under test: add one",
        ),
        ({"train": ["p0000"], "validation": ["p0001"], "test": []}, "v0002_0 is not listed: add"),
        (
            {"train": ["v0000_0"], "validation": ["v0000_1", "p0001"], "test": ["p0002"]},
            "patient p0000 is in both train and validation",
        ),
        ({"train": ["a"], "validation": ["a"], "test": []}, "a is listed 2 times"),
        ({"train": ["a"], "val": ["b"], "test": ["c"]}, "three lists of volume or patient ids"),
        ({"train": ["a"], "validation": 3, "test": ["c"]}, "three lists of volume or patient ids"),
    ],
)
def test_a_wrong_listing_is_reported(tmp_path, lists, message):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(lists))
    with pytest.raises(UserError, match=message):
        splits.split_cases(bhsd_like(3, 0), splits.parse(str(path)), 0)


def test_a_listing_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"absent\.json: cannot be read \(No such file"):
        splits.parse(str(tmp_path / "absent.json"))
    (tmp_path / "text.json").write_text("train: all")
    with pytest.raises(UserError, match=r"text\.json: not JSON"):
        splits.parse(str(tmp_path / "text.json"))


def test_impossible_splits_are_reported():
    with pytest.raises(UserError, match="2 patients cannot be divided into train, validation, te"):
        splits.split_cases(bhsd_like(2, 0), splits.parse("patient"), 0)
    with pytest.raises(UserError, match="v0000_0 is not one of BHSD's 192"):
        splits.split_cases(bhsd_like(5, 0), splits.parse("official"), 0)
    for side, other in (("train", "test"), ("test", "train")):
        names = splits.official_sides()[side]
        one_sided = [fact for fact in official_facts() if fact.case.volume_id in names]
        with pytest.raises(UserError, match=f"none of the volumes is on BHSD's {other} side"):
            splits.split_cases(one_sided, splits.parse("official"), 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patient:0.7,0.3", r"three numbers above 0 .* that add up to 1"),
        ("patient:0.7,0.3,0", r"three numbers above 0 .* that add up to 1"),
        ("patient:0.7,0.2,0.2", r"three numbers above 0 .* that add up to 1"),
        ("patient:1.2,-0.1,-0.1", r"three numbers above 0 .* that add up to 1"),
        ("patient:0.7,nan,0.1", r"three numbers above 0 .* that add up to 1"),
        ("patient:", r"three numbers above 0 .* that add up to 1"),
        ("kfold:5/5", "give kfold:5/0 to kfold:5/4"),
        ("kfold:2/0", "folds from 3 up"),
        ("kfold:5", "--split kfold:5: give official, patient"),
        ("patients", "--split patients: give official, patient"),
        ("given:train", "--split given:train: give official, patient"),
        ("official:0.2", "--split official:0.2: give official, patient"),
    ],
)
def test_what_cannot_be_understood_is_reported(text, message):
    with pytest.raises(UserError, match=message):
        splits.parse(text)
