"""The convolution across neighbouring slices, and the networks that have it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from mbh_jax import models
from mbh_jax.models import slices

SMALL = {
    "flexunet": {"base_filters": 2, "base_kernel": 3, "num_layers": 2},
    "nnunet": {"base_filters": 2, "max_filters": 4, "num_stages": 2},
}


def create(name: str, num_slices: int, **changes: object) -> jax.Array:
    keys = models.NETWORKS[name].keys
    values = {key: rule.default for key, rule in keys.items()} | SMALL[name] | changes
    return models.create_model(ConfigDict({"name": name, **values}), 6, num_slices=num_slices)


def test_slices_become_examples_and_keep_their_windows() -> None:
    x = np.arange(2 * 3 * 4 * 10).reshape(2, 3, 4, 10)  # 5 slices of 2 windows.
    found = np.asarray(slices.to_batch(jnp.asarray(x), 5))
    assert found.shape == (10, 3, 4, 2)
    for example in range(2):
        for number in range(5):
            expected = x[example, :, :, 2 * number : 2 * number + 2]
            np.testing.assert_array_equal(found[5 * example + number], expected)
    assert slices.repeat(jnp.array([1, 0]), 3).tolist() == [1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("number", [1, 2])
def test_the_fusion_is_a_3d_convolution_across_slices(number: int) -> None:
    """Against JAX's convolution in 3D with kernels of 3 x 1 x 1 without padding."""
    rng = np.random.default_rng(0)
    num_slices = 2 * number + 1
    x = rng.normal(size=(2, num_slices, 4, 5, 3)).astype(np.float32)
    kernels = rng.normal(size=(number, 3, 1, 1, 3, 3)).astype(np.float32)

    def convolution(x: jax.Array, name: str) -> jax.Array:
        return jnp.tanh(x @ kernels[int(name.removeprefix("slices_"))].reshape(9, 3))

    found = slices.fuse(jnp.asarray(x.reshape(-1, 4, 5, 3)), num_slices, convolution)
    expected = jnp.asarray(x)
    for kernel in kernels:
        expected = jnp.tanh(
            jax.lax.conv_general_dilated(
                expected, kernel, (1, 1, 1), "VALID", dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
            )
        )
    np.testing.assert_allclose(found, expected[:, 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_a_network_learns_from_all_slices(name: str) -> None:
    """Shared weights, gradients against differences, and bfloat16 beside float32."""
    model = create(name, 3, slice_fusion="convolution")
    image = jax.random.uniform(jax.random.key(1), (2, 8, 8, 6))  # 2 windows.
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
    rng = np.random.default_rng(3)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype("f"), shapes)
    first = params["encoder_0"] if name == "flexunet" else params["stem"]
    kernel = first["conv_0" if name == "flexunet" else "conv"]["kernel"]
    assert kernel.shape == (3, 3, 2, 2)

    @jax.jit
    @jax.value_and_grad
    def loss(both: tuple) -> jax.Array:
        params, image = both
        return jnp.square(model.apply({"params": params}, image) - 0.3).mean()

    _, gradient = loss((params, image))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    of_slices = np.abs(gradient[1]).reshape(2, 8, 8, 3, 2).sum((1, 2, 4))
    assert (of_slices > 0).all()
    along = {
        path: leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient[0])
        if "slices_0" in jax.tree_util.keystr(path)
    }
    assert any(np.abs(leaf).max() > 0 for leaf in along.values())

    def moved(step: float) -> float:
        def shift(path: tuple, leaf: jax.Array) -> jax.Array:
            return leaf + step * along[path] if path in along else leaf

        return float(loss((jax.tree_util.tree_map_with_path(shift, params), image))[0])

    squared = sum(float(np.square(leaf).sum()) for leaf in along.values())
    step = 0.001 / np.sqrt(squared)
    slope = (moved(step) - moved(-step)) / (2 * step)
    assert slope == pytest.approx(squared, rel=0.05)

    half = create(name, 3, slice_fusion="convolution", dtype=jnp.bfloat16)
    exact, rounded = (jax.jit(one.apply)({"params": params}, image) for one in (model, half))
    assert rounded.dtype == jnp.float32
    assert 0 < np.abs(exact - rounded).max() < 0.1 * np.abs(exact).max()


@pytest.mark.parametrize("name", SMALL)
def test_shapes_of_both_fusions(name: str) -> None:
    image = jnp.zeros((1, 8, 8, 10))  # 5 slices of 2 windows.
    counted = {}
    for fusion in slices.FUSIONS:
        model = create(name, 5, slice_fusion=fusion)
        variables = jax.eval_shape(model.init, jax.random.key(0), image)
        assert jax.eval_shape(model.apply, variables, image).shape == (1, 8, 8, 6)
        counted[fusion] = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    one = jax.eval_shape(create(name, 1).init, jax.random.key(0), image[..., :2])
    alone = sum(leaf.size for leaf in jax.tree.leaves(one["params"]))
    # 8 more channels of a kernel of 3 x 3; or two layers of 3 x 1 x 1, nnU-Net's normalised.
    assert counted["channels"] == alone + 8 * 9 * 2
    per_layer = 3 * 2 * 2 + 2 + (4 if name == "nnunet" else 0)
    assert counted["convolution"] == alone + 2 * per_layer
