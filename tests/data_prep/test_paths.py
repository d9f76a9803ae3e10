"""Paths from command lines: `~` is the home folder, and nothing is a pattern."""

import shutil

import pytest

from data_prep import export_png, verify
from mbh_jax.data.index import SliceIndex


def test_paths_of_command_lines(tiny_dataset_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    dataset = shutil.copytree(tiny_dataset_dir / "head_ct" / "1.0.0", tmp_path / "in[1]" / "a\\b")
    export_png.main(["--dataset", str(dataset), "--output", "~/out[1]"])
    slices = sum(
        SliceIndex.load(dataset).num_examples(split, "blood")
        for split in ("train", "validation", "test")
    )
    assert len(list((tmp_path / "out[1]").glob("*/masks/*.png"))) == slices
    with pytest.raises(SystemExit):
        verify.main([str(dataset), "--report", ""])
    assert "argument --report: path is empty: give a path" in capsys.readouterr().err
