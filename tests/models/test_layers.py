"""Layers against NumPy's formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbh_jax.models.layers import AttentionGate, Conv, UpConv, dropout


def test_dropout_drops_its_rate_and_keeps_the_mean():
    keys = jax.random.split(jax.random.key(0), 3)
    x = jnp.full((3, 64, 64, 16), 2.0)
    y = np.asarray(dropout(x, 0.3, keys))
    dropped = (y == 0).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(dropped, 0.3, atol=0.01)  # 6 sigma of 65,536 draws
    np.testing.assert_allclose(np.unique(y[y != 0]), [2 / 0.7], rtol=1e-4)
    assert y.mean() == pytest.approx(2.0, abs=0.02)
    assert (y[0] != y[1]).any()


def test_dropout_s_masks_are_unrelated():
    """Correlations over shifts in space, over channels, examples and keys stay within noise."""
    x = jnp.ones((2, 64, 64, 16))
    masks = [
        np.asarray(dropout(x, 0.5, jax.random.split(jax.random.key(i), 2))) - 1 for i in (0, 1)
    ]
    first, second = masks[0]
    pairs = {
        "examples": (first, second),
        "keys": (first, masks[1][0]),
        "rows": (first[1:], first[:-1]),
        "columns": (first[:, 1:], first[:, :-1]),
        "diagonal": (first[1:, 1:], first[:-1, :-1]),
        "channels": (first[..., 1:], first[..., :-1]),
        "half a map": (first[32:], first[:32]),
    }
    for name, (a, b) in pairs.items():
        assert abs((a * b).mean()) < 5 / np.sqrt(a.size), name
    per_channel = (first > 0).mean(axis=(0, 1))
    np.testing.assert_allclose(per_channel, 0.5, atol=5 * 0.5 / 64)


def test_dropout_of_rate_zero_costs_nothing():
    x = jnp.ones((2, 8, 8, 4))
    keys = jax.random.split(jax.random.key(0), 2)
    jaxpr = jax.make_jaxpr(lambda x, keys: dropout(x, 0.0, keys))(x, keys)
    assert not jaxpr.jaxpr.eqns


def test_dropout_s_gradient_is_its_mask():
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 4))
    y, pullback = jax.vjp(lambda x: dropout(x, 0.25, keys), x)
    np.testing.assert_allclose(pullback(x)[0], y)


def test_up_conv_places_each_tap():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    layer = UpConv(features=6)
    variables = layer.init(jax.random.key(0), x)
    variables["params"]["bias"] = jnp.arange(6.0)
    kernel = np.asarray(variables["params"]["kernel"])
    y = layer.apply(variables, x)
    expected = np.zeros((2, 6, 8, 6), np.float32)
    for a in range(2):
        for b in range(2):
            expected[:, a::2, b::2] = x @ kernel[a, b] + np.arange(6.0)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_strided_conv_is_every_second_pixel_of_a_plain_one():
    x = jax.random.normal(jax.random.key(0), (2, 8, 6, 3))
    params = Conv(5, 3).init(jax.random.key(1), x)
    np.testing.assert_allclose(
        Conv(5, 3, stride=2).apply(params, x), Conv(5, 3).apply(params, x)[:, ::2, ::2], atol=1e-5
    )


def test_attention_gate_has_one_weight_a_pixel():
    skip = jax.random.normal(jax.random.key(0), (2, 4, 4, 6))
    gating = jax.random.normal(jax.random.key(1), (2, 4, 4, 8))
    gate = AttentionGate(3)
    variables = gate.init(jax.random.key(2), skip, gating)
    p = jax.tree.map(np.asarray, variables["params"])
    compared = skip @ p["skip"]["kernel"][0, 0] + gating @ p["gating"]["kernel"][0, 0]
    weight = np.maximum(compared, 0) @ p["weight"]["kernel"][0, 0]
    np.testing.assert_allclose(
        gate.apply(variables, skip, gating), skip / (1 + np.exp(-weight)), atol=1e-5
    )
