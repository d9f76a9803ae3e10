"""Two evaluations against each other: paired by patient, and refused where they do not pair."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from mbh_jax import compare
from mbh_jax.evaluation.case_table import REGIONS
from mbh_jax.evaluation.comparison import METRICS


def write_evaluation(folder: Path, dice: np.ndarray, **facts) -> Path:
    """per_case.csv with Dice (V, 6), other metrics 1; `facts` become evaluation.json."""
    folder.mkdir(parents=True)
    lines = [",".join(("case", "class", *METRICS))]
    for v, row in enumerate(dice):
        for name, value in zip(REGIONS, row, strict=True):
            cell = "" if np.isnan(value) else repr(float(value))
            lines.append(",".join((f"case_{v}", name, cell, *["1.0"] * (len(METRICS) - 1))))
    (folder / "per_case.csv").write_text("\n".join(lines) + "\n")
    if facts:
        (folder / "evaluation.json").write_text(json.dumps(facts))
    return folder


def run(*arguments: object) -> int:
    try:
        compare.main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture
def dice() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    a = rng.random((8, 6))
    b = np.clip(a - rng.uniform(0, 0.3, a.shape), 0, 1)
    a[:4, 0] = np.nan  # EDH: too few patients for a test.
    return a, b


def test_differences_are_scipy_s_and_holm_is_over_the_classes(dice, tmp_path, capsys):
    runs = [
        write_evaluation(tmp_path / name / "evaluation" / "test", values)
        for name, values in zip("ab", dice, strict=True)
    ]
    assert run(tmp_path / "a", runs[1], f"--output={tmp_path / 'out'}") == 0
    said = capsys.readouterr().out
    assert "warning: 8 patients" in said and "*" not in said
    with (tmp_path / "out" / "comparison.csv").open(newline="") as file:
        rows = {row["class"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["EDH", "IPH", "IVH", "SAH", "SDH", "mean", "any"]
    assert rows["EDH"]["num_patients"] == "4" and rows["EDH"]["p"] == ""
    a, b = dice
    for i, name in enumerate(REGIONS[1:], 1):
        row = rows[name]
        assert float(row["difference"]) == pytest.approx((a - b)[:, i].mean())
        assert float(row["low"]) < float(row["difference"]) < float(row["high"])
        assert float(row["p"]) == pytest.approx(stats.wilcoxon(a[:, i], b[:, i]).pvalue)
    assert float(rows["IPH"]["p_holm"]) > float(rows["IPH"]["p"])
    assert rows["any"]["p_holm"] == rows["any"]["p"]
    mean = np.nanmean(a[:, :5], 1) - b[:, :5].mean(1)
    assert float(rows["mean"]["difference"]) == pytest.approx(mean.mean())


def test_scans_of_a_patient_count_once(dice, tmp_path):
    patients = {f"case_{v}": f"patient_{v // 2}" for v in range(8)}
    folders = [
        write_evaluation(tmp_path / name, values, patients=patients)
        for name, values in zip("ab", dice, strict=True)
    ]
    assert run(*folders, f"--output={tmp_path / 'out'}") == 0
    rows = json.loads((tmp_path / "out" / "comparison.json").read_text())["rows"]
    assert [row["num_patients"] for row in rows] == [2, 4, 4, 4, 4, 4, 4]
    assert all(row["p"] is None for row in rows)


def test_what_does_not_pair_is_refused(dice, tmp_path, capsys):
    a, b = dice
    first = write_evaluation(tmp_path / "a", a, provenance={"dataset": "aaaaaaaaa"})
    fewer = write_evaluation(tmp_path / "fewer", b[:6])
    other = write_evaluation(tmp_path / "other", b, provenance={"dataset": "bbbbbbbbb"})
    empty = write_evaluation(tmp_path / "empty", b[:0])
    damaged = write_evaluation(tmp_path / "damaged", b)
    (damaged / "per_case.csv").write_text("case,class,dice\nx,EDH,much\n")
    no_json = write_evaluation(tmp_path / "no_json", b)
    (no_json / "evaluation.json").write_text("{")
    for second, said in (
        (fewer, f"case_6, case_7: in {first} and not in {fewer}"),
        (other, "different datasets (aaaaaaaa and bbbbbbbb)"),
        (empty, "holds no cases"),
        (damaged, "damaged"),
        (no_json, "evaluation.json: damaged"),
        (tmp_path, "evaluate it first"),
    ):
        assert run(first, second) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: ") and said in error
