"""Each script with its smallest settings, and the tables that it prints."""

from pathlib import Path

import pytest

import mbh_jax
from benchmarks import (
    augmentation,
    common,
    compile_time,
    conv_lowering,
    end_to_end,
    input_pipeline,
    predict,
    profile_step,
    runner,
    scaling,
)
from benchmarks.workload import Workload
from data_prep.phantom.head import make_head


@pytest.mark.slow
def test_input_pipeline(tiny_dataset_dir):
    found = input_pipeline.measure(tiny_dataset_dir, "smoke", batch=2, repeats=2, steps=2)
    assert [reading["slices"] for reading in found["alone"]] == [4, 4]
    assert all(0 <= reading["waiting"] <= 1 for reading in found["pipeline"])
    assert "| pipeline alone, slices/s |" in input_pipeline.describe(found, 2)


def test_versions_know_tensorflow_by_either_name():
    import tensorflow as tf

    assert common.versions("tensorflow") == {"tensorflow": tf.__version__}


def test_scaling_measures_each_table(tmp_path, monkeypatch, capsys):
    measured = []

    def run(cases, repeats, seconds):
        measured.extend(cases)
        return [
            {"label": case.label, "seconds_per_step": [2.0 * i] * repeats, "peak_rss_bytes": 3e6}
            for i, case in enumerate(cases, start=1)
        ]

    monkeypatch.setattr(runner, "run", run)
    arguments = "--recipe smoke --devices 1,2 --global_batch 4 --batch 1,3 --size 16,32"
    scaling.main(arguments.split())
    devices = [(case.workload.mode, case.environment["XLA_FLAGS"][-2:]) for case in measured[:4]]
    assert devices == [("pmap", "=1"), ("jit", "=1"), ("pmap", "=2"), ("jit", "=2")]
    assert {(case.workload.size, case.workload.batch) for case in measured[:4]} == {(16, 4)}
    shapes = [(case.workload.size, case.workload.batch) for case in measured[4:]]
    assert shapes == [(16, 1), (16, 3), (16, 1), (32, 1)]
    last = capsys.readouterr().out.splitlines()[-1]
    # 4 s for one image of 32 x 32, where 16 x 16 takes 2 s.
    assert last == "| 32 | 4000.0 (4000.0-4000.0) | 0.25 | 3906.25 | 3 | 2.00 (2.00-2.00) |"


@pytest.mark.slow
def test_compile_time_is_measured_with_an_empty_and_with_a_filled_cache(monkeypatch, capsys):
    start, cached_programs = runner.started, []

    def started(cases):
        cache = Path(cases[0].environment["JAX_COMPILATION_CACHE_DIR"])
        cached_programs.append(len(list(cache.iterdir())))
        return start(cases)

    monkeypatch.setattr(runner, "started", started)
    arguments = "--recipe smoke --size 16 --batch 1 --baselines ours --repeats 1"
    compile_time.main(arguments.split())
    assert cached_programs[0] == 0 < cached_programs[1]
    printed = capsys.readouterr().out
    assert "| ours, cold |" in printed
    assert "| ours, cached |" in printed


@pytest.mark.slow
def test_profile_names_parts_and_operations(capsys):
    profile_step.main(["--recipe", "smoke", "--size", "16", "--batch", "1", "--steps", "1"])
    parts, operations = capsys.readouterr().out.split("\n\n")[-2:]
    for part in ("encoder_0 forward", "bridge backward", "input, loss, metrics, optimizer"):
        assert f"| {part} |" in parts
    assert "| operation | ms a step |" in operations


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("jit(_fun)/jvp(FlexUNet)/encoder_0/conv_1/stack", "encoder_0 forward"),
        ("jit(_fun)/transpose(jvp(FlexUNet))/up_2/dot_general", "up_2 backward"),
        ("jit(_fun)/add", "input, loss, metrics, optimizer"),
    ],
)
def test_parts_of_a_step(source, part):
    assert profile_step.part(source) == part


def test_operations_of_a_program():
    program = """ENTRY main {
  ROOT %add.1 = f32[2,3]{1,0} add(%a, %b), metadata={op_name="jit(f)/add" source_line=1}
  %copy = f32[] copy(%c)
}"""
    assert profile_step.operations(program) == {
        "add.1": ("f32[2,3]{1,0}", "jit(f)/add"),
        "copy": ("f32[]", ""),
    }


def test_convolutions_of_a_network():
    workload = Workload.from_recipe("smoke", "train", size=16, batch=1, dtype="float32")
    assert conv_lowering.convolutions(workload) == [
        (16, 3, 3, 4),
        (16, 3, 4, 4),
        (8, 3, 4, 8),
        (8, 3, 8, 8),
        (4, 3, 8, 16),
        (4, 3, 16, 16),
        (8, 3, 16, 8),
        (16, 3, 8, 4),
    ]


def test_each_pass_of_a_convolution_is_measured(monkeypatch, capsys):
    monkeypatch.setattr(conv_lowering, "convolutions", lambda workload: [(16, 3, 3, 4)])
    conv_lowering.main(["--recipe", "smoke", "--size", "16", "--batch", "1", "--repeats", "1"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[:4] for line in lines[2:]] == [
        ["| 16 x 16", "3 x 3", "3 -> 4", name] for name in ("output", "input", "kernel")
    ]


def test_size_that_cannot_be_halved_often_enough_is_one_line(capsys):
    with pytest.raises(SystemExit) as ended:
        conv_lowering.main(["--recipe", "smoke", "--size", "18"])
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: size 18: configs/smoke.py needs a multiple of 4\n"


def test_end_to_end_compares_within_each_repeat():
    found = {
        "ours": [
            {"total_s": 10.0, "epoch_s": [4.0, 2.0]},
            {"total_s": 30.0, "epoch_s": [8.0, 6.0]},
        ],
        "keras": [
            {"total_s": 20.0, "epoch_s": [8.0, 4.0]},
            {"total_s": 60.0, "epoch_s": [16.0, 12.0]},
        ],
    }
    last = end_to_end.describe(found).splitlines()[-1]
    half = "0.50 (0.50-0.50)"
    assert last == f"| ours / keras | {half} | {half} | {half} | {half} |"


def test_predict_counts_what_each_further_scan_takes():
    run = predict.Run
    found = {
        "one scan, empty cache": [run(30.0, 50.0, 2000.0)],
        "one scan, cached": [run(12.0, 20.0, 1500.0), run(16.0, 24.0, 1600.0)],
        "4 scans, cached": [run(30.0, 50.0, 1700.0), run(37.0, 57.0, 1650.0)],
    }
    lines = predict.describe_command(found, 4).splitlines()
    assert lines[3] == "| one scan, cached | 14.0 (12.0-16.0) | 22.0 (20.0-24.0) | 1600 |"
    assert lines[-1] == "| each further scan | 6.5 (6.0-7.0) | 10.5 (10.0-11.0) |  |"
    phases = predict.describe_phases({"start": 1.0, "device": [2.0, 3.0, 7.0]})
    assert phases.splitlines()[2:] == ["| start | 1.00 |", "| device | 3.00 (2.00-7.00) |"]


def test_predict_has_a_network_that_finds_little_blood(tmp_path):
    predict.make_bundle("smoke", 64, tmp_path / "model.zip")
    hu = make_head(0, 0, 64, "even", 3).hu.transpose(2, 1, 0)
    mask = mbh_jax.load(tmp_path / "model.zip").predict_mask(hu[1:2])
    assert (mask > 0).mean() == pytest.approx(predict.BLOOD_FRACTION, abs=0.002)


def test_predict_leaves_out_frameworks_that_are_not_installed(monkeypatch, capsys):
    monkeypatch.setitem(predict.MODULES, "onnx", "a_framework_that_nobody_has")
    monkeypatch.setattr(runner, "run", lambda cases, repeats, seconds: cases)
    workload = Workload.from_recipe("smoke", "inference", size=16, batch=1, dtype="float32")
    cases = predict.compare(workload, ["onnx"], {}, repeats=1)
    assert [case.label for case in cases] == ["ours"]
    assert "onnx: a_framework_that_nobody_has is not installed in" in capsys.readouterr().out


def test_augmentation_is_compared_with_none_and_with_the_step():
    cost = augmentation.Cost
    found = {
        "step": cost([100.0, 200.0], [200.0, 200.0]),
        "none, brain": cost([1.0, 2.0], [1.0, 1.0]),
        "strong, brain": cost([6.0, 12.0], [11.0, 11.0]),
    }
    lines = augmentation.describe(found).splitlines()
    assert lines[0] == (
        "training step without augmentation: 150 (100-200) ms an image, 200 (200-200) CPU ms"
    )
    assert lines[4:] == ["| strong, brain | 7.5 (5.0-10.0) | 5.0 % | 10.0 (10.0-10.0) | 5.0 % |"]
