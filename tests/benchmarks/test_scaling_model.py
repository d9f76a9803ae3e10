"""The model behind docs/launching.md's table: its formula by hand, and the table as printed."""

import dataclasses
import re
import shlex
from pathlib import Path

import jax
import pytest

from benchmarks import scaling_model
from configs import flexunet
from mbh_jax import models
from mbh_jax.labels import NUM_CLASSES

REPOSITORY = Path(__file__).parents[2]
CHIP = scaling_model.Chip("toy", flops=1e12, memory=1e12, link=100e9, network=10e9, host_chips=4)


def test_parameters_are_those_of_the_recipe() -> None:
    network = models.create_model(flexunet.get_config().model, NUM_CLASSES)
    image = jax.ShapeDtypeStruct((1, 512, 512, 3), "float32")
    variables = jax.eval_shape(network.init, jax.random.key(0), image)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert count == scaling_model.PARAMETERS


@pytest.mark.parametrize(
    ("chips", "seconds"),
    [
        (1, 0.0),
        (2, 1 / 100),  # 2 * 1/2 of 1 GB over 100 GB/s
        (4, 1.5 / 100),
        (8, 1.5 / 100 + 0.25 / 10),  # then 2 * 1/2 of a quarter over 10 GB/s
        (16, 1.5 / 100 + 0.375 / 10),
    ],
)
def test_all_reduce_is_a_ring_in_each_host_and_between_hosts(chips: int, seconds: float) -> None:
    assert scaling_model.all_reduce_seconds(1e9, chips, CHIP) == pytest.approx(seconds)


def test_step_by_hand() -> None:
    step = scaling_model.model(CHIP, chips=2, images=8, peak_share=0.5)
    assert step.compute == pytest.approx(4 * 216e9 / 0.5e12)
    assert step.all_reduce == pytest.approx(498_228_504 / 100e9)
    assert step.update == pytest.approx(7 * 498_228_504 / 1e12)
    assert step.images_a_second == pytest.approx(8 / (step.compute + step.all_reduce + step.update))
    assert step.reading_cores == pytest.approx(0.003 * step.images_a_second)


def test_without_communication_chips_gain_all_but_the_update() -> None:
    chip = dataclasses.replace(CHIP, link=1e30, network=1e30, memory=1e30)
    one = scaling_model.model(chip, 1, 64, 0.3)
    many = scaling_model.model(chip, 64, 64, 0.3)
    assert many.images_a_second == pytest.approx(64 * one.images_a_second)


def test_documentation_shows_what_the_command_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (REPOSITORY / "docs" / "launching.md").read_text()
    shown = re.findall(r"    python -m benchmarks\.scaling_model ?(.*)\n\n((?:\|.*\n)+)", text)
    assert shown
    for flags, table in shown:
        monkeypatch.setattr("sys.argv", ["scaling_model", *shlex.split(flags)])
        scaling_model.main()
        assert capsys.readouterr().out == table
