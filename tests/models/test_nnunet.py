"""nnU-Net's networks: parameter counts, the residual block, deep supervision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from mbh_jax import models
from mbh_jax.models.nnunet import NNUNet, ResidualBlock
from mbh_jax.optimization.deep_supervision import deeply_supervised, level_weights
from mbh_jax.optimization.losses import cross_entropy_dice

SMALL = {"name": "nnunet", "base_filters": 4, "max_filters": 8, "num_stages": 3}


def small_network(**changes):
    keys = models.NETWORKS["nnunet"].keys
    values = {name: key.default for name, key in keys.items()} | SMALL | changes
    return models.create_model(ConfigDict(values), 6)


@pytest.mark.parametrize(
    ("encoder", "num_stages", "channels", "classes", "parameters"),
    [
        ("plain", 8, 1, 6, 46_332_650),
        ("plain", 7, 1, 6, 33_477_860),
        ("residual", 8, 1, 6, 140_025_130),
        ("residual", 7, 1, 6, 105_922_852),
        ("residual", 7, 1, 3, 105_918_322),
    ],
)
def test_parameter_counts_are_nnunet_s(encoder, num_stages, channels, classes, parameters):
    """Counts of nnU-Net's own networks for its 2D plans, which hold a head at each resolution."""
    model = NNUNet(classes, encoder=encoder, num_stages=num_stages, deep_supervision=True)
    image = jax.ShapeDtypeStruct((1, 128, 128, channels), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    assert sum(x.size for x in jax.tree.leaves(variables)) == parameters


def test_gradients_reach_every_parameter_with_and_without_remat():
    image = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
    label = jax.random.randint(jax.random.key(2), (2, 16, 16), 0, 6)
    loss = deeply_supervised(cross_entropy_dice())
    gradients = []
    for remat in (False, True):
        model = small_network(deep_supervision=True, remat=remat)
        params = jax.jit(model.init)(jax.random.key(0), image)

        @jax.jit
        def gradient(params, model=model):
            def value(params):
                rows = loss.statistics(model.apply(params, image, train=True), label)
                sums = {name: row.sum(0) for name, row in rows.items()}
                return loss.objective(sums | {"examples": jnp.float32(2)})

            return jax.grad(value)(params)

        gradients.append(gradient(params))
    found = jax.tree_util.tree_leaves_with_path(gradients[0])
    # The coarsest head has no weight. A bias before a normalisation has no influence, and behind a
    # scale of 0 the first convolution of a new residual block has none either.
    silent = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in found
        if not np.abs(leaf).max() > 1e-12
    }
    assert all(np.isfinite(leaf).all() for _, leaf in found)
    expected = {"params/logits_1/kernel", "params/logits_1/bias"}
    assert {name for name in silent if "block" not in name and "/conv/bias" not in name} == expected
    assert not {name for name in silent if name.endswith("conv_1/norm/scale")}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *gradients)


def test_bfloat16_is_near_float32_and_logits_stay_float32():
    image = jax.random.normal(jax.random.key(1), (1, 16, 16, 1))
    params = jax.jit(small_network().init)(jax.random.key(0), image)
    wide, narrow = (
        jax.jit(small_network(dtype=dtype).apply)(params, image)
        for dtype in ("float32", "bfloat16")
    )
    assert wide.dtype == narrow.dtype == jnp.float32
    np.testing.assert_allclose(wide, narrow, atol=0.1)
    assert (wide.argmax(-1) == narrow.argmax(-1)).mean() > 0.9


def test_a_new_residual_block_passes_its_input_on():
    x = jnp.abs(jax.random.normal(jax.random.key(0), (1, 8, 8, 4)))
    block = ResidualBlock(4, stride=2, dtype=jnp.float32)
    params = block.init(jax.random.key(1), x)
    pooled = np.asarray(x).reshape(1, 4, 2, 4, 2, 4).mean((2, 4))
    np.testing.assert_allclose(block.apply(params, x), pooled, rtol=1e-6)


def test_weights_of_deep_supervision_are_nnunet_s():
    """Those of its 2D plan with 8 stages, as nnU-Net prints them."""
    wanted = [0.5079, 0.2540, 0.1270, 0.0635, 0.0317, 0.0159, 0]
    np.testing.assert_allclose(level_weights(7), wanted, atol=5e-5)
    assert level_weights(1).tolist() == level_weights(2)[:1].tolist() == [1]


def test_deep_supervision_is_the_weighted_sum_of_the_levels():
    loss = cross_entropy_dice()
    supervised = deeply_supervised(loss)
    label = jax.random.randint(jax.random.key(0), (2, 16, 16), 0, 6)
    logits = tuple(
        jax.random.normal(jax.random.key(side), (2, side, side, 6)) for side in (16, 8, 4, 2)
    )

    def value(loss, logits, label):
        sums = {name: rows.sum(0) for name, rows in loss.statistics(logits, label).items()}
        return loss.objective(sums | {"examples": jnp.float32(2)})

    nearest = [label, label[:, 1::2, 1::2], label[:, 2::4, 2::4]]
    levels = [value(loss, one, labels) for one, labels in zip(logits, nearest, strict=False)]
    expected = (levels[0] + levels[1] / 2 + levels[2] / 4) / 1.75
    np.testing.assert_allclose(value(supervised, logits, label), expected, rtol=1e-6)
    # Validation has the finest logits alone.
    assert value(supervised, logits[0], label) == levels[0]
    assert supervised.linear == loss.linear


def test_the_image_must_be_divisible():
    with pytest.raises(ValueError, match="multiples of 4"):
        small_network().init(jax.random.key(0), jnp.zeros((1, 10, 16, 1)))
