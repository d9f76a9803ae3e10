"""Each script at its smallest, and its table."""

import json

import pytest

from benchmarks import (
    common,
    compile_time,
    conv_lowering,
    end_to_end,
    input_pipeline,
    phases,
    profile_step,
    scaling,
)


@pytest.mark.slow
def test_input_pipeline(tiny_dataset_dir):
    found = input_pipeline.measure(tiny_dataset_dir, "smoke", batch=2, rounds=2, steps=2)
    assert [reading["slices"] for reading in found["alone"]] == [4, 4]
    assert all(0 <= reading["waiting"] <= 1 for reading in found["pipeline"])
    assert "| pipeline alone, slices/s |" in input_pipeline.describe(found, 2)


def test_versions_know_tensorflow_by_either_name():
    import tensorflow as tf

    assert common.versions("tensorflow") == {"tensorflow": tf.__version__}


@pytest.mark.slow
def test_scaling_over_simulated_devices(tmp_path):
    result = tmp_path / "result.json"
    arguments = "--recipe smoke --devices 2 --global_batch 2 --batch 1 --size 16 --rounds 1"
    scaling.main([*arguments.split(), "--turn_s", "0", "--json", str(result)])
    tables = json.loads(result.read_text())["tables"]
    assert [line["label"] for line in tables["devices"]] == ["2 (pmap)", "2 (jit)"]
    assert all(line["device"] == "2 x cpu" for line in tables["devices"])


@pytest.mark.slow
def test_compile_time_fills_the_cache(tmp_path, capsys):
    arguments = "--recipe smoke --size 16 --batch 1 --peers ours --rounds 1"
    compile_time.main(arguments.split())
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


@pytest.mark.slow
def test_every_lowering_of_each_convolution(capsys):
    arguments = "--size 128 --batch 1 --base_filters 2 --levels 2 --repeats 1"
    conv_lowering.main(arguments.split())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(lines) == 2 + (3 + 2) * 3
    assert [line.count("| - |") for line in lines[2:]] == [0] * 9 + [1] * 6


def test_phases_of_a_run():
    lines = [
        (2.0, "1,234 parameters, 10 training and 4 validation slices"),
        (5.0, "12:00:05 training: step 1/10, epoch 1"),
        (20.0, "12:00:20 epoch 1: loss 0.5, val_loss 0.4"),
        (32.0, "12:00:32 epoch 2: loss 0.4, val_loss 0.3"),
        (33.0, "validation: ..."),
        (36.0, ""),
    ]
    history = [
        {"train_seconds": 12.0, "validation_seconds": 2.5},
        {"train_seconds": 8.0, "validation_seconds": 1.5},
    ]
    assert phases.phases(lines, history) == {
        "start, data and network": [2.0],
        "to the first step": [3.0],
        "training, an epoch": [12.0, 8.0],
        "validation, an epoch": [2.5, 1.5],
        "between epochs": [2.5],
        "last checkpoint and evaluation": [4.0],
        "in all": [36.0],
    }


@pytest.mark.slow
def test_phases_of_the_smoke_recipe(tiny_dataset_dir, capsys):
    phases.main(["--data", str(tiny_dataset_dir), "--recipe", "smoke"])
    table = capsys.readouterr().out
    assert "| seconds | cold | cached |" in table
    assert "| between epochs | " in table


def test_end_to_end_compares_within_a_round():
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
