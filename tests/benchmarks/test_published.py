"""Dice by the rules of published results, on cases that can be counted by hand."""

import json

import numpy as np
import pytest

from benchmarks import published
from mbh_jax.errors import UserError


def case(name: str, **counts: tuple[int, int, int]) -> dict:
    """A case of a summary, from voxels of reference, prediction and both of each class."""
    metrics = {}
    for label, kind in enumerate(published.NAMES, start=1):
        n_ref, n_pred, both = counts.get(kind, (0, 0, 0))
        found = {"TP": both, "FP": n_pred - both, "FN": n_ref - both}
        metrics[str(label)] = found | {"TN": 100 - sum(found.values())}
    return {"reference_file": f"masks/{name}.nii.gz", "metrics": metrics}


CASES = [
    case("one", IPH=(10, 10, 5), SDH=(0, 4, 0)),
    case("two", IPH=(30, 10, 10), SAH=(8, 0, 0)),
    case("three", IPH=(0, 5, 0)),
]


def test_each_rule_counts_as_it_says() -> None:
    found = published.dice_by_rule(published.class_counts(CASES))
    nan = np.nan
    np.testing.assert_allclose(found["pooled"], [nan, 30 / 65, nan, 0, 0])
    np.testing.assert_allclose(found["case"], [nan, (0.5 + 0.5 + 0) / 3, nan, 0, 0])
    np.testing.assert_allclose(found["present"], [nan, 0.5, nan, 0, nan])


def test_ours_stands_beside_those_of_the_same_rule(tmp_path, capsys) -> None:
    paths = []
    for number, cases in enumerate((CASES[:1], CASES[1:])):
        paths.append(tmp_path / f"{number}.json")
        paths[-1].write_text(json.dumps({"metric_per_case": cases}))
    published.main([str(path) for path in paths])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()]
    ours = [row for row in rows if "this run" in row[0]]
    assert [row[1] for row in ours] == ["pooled", "case", "present"]
    assert ours[0][2:5] == ["3 cases", "absent", "0.462"]
    theirs = [row for row in rows if "nnU-Net" in row[0] and row[1] == "pooled"]
    assert theirs[0][3:8] == ["0.058", "0.785", "0.691", "0.434", "0.451"]


@pytest.mark.parametrize("content", ["", "[]", "{}"])
def test_another_file_is_one_line(tmp_path, content) -> None:
    path = tmp_path / "summary.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"summary\.json: not the summary"):
        published.read_cases([path])


def test_a_case_in_two_summaries_is_refused(tmp_path) -> None:
    path = tmp_path / "summary.json"
    path.write_text(json.dumps({"metric_per_case": CASES}))
    with pytest.raises(UserError, match=r"one\.nii\.gz is in two"):
        published.read_cases([path, path])
