"""The rewriting by 2 x 2 blocks against the convolution that it rewrites."""

import jax
import numpy as np
import pytest

from benchmarks import space_to_depth
from benchmarks.conv_lowering import plain_conv


@pytest.mark.parametrize("side", [1, 3, 5, 7])
def test_equals_the_convolution_and_its_gradients(side):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, 12, 16, 3))
    kernel = jax.random.normal(keys[1], (side, side, 3, 4))
    expected, expected_pullback = jax.vjp(plain_conv, x, kernel)
    result, pullback = jax.vjp(space_to_depth.conv, x, kernel)
    np.testing.assert_allclose(result, expected, atol=1e-4)
    gradient = jax.random.normal(keys[2], expected.shape)
    for ours, theirs in zip(pullback(gradient), expected_pullback(gradient), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


@pytest.mark.parametrize(("side", "more"), [(3, 1.78), (5, 1.44), (7, 1.31)])
def test_products_with_zeros(side, more):
    kernel = np.ones((side, side, 1, 1), np.float32)
    # Products a pixel: of a block of four pixels, all that its kernel has.
    assert space_to_depth.block_kernel(kernel).size / 4 / side**2 == pytest.approx(more, abs=0.005)
