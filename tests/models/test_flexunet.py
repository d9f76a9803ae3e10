"""FlexUNet: its size, its rules level by level, and how padding and division leave it alone."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from mbh_jax.models import create_model, flexunet
from mbh_jax.models.flexunet import size_divisor


def small_config(**changes) -> ConfigDict:
    fields = {
        "name": "flexunet",
        "base_filters": 4,
        "base_kernel": 5,
        "num_layers": 3,
        "dropout_rate": 0.1,
        "dilation": 1,
        "activation": "relu",
        "norm": "none",
        "dtype": "float32",
    }
    return ConfigDict({**fields, **changes})


def init(model, size: int = 16, channels: int = 3):
    return jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, size, size, channels)))


def test_full_size_has_the_original_s_parameters():
    model = create_model(small_config(base_filters=16, base_kernel=7, num_layers=8), 6)
    image = jax.ShapeDtypeStruct((1, 512, 512, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    assert sum(x.size for x in jax.tree.leaves(variables)) == 124_557_126


def test_levels_shrink_kernels_and_dilation():
    model = create_model(small_config(base_kernel=7, num_layers=5, dilation=3), 6)
    levels = [model.level(i) for i in range(5)]
    assert [level.filters for level in levels] == [4, 8, 16, 32, 64]
    assert [level.kernel_size for level in levels] == [7, 5, 3, 3, 3]
    assert [level.dilation for level in levels] == [3, 2, 1, 1, 1]
    assert [level.dropout_rate for level in levels] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_decoder_concatenates_upsampled_before_skip():
    """With the kernel's first half zero, decoder_0 must not feel what comes from below."""
    model = create_model(small_config(), 6)
    params = init(model)["params"]
    kernel = params["decoder_0"]["conv_0"]["kernel"]
    params["decoder_0"]["conv_0"]["kernel"] = kernel.at[:, :, :4].set(0)
    image = jax.random.normal(jax.random.key(1), (1, 16, 16, 3))
    logits = model.apply({"params": params}, image)
    params["bridge"]["conv_1"]["bias"] = jnp.full(16, 9.0)
    np.testing.assert_array_equal(model.apply({"params": params}, image), logits)


def test_initial_kernels_have_keras_s_variances():
    params = init(create_model(small_config(base_filters=32), 6))["params"]
    kernel = params["bridge"]["conv_1"]["kernel"]  # he_normal: variance 2 / fan_in, cut at 2 sigma
    fan_in = 9 * 128
    assert kernel.std() == pytest.approx(np.sqrt(2 / fan_in), rel=0.02)
    assert np.abs(kernel).max() <= 2 * np.sqrt(2 / fan_in) / 0.8796 + 1e-6
    up = params["up_1"]["kernel"]  # glorot_uniform: limit sqrt(6 / (fan_in + fan_out))
    limit = np.sqrt(6 / (4 * 128 + 4 * 64))
    assert np.abs(up).max() <= limit
    assert up.std() == pytest.approx(limit / np.sqrt(3), rel=0.02)
    for block in params.values():
        for name, layer in block.items():
            if name.startswith("conv"):
                np.testing.assert_array_equal(layer["bias"], 0)


@pytest.mark.parametrize(
    ("dtype", "norm"), [("bfloat16", "none"), ("bfloat16", "batch"), ("float32", "group")]
)
def test_logits_and_parameters_are_float32(dtype, norm):
    model = create_model(small_config(dtype=dtype, norm=norm), 6)
    variables = init(model)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    image = jax.random.normal(jax.random.key(1), (2, 16, 24, 3))
    logits = model.apply(variables, image)
    assert logits.shape == (2, 16, 24, 6)
    assert logits.dtype == jnp.float32
    reference = create_model(small_config(norm=norm), 6).apply(variables, image)
    np.testing.assert_allclose(logits, reference, atol=0.05 * np.abs(reference).max())


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "elu", "gelu", "silu"])
def test_every_activation_runs(activation):
    model = create_model(small_config(num_layers=2, activation=activation), 6)
    variables = init(model)
    image = jax.random.normal(jax.random.key(1), (1, 16, 16, 3))
    relu = create_model(small_config(num_layers=2), 6).apply(variables, image)
    logits = model.apply(variables, image)
    assert np.isfinite(logits).all()
    assert (np.abs(logits - relu).max() > 1e-3) == (activation != "relu")


def test_sides_that_cannot_be_halved_are_refused():
    assert size_divisor(3) == 4
    with pytest.raises(ValueError, match="multiples of 4"):
        init(create_model(small_config(), 6), size=18)


def train_apply(model, variables, image, weight=None, dropout_keys=None):
    return model.apply(
        variables,
        image,
        train=True,
        weight=weight,
        dropout_keys=dropout_keys,
        mutable=["batch_stats"],
    )


def test_dropout_depends_on_the_example_s_key_alone():
    model = create_model(small_config(), 6)
    variables = init(model)
    image = jax.random.normal(jax.random.key(1), (4, 16, 16, 3))
    keys = jax.random.split(jax.random.key(2), 4)
    whole, _ = train_apply(model, variables, image, dropout_keys=keys)
    for row in (1, 3):
        part, _ = train_apply(
            model, variables, image[row : row + 1], dropout_keys=keys[row : row + 1]
        )
        np.testing.assert_allclose(part[0], whole[row], rtol=1e-4, atol=1e-5)
    others, _ = train_apply(model, variables, image, dropout_keys=keys[::-1])
    assert np.abs(others - whole).max() > 1e-3


def test_batch_norm_leaves_padding_out():
    model = create_model(small_config(norm="batch", dropout_rate=0.0), 6)
    variables = init(model)
    image = 3 + 2 * jax.random.normal(jax.random.key(1), (3, 16, 16, 3))
    real, real_state = train_apply(model, variables, image)
    padded = jnp.concatenate([image, jnp.full((2, 16, 16, 3), 1e3)])
    weight = jnp.array([1, 1, 1, 0, 0.0])
    logits, state = train_apply(model, variables, padded, weight)
    np.testing.assert_allclose(logits[:3], real, rtol=1e-3, atol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), state, real_state
    )


def test_remat_keeps_parameters_and_gradients():
    keep = create_model(small_config(norm="batch"), 6)
    again = create_model(small_config(norm="batch", remat=True), 6)
    variables = init(keep)
    shapes = jax.eval_shape(again.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    image = jax.random.normal(jax.random.key(1), (4, 16, 16, 3))
    keys = jax.random.split(jax.random.key(2), 4)

    def gradients(model):
        def loss(params):
            given = {**variables, "params": params}
            logits, state = train_apply(model, given, image, dropout_keys=keys)
            return jnp.square(logits).mean(), state

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        gradients(again),
        gradients(keep),
    )


def test_remat_keeps_less_for_the_backward_pass():
    """What the forward pass leaves to its pullback; a CPU's compiler undoes remat afterwards."""

    def kept_bytes(remat):
        model = create_model(small_config(norm="batch", remat=remat), 6)
        variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))

        def pullback(variables, image, keys):
            def logits(params):
                given = {**variables, "params": params}
                return train_apply(model, given, image, dropout_keys=keys)[0]

            return jax.vjp(logits, variables["params"])[1]

        image = jax.ShapeDtypeStruct((4, 64, 64, 3), jnp.float32)
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(2), 4))
        kept = jax.tree.leaves(jax.eval_shape(pullback, variables, image, keys))
        return sum(leaf.size * 4 for leaf in kept)

    assert kept_bytes(remat=True) < 0.5 * kept_bytes(remat=False)


DEVICES_PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from ml_collections import ConfigDict
from mbh_jax.models import create_model, flexunet

config = ConfigDict(dict(name="flexunet", base_filters=4, base_kernel=5, num_layers=3,
                         dropout_rate=0.2, dilation=2, activation="relu", norm="batch",
                         dtype="float32"))
one, four = create_model(config, 6), create_model(config, 6, axis_name="batch")
image = jax.random.normal(jax.random.key(1), (8, 16, 16, 3))
weight = jnp.array([1, 1, 1, 1, 1, 0, 0, 0.0])
keys = jax.random.split(jax.random.key(2), 8)
variables = one.init(jax.random.key(0), image)

def loss(model, params, image, weight, keys):
    logits, state = model.apply({**variables, "params": params}, image, train=True, weight=weight,
                                dropout_keys=keys, mutable=["batch_stats"])
    return jnp.sum(weight[:, None, None, None] * jnp.tanh(logits)), state

def step(model, image, weight, keys):
    return jax.value_and_grad(lambda p: loss(model, p, image, weight, keys), has_aux=True)(
        variables["params"])

(expected, state), gradients = jax.jit(lambda *args: step(one, *args))(image, weight, keys)

def device_step(image, weight, keys):
    (value, state), gradients = step(four, image, weight, keys)
    return jax.lax.psum((value, gradients), "batch"), state

shards = [x.reshape(4, 2, *x.shape[1:]) for x in (image, weight, keys)]
(value, shared_gradients), shared_state = jax.pmap(device_step, "batch", out_axes=None)(*shards)
close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3)
close(value, expected)
jax.tree.map(close, shared_state, state)
jax.tree.map(close, shared_gradients, gradients)
print("equal")
"""


def test_four_devices_equal_one():
    """Global batch statistics, per-example dropout and gradients; a padded and an empty device."""
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "4"}
    result = subprocess.run(
        [sys.executable, "-c", DEVICES_PROGRAM],
        env={**environment, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.strip() == "equal", result.stderr[-2000:]


def test_networks_need_no_tensorflow():
    program = (
        "import sys; import mbh_jax.models, mbh_jax.interop.keras_import; "
        "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_patches_are_the_channels_of_a_pixel_and_come_back_in_place():
    x = jnp.arange(2 * 8 * 12 * 3.0).reshape(2, 8, 12, 3)
    patches = flexunet._to_patches(x, 4)
    assert patches.shape == (2, 2, 3, 48)
    np.testing.assert_array_equal(patches[1, 1, 2], x[1, 4:8, 8:12].reshape(-1))
    np.testing.assert_array_equal(flexunet._from_patches(patches, 4), x)


def test_a_network_of_patches_has_logits_of_every_pixel():
    network = flexunet.FlexUNet(num_classes=6, base_filters=2, num_layers=3, patch_size=2)
    x = jnp.zeros((1, 16, 24, 3))
    variables = network.init(jax.random.key(0), x)
    assert network.apply(variables, x).shape == (1, 16, 24, 6)
    assert variables["params"]["encoder_0"]["conv_0"]["kernel"].shape[2:] == (12, 2)
    with pytest.raises(ValueError, match="multiples of 8"):
        network.apply(variables, jnp.zeros((1, 20, 16, 3)))
