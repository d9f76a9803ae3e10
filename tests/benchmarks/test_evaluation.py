"""The benchmark of the scores with its smallest settings."""

import json

import numpy as np
import pytest

from benchmarks import evaluation


def test_tables(tmp_path, capsys, monkeypatch):
    """Another library that is not there is named; one whose values are equal is compared."""
    same = evaluation.METRICS[1]
    others = [same._replace(library="no_such_library"), same._replace(theirs=same.ours)]
    monkeypatch.setattr(evaluation, "METRICS", [others[0], others[1]._replace(library="numpy")])
    arguments = "--volumes 3 --phantoms 1 --size 64 --slices 8 --workers 1 --compare 3 --json"
    evaluation.main([*arguments.split(), str(tmp_path / "found.json")])
    printed = capsys.readouterr().out
    assert "| 3 | 1 | " in printed
    assert "no_such_library is not installed: not compared" in printed
    assert "| surface Dice by areas | numpy | " in printed
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found["cpu_s"]) == len(found["numpy"]) == 3
    assert found["peak_mb"] > 10


def test_different_values_end_the_benchmark():
    mask = np.zeros((3, 9, 9), np.uint8)
    mask[1, 2:5, 2:5] = 2
    masks = evaluation.Masks(mask, mask, np.eye(4))
    wrong = evaluation.METRICS[1]._replace(theirs=lambda pair: (0.5, 0.5))
    with pytest.raises(SystemExit, match="gives"):
        evaluation.compare(wrong, masks)
