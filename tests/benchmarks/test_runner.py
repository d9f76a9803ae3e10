"""The benchmarks' rules: the same network is compared, and within each repeat."""

import json
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from benchmarks import common, comparison, runner
from benchmarks.baselines import jax_common, ours
from benchmarks.common import Spread
from benchmarks.runner import Case
from benchmarks.workload import Workload
from mbh_jax.config import complete
from mbh_jax.errors import UserError
from mbh_jax.models.flexunet import FlexUNet
from mbh_jax.training.network import create_network


@pytest.fixture
def workload() -> Workload:
    return Workload.from_recipe("smoke", "train", size=16, batch=2, dtype="float32")


@pytest.mark.parametrize("norm", ["none", "batch", "group"])
def test_parameters_are_those_of_the_model(workload, norm):
    fields = {**workload.network, "norm": norm, "dilation": 2}
    shapes = jax.eval_shape(
        FlexUNet(num_classes=6, **fields).init, jax.random.key(0), np.zeros((1, 16, 16, 3))
    )
    counted = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    described = Workload(**{**workload.__dict__, "network": fields})
    assert described.num_parameters() == counted
    kernels = {
        "/".join(key.key for key in path[1:-1]): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
        if path[-1].key == "kernel"
    }
    assert kernels == {layer.name: layer.kernel_shape for layer in described.layers()}


def test_full_size_is_the_documented_network():
    workload = Workload.from_recipe("flexunet", "inference", 512, 1, "float32")
    assert workload.num_parameters() == 124_557_126
    assert workload.flops() == pytest.approx(72e9, rel=0.03)


def test_flops_of_one_level_counted_by_hand():
    network = {"base_filters": 2, "base_kernel": 3, "num_layers": 2, "dilation": 1}
    network |= {"dropout_rate": 0.0, "activation": "relu", "norm": "none"}
    network |= {"name": "flexunet", "patch_size": 1}
    workload = Workload("inference", "flexunet", 4, 1, "float32", network, {}, num_classes=5)
    full = 16 * (9 * 2 * (3 + 2 + 4 + 2) + 2 * 5)  # encoder, decoder, logits
    bridge = 4 * 9 * 4 * (2 + 4)
    up = 16 * 4 * 2
    assert workload.flops() == 2 * (full + bridge + up)


@pytest.mark.parametrize("recipe", ["strong", "strong_small"])
def test_other_networks_have_the_layers_of_their_models(recipe):
    workload = Workload.from_recipe(recipe, "train", 256, 1, "float32")
    network = create_network(complete(ours.configuration(workload)))
    weights = jax.eval_shape(lambda: jax_common.with_weights(network.shapes(), workload))
    assert jax_common.num_parameters(weights) == workload.num_parameters()
    with pytest.raises(UserError, match="only FlexUNet with"):
        comparison.make_case("keras", workload, {})


@pytest.mark.slow
def test_implementations_agree_and_each_repeat_is_timed(workload):
    devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    cases = [Case("two devices", "ours", workload, environment=devices)]
    results = runner.run([*cases, comparison.make_case("flax", workload, {})], 2, 0.0)
    assert [result["label"] for result in results] == ["two devices", "flax"]
    assert [result["device"] for result in results] == ["2 x cpu", "1 x cpu"]
    for result in results:
        assert len(result["seconds_per_step"]) == 2
        assert result["peak_rss_bytes"] > 50e6
    assert results[0]["loss"] == pytest.approx(results[1]["loss"], rel=1e-4)
    assert "| two devices |" in comparison.describe(workload, results)


def test_another_network_is_refused(workload):
    def worker(**facts):
        facts = {"num_parameters": workload.num_parameters(), "loss": 1.0, **facts}
        return types.SimpleNamespace(case=Case("odd", "ours", workload), facts=facts)

    runner.check_same_network([worker(), worker(loss=1.0001)])
    with pytest.raises(UserError, match="another network"):
        runner.check_same_network([worker(), worker(loss=1.1)])
    with pytest.raises(UserError, match="7 parameters"):
        runner.check_same_network([worker(), worker(num_parameters=7)])


def test_ratio_is_taken_within_each_repeat():
    drifting = runner.ratio({"seconds_per_step": [2, 20, 4]}, {"seconds_per_step": [1, 10, 2]})
    assert drifting == Spread(2, 2, 2)


def test_implementation_that_cannot_start_is_one_line(workload):
    with pytest.raises(UserError, match="torch ended with exit code 1"):
        runner.run([Case("torch", "no_such_implementation", workload)], 1, 0.0)


def test_unknown_baseline_is_one_line():
    command = [sys.executable, "-m", "benchmarks.train_step", "--baselines", "ours,pytorch"]
    ended = subprocess.run(command, cwd=common.ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: no baseline 'pytorch'")


@pytest.mark.slow
def test_command_writes_what_it_prints(workload, tmp_path, capsys):
    result = tmp_path / "deep" / "result.json"
    arguments = "--recipe smoke --size 16 --batch 1 --baselines ours --repeats 1 --seconds 0"
    comparison.main("inference", "Doc.", [*arguments.split(), "--json", str(result)])
    (run,) = json.loads(result.read_text())["runs"]
    assert run["workload"]["size"] == 16
    assert f"{run['results'][0]['num_parameters']:,} parameters" in capsys.readouterr().out
