"""Networks from a configuration alone, weights of other networks, and a network added by name."""

import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import run_commands
from etils import epath
from ml_collections import ConfigDict

from configs import smoke
from mbh_jax import config as config_keys
from mbh_jax import keys, models
from mbh_jax.errors import UserError
from mbh_jax.models.architecture import Architecture
from mbh_jax.runtime.parallel import create_parallel
from mbh_jax.training import network


def tiny_config(**model: object) -> ConfigDict:
    config = smoke.get_config()
    config.data.image_size = 16
    config.model.update(num_layers=2, **model)
    return config


def test_a_network_predicts_on_the_scan_s_own_grid() -> None:
    made = network.create_network(tiny_config())
    hu = jax.random.randint(jax.random.key(0), (2, 24, 40, 1), -50, 100, jnp.int16)
    mask = jax.jit(made.predict)(made.init(), hu)
    assert (mask.shape, mask.dtype) == ((2, 24, 40), jnp.uint8)
    # Resized, then the most probable class: jax.image and NumPy instead of the network's own path.
    logits = made.logits(made.init(), hu)
    expected = np.argmax(jax.image.resize(logits, (2, 24, 40, 6), "linear"), -1)
    np.testing.assert_array_equal(mask, expected)


def test_a_network_needs_neither_data_nor_tensorflow() -> None:
    program = (
        "import sys\n"
        "from configs import smoke\n"
        "from mbh_jax.training.network import create_network\n"
        "create_network(smoke.get_config()).shapes()\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=run_commands.REPOSITORY)


def test_weights_fit_another_image_size() -> None:
    small, large = tiny_config(), tiny_config()
    large.data.image_size = 64
    source = network.create_network(small).init()
    target = network.create_network(large).init()
    fitted, left_out = network.fit_variables(target, source, "run")
    assert left_out == []
    jax.tree.map(np.testing.assert_array_equal, fitted, source)


def test_a_last_layer_of_other_classes_is_left_out_and_named() -> None:
    config = tiny_config()
    new = network.create_network(config).init()
    image = jnp.zeros((1, 16, 16, 3))
    two_classes = models.create_model(config.model, 2).init(jax.random.key(7), image)
    fitted, left_out = network.fit_variables(new, dict(two_classes), "run")
    assert left_out == [
        "params/logits/bias (2,) -> (6,)",
        "params/logits/kernel (1, 1, 4, 2) -> (1, 1, 4, 6)",
    ]
    np.testing.assert_array_equal(
        fitted["params"]["logits"]["kernel"], new["params"]["logits"]["kernel"]
    )
    bridge = two_classes["params"]["bridge"]["conv_0"]["kernel"]
    np.testing.assert_array_equal(fitted["params"]["bridge"]["conv_0"]["kernel"], bridge)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_filters": 8}, r"params/bridge/conv_0/bias \(8,\) -> \(16,\)"),
        ({"norm": "batch"}, "batch_stats/bridge/norm_0/mean missing -> "),
        ({"num_layers": 3}, "run: its weights do not fit this network"),
    ],
)
def test_other_weights_are_refused_with_their_sizes(change: dict, message: str) -> None:
    source = network.create_network(tiny_config()).init()
    config = tiny_config()
    config.model.update(change)
    with pytest.raises(UserError, match=message):
        network.fit_variables(network.create_network(config).init(), source, "run")


class OneConv(nn.Module):
    """A network that is not a U-Net."""

    num_classes: int
    axis_name: str | None
    width: int

    @nn.compact
    def __call__(self, x, *, train=False, weight=None, dropout_keys=None):
        x = nn.relu(nn.Conv(self.width, (3, 3))(x))
        return nn.Conv(self.num_classes, (1, 1), name="logits")(x)


def test_a_network_is_added_with_one_entry(
    monkeypatch: pytest.MonkeyPatch, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    architecture = Architecture(
        create=OneConv,
        keys={"width": keys.integer(8, 1, "channels")},
        meaning="one convolution",
        size_divisor=lambda config: 1,
    )
    monkeypatch.setitem(models.NETWORKS, "one_conv", architecture)
    config = run_commands.tiny_config(tiny_dataset_dir, train__num_epochs=1)
    config.model.name = "one_conv"
    config = config_keys.complete(config)
    assert config.model.to_dict() == {"name": "one_conv", "width": 8}
    config.data.image_size = 33
    run_commands.train_and_evaluate(config, tmp_path / "run")
    trained = network.restore_network(epath.Path(tmp_path / "run"), create_parallel("jit"))
    assert trained.variables["params"]["Conv_0"]["kernel"].shape == (3, 3, 3, 8)
    assert "## `model.name=one_conv`" in config_keys.markdown()
