"""Normalisations against NumPy's formulas and Flax's layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mbh_jax.models.norms import BatchNorm, GroupNorm, InstanceNorm


def test_batch_norm_is_the_formula():
    x = np.random.default_rng(0).normal(3, 2, (4, 5, 6, 7)).astype(np.float32)
    scale, bias = np.linspace(0.5, 2, 7), np.linspace(-1, 1, 7)
    variables = {
        "params": {"scale": scale, "bias": bias},
        "batch_stats": {"mean": np.full(7, 0.5), "var": np.full(7, 4.0)},
    }
    layer = BatchNorm()
    mean, var = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
    y, state = layer.apply(variables, x, train=True, weight=None, mutable=["batch_stats"])
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-3) * scale + bias, atol=1e-4)
    np.testing.assert_allclose(state["batch_stats"]["mean"], 0.99 * 0.5 + 0.01 * mean, rtol=1e-5)
    np.testing.assert_allclose(state["batch_stats"]["var"], 0.99 * 4.0 + 0.01 * var, rtol=1e-5)
    y = layer.apply(variables, x, train=False, weight=None)
    np.testing.assert_allclose(y, (x - 0.5) / np.sqrt(4.0 + 1e-3) * scale + bias, atol=1e-5)


def test_instance_norm_is_the_formula():
    x = np.random.default_rng(0).normal(3, 2, (2, 5, 6, 4)).astype(np.float32)
    params = {"scale": np.linspace(0.5, 2, 4), "bias": np.linspace(-1, 1, 4)}
    mean, var = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
    expected = (x - mean) / np.sqrt(var + 1e-5) * params["scale"] + params["bias"]
    found = InstanceNorm().apply({"params": params}, x)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_group_norm_is_that_of_flax():
    """Output and gradients: the layer only orders the sums otherwise."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(3, 2, (2, 5, 6, 12)), jnp.float32)
    upstream = jnp.asarray(rng.normal(size=x.shape), jnp.float32)
    params = {
        "scale": jnp.asarray(rng.normal(1, 0.3, 12), jnp.float32),
        "bias": jnp.asarray(rng.normal(0, 0.3, 12), jnp.float32),
    }

    def results(layer):
        y, pullback = jax.vjp(lambda p, x: layer.apply({"params": p}, x), params, x)
        return y, pullback(upstream)

    jax.tree.map(
        lambda ours, flax: np.testing.assert_allclose(ours, flax, atol=2e-5),
        results(GroupNorm(4)),
        results(nn.GroupNorm(4, epsilon=1e-3)),
    )
