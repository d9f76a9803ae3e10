"""Parity with Keras: the fixtures' probabilities and training losses are Keras's own."""

import json
import zipfile
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from mbh_jax import models
from mbh_jax.errors import UserError
from mbh_jax.interop.keras_import import read_keras_flexunet

FIXTURES = Path(__file__).parent.parent / "fixtures"
SHARED = Path(__file__).parents[3] / "shared" / "fixtures"
OWN = ("keras_plain", "keras_dilated_norm")
LENT = ("keras_flexunet_plain", "keras_flexunet_dilated_norm")

needs_lent_fixtures = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the Keras 2.15 fixtures that are not the project's are not here"
)


def load(path: Path):
    """The network, its imported variables and the reader's configuration."""
    config, variables = read_keras_flexunet(path)
    model = models.create_model(ConfigDict(config["model"]), config["num_classes"])
    return model, variables, config


def probabilities(model, variables, image: np.ndarray) -> jax.Array:
    return jax.nn.softmax(model.apply(variables, image.astype(np.float32)))


def three_adam_steps(model, variables, image: np.ndarray, label: np.ndarray):
    """Losses of three steps with dropout off, and the variables after them.

    Keras adds epsilon to the second moment's root before that is corrected for its bias, optax
    after: a step's own epsilon makes them the same formula.
    """

    def adam(epsilon):
        return optax.chain(optax.clip(0.5), optax.adam(5e-5, b2=0.999, eps=epsilon))

    params = variables["params"]
    model_state = {name: value for name, value in variables.items() if name != "params"}
    opt_state = adam(1e-7).init(params)

    @jax.jit
    def step(params, model_state, opt_state, epsilon):
        def loss(params):
            logits, new_state = model.apply(
                {"params": params, **model_state},
                image.astype(np.float32),
                train=True,
                mutable=list(model_state),
            )
            rows = optax.softmax_cross_entropy_with_integer_labels(logits, label.astype(np.int32))
            return rows.mean(), new_state

        (value, model_state_), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state_ = adam(epsilon).update(gradients, opt_state)
        return optax.apply_updates(params, updates), model_state_, opt_state_, value

    losses = []
    for number in range(1, 4):
        epsilon = 1e-7 / np.sqrt(1 - 0.999**number)
        params, model_state, opt_state, value = step(params, model_state, opt_state, epsilon)
        losses.append(float(value))
    return losses, {"params": params, **model_state}


@pytest.mark.parametrize("name", OWN)
def test_probabilities_equal_keras(name):
    model, variables, _ = load(FIXTURES / f"{name}.h5")
    expected = np.load(FIXTURES / f"{name}.npz")
    result = probabilities(model, variables, expected["image"])
    np.testing.assert_allclose(result, expected["probabilities"], atol=1e-4)


@pytest.mark.parametrize("name", OWN)
def test_three_adam_steps_equal_keras(name):
    model, variables, _ = load(FIXTURES / f"{name}.h5")
    expected = np.load(FIXTURES / f"{name}.npz")
    losses, trained = three_adam_steps(model, variables, expected["image"], expected["label"])
    np.testing.assert_allclose(losses, expected["train_losses"], rtol=1e-5)
    result = probabilities(model, trained, expected["image"])
    np.testing.assert_allclose(result, expected["trained"], atol=1e-4)


@needs_lent_fixtures
@pytest.mark.parametrize("name", LENT)
def test_lent_fixture_equals_keras_2_15(name):
    model, variables, config = load(SHARED / name / "best_model.h5")
    facts = json.loads((SHARED / name / "fixture.json").read_text())
    expected = np.load(SHARED / name / "forward.npz")

    assert sum(x.size for x in jax.tree.leaves(variables)) == facts["param_count"]
    size = facts["config"]["size"]
    assert config["input_shape"] == (size, size, facts["config"]["channels"])
    for key, value in config["model"].items():
        wanted = {
            **facts["config"],
            "name": "flexunet",
            "dropout_rate": facts["config"]["dropout"],
            "activation": "relu",
            "norm": "batch" if facts["config"]["norm"] else "none",
            "dtype": "float32",
        }[key]
        assert value == wanted, key

    result = np.asarray(probabilities(model, variables, expected["image"]))
    np.testing.assert_allclose(result, expected["probabilities"], atol=1e-4)
    truth = np.eye(6)[expected["label"]]
    axes = (1, 2, 3)
    dice = (2 * (result * truth).sum(axes) + 1) / (result.sum(axes) + truth.sum(axes) + 1)
    assert dice.mean() == pytest.approx(facts["dice_coef_multiclass"], abs=1e-4)


@needs_lent_fixtures
def test_lent_fixture_trains_as_keras_2_15():
    folder = SHARED / "keras_flexunet_plain"
    model, variables, _ = load(folder / "best_model.h5")
    batch = np.load(folder / "forward.npz")
    facts = json.loads((folder / "fixture.json").read_text())
    losses, trained = three_adam_steps(model, variables, batch["image"], batch["label"])
    np.testing.assert_allclose(losses, facts["train_losses"], rtol=1e-5)
    expected = np.load(folder / "after_three_steps.npz")["probabilities"]
    result = np.asarray(probabilities(model, trained, batch["image"]))
    np.testing.assert_allclose(result, expected, atol=1e-3)
    assert np.abs(result - expected).mean() < 1e-6


def test_moving_statistics_are_taken():
    _, variables, _ = load(FIXTURES / "keras_dilated_norm.h5")
    with h5py.File(FIXTURES / "keras_dilated_norm.h5") as file:
        layer = file["model_weights/batch_normalization/batch_normalization"]
        stats = variables["batch_stats"]["encoder_0"]["norm_0"]
        np.testing.assert_array_equal(stats["mean"], layer["moving_mean"])
        np.testing.assert_array_equal(stats["var"], layer["moving_variance"])


def edited(tmp_path: Path, edit) -> Path:
    """A copy of the plain fixture whose configuration `edit` has changed."""
    path = tmp_path / "best_model.h5"
    path.write_bytes((FIXTURES / "keras_plain.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        model = json.loads(file.attrs["model_config"])
        edit(model)
        file.attrs["model_config"] = json.dumps(model)
    return path


def layer_settings(model: dict, name: str) -> dict:
    return next(layer for layer in model["config"]["layers"] if layer["config"]["name"] == name)


def test_layers_are_taken_in_the_graph_s_order_not_by_name(tmp_path):
    """Names of a second model in one process start at conv2d_9, conv2d_10, ...: sorting fails."""

    def rename(name: str) -> str:
        return f"conv2d_{int(name.split('_')[1] if '_' in name else 0) + 7}"

    path = tmp_path / "best_model.h5"
    path.write_bytes((FIXTURES / "keras_plain.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        text = file.attrs["model_config"]
        names = [name for name in file["model_weights"] if name.startswith("conv2d")]
        names = [name for name in names if "transpose" not in name]
        for name in sorted(names, key=lambda n: int(n.split("_")[1]) if "_" in n else 0)[::-1]:
            file["model_weights"].move(name, rename(name))
            text = text.replace(f'"{name}"', f'"{rename(name)}"')
        file.attrs["model_config"] = text
    before = read_keras_flexunet(FIXTURES / "keras_plain.h5")[1]
    after = read_keras_flexunet(path)[1]
    jax.tree.map(np.testing.assert_array_equal, after, before)


def change_dilation(model: dict) -> None:
    layer_settings(model, "conv2d_3")["config"]["dilation_rate"] = [2, 2]


def change_skip(model: dict) -> None:
    layer_settings(model, "concatenate")["inbound_nodes"][0].reverse()


def change_kind(model: dict) -> None:
    layer_settings(model, "dropout_1")["class_name"] = "SpatialDropout2D"


def drop_head(model: dict) -> None:
    model["config"]["layers"].pop()


def add_layer(model: dict) -> None:
    model["config"]["layers"].append(model["config"]["layers"][-1])


def make_sequential(model: dict) -> None:
    model["class_name"] = "Sequential"


def change_activation(model: dict) -> None:
    layer_settings(model, "conv2d")["config"]["activation"] = "mish"


def change_width(model: dict) -> None:
    layer_settings(model, "conv2d_10")["config"]["filters"] = 7


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change_dilation, r"dilation_rate of layer 'conv2d_3' is \[2, 2\], not \[1, 1\]"),
        (change_skip, r"layer 'concatenate' takes \('conv2d_3', 'conv2d_transpose'\)"),
        (change_kind, "layer 'dropout_1' is a SpatialDropout2D, not a Dropout"),
        (drop_head, "it has .* layers, not"),
        (add_layer, "it has .* layers, not"),
        (make_sequential, "Sequential"),
        (change_activation, "activation 'mish'"),
        (change_width, r"weights .*'logits'.* are \(6,\)"),
    ],
)
def test_other_architectures_are_named(tmp_path, edit, message):
    path = edited(tmp_path, edit)
    with pytest.raises(UserError, match=message) as error:
        read_keras_flexunet(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_are_no_keras_model(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_keras_flexunet(tmp_path / "missing.h5")

    text = tmp_path / "text.h5"
    text.write_text("not a model")
    with pytest.raises(UserError, match="not an HDF5 file"):
        read_keras_flexunet(text)

    weights_only = tmp_path / "weights.h5"
    with h5py.File(weights_only, "w") as file:
        file.attrs["layer_names"] = ["conv2d"]
    with pytest.raises(UserError, match="save_weights_only=False"):
        read_keras_flexunet(weights_only)

    damaged = tmp_path / "damaged.h5"
    damaged.write_bytes((FIXTURES / "keras_plain.h5").read_bytes())
    with h5py.File(damaged, "r+") as file:
        del file["model_weights/conv2d_4/conv2d_4/bias:0"]
    with pytest.raises(UserError, match="layer 'conv2d_4' has no weight 'bias'"):
        read_keras_flexunet(damaged)


def test_keras_archive_is_named(tmp_path):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(UserError, match=r"is a \.keras archive"):
        read_keras_flexunet(path)


def test_imported_variables_fit_the_network():
    model, variables, config = load(FIXTURES / "keras_dilated_norm.h5")
    image = jnp.zeros((1, *config["input_shape"]))
    wanted = jax.eval_shape(model.init, jax.random.key(0), image)
    assert jax.tree.structure(wanted) == jax.tree.structure(variables)
