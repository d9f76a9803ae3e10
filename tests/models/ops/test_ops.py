"""Every operation against the plain one of `jax.lax`: results and all gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mbh_jax.models import ops
from mbh_jax.models.ops import convolution, cook_toom, cpu_conv
from mbh_jax.models.ops.convolution import plain_conv


def random(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def assert_same(function, reference, *arguments) -> None:
    """Equal results, and equal gradients with respect to every argument."""
    expected, expected_pullback = jax.vjp(reference, *arguments)
    result, pullback = jax.vjp(function, *arguments)
    cotangent = random(*expected.shape, seed=9)
    gradients = zip(pullback(cotangent), expected_pullback(cotangent), strict=True)
    for ours, theirs in [(result, expected), *gradients]:
        assert ours.shape == theirs.shape
        scale = float(np.abs(theirs).max())
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * scale)


SHAPES = [
    # batch, height, width, channels, features, kernel, dilation
    (2, 40, 24, 3, 16, 7, 1),  # few channels: columns together, channels padded
    (1, 64, 64, 16, 16, 5, 1),
    (2, 48, 32, 16, 8, 3, 1),  # four columns together
    (1, 36, 30, 5, 4, 7, 1),  # a width that only 2 divides
    (1, 37, 23, 7, 9, 5, 1),  # odd sides
    (3, 32, 32, 32, 24, 3, 1),
    (2, 40, 28, 4, 8, 3, 2),
    (1, 33, 40, 6, 5, 5, 3),
    (1, 32, 32, 3, 5, 4, 1),  # an even kernel
    (1, 32, 24, 3, 5, 4, 3),
    (2, 8, 8, 256, 256, 3, 1),  # tiny map, many channels
    (1, 16, 12, 256, 256, 3, 1),  # the same, for the gradients only
    (1, 4, 6, 256, 288, 3, 2),
    (2, 2, 2, 256, 256, 3, 1),
    (2, 8, 12, 10, 12, 3, 1),  # tiny map, few channels
    (1, 1, 1, 4, 4, 3, 1),
    # half of the multiplications, where `m` rows of a tile divide the map and where they do not
    (2, 16, 12, 32, 40, 3, 1),
    (1, 21, 17, 16, 24, 5, 1),
    (1, 18, 10, 20, 16, 7, 1),
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_conv_equals_lax(shape):
    batch, height, width, channels, features, kernel_size, dilation = shape
    x = random(batch, height, width, channels)
    kernel = random(kernel_size, kernel_size, channels, features, seed=1)
    assert_same(
        jax.jit(lambda x, kernel: ops.conv(x, kernel, dilation)),
        lambda x, kernel: plain_conv(x, kernel, dilation),
        x,
        kernel,
    )


@pytest.mark.parametrize("pixels_at_once", [64, 4096])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_kernel_gradient_in_row_chunks_equals_lax(monkeypatch, shape, pixels_at_once):
    batch, height, width, channels, features, kernel_size, dilation = shape
    monkeypatch.setattr(cpu_conv, "SMALL_MAP_PIXELS", 0)
    monkeypatch.setattr(cpu_conv, "ROWS_AT_ONCE", 4)
    monkeypatch.setattr(cpu_conv, "PIXELS_AT_ONCE", pixels_at_once)
    x, gradient = random(batch, height, width, channels), random(batch, height, width, features)
    kernel = jnp.zeros((kernel_size, kernel_size, channels, features))

    def in_chunks(x, gradient):
        return cpu_conv._kernel_gradient(x, gradient, kernel_size, dilation)

    assert "scan" in str(jax.make_jaxpr(in_chunks)(x, gradient))
    expected = jax.vjp(lambda kernel: plain_conv(x, kernel, dilation), kernel)[1](gradient)[0]
    scale = float(np.abs(expected).max())
    np.testing.assert_allclose(jax.jit(in_chunks)(x, gradient), expected, atol=1e-5 * scale)


@pytest.mark.parametrize(("tile_rows", "kernel_rows"), [(4, 3), (6, 5), (4, 7), (2, 7)])
def test_cook_toom_is_the_correlation_of_its_definition(tile_rows, kernel_rows):
    rng = np.random.default_rng(0)
    kernel, rows = rng.normal(size=kernel_rows), rng.normal(size=tile_rows + kernel_rows - 1)
    matrices = cook_toom.transforms(tile_rows, kernel_rows)
    result = matrices.A @ ((matrices.G @ kernel) * (matrices.B @ rows))
    np.testing.assert_allclose(result, np.correlate(rows, kernel, "valid"), atol=1e-12)


@pytest.mark.parametrize(("side", "times"), [(3, 4), (5, 15), (7, 15)])
def test_cook_toom_rounds_little_more_than_the_definition(side, times):
    x, kernel = random(1, 32, 16, 64), random(side, side, 64, 32, seed=1)
    exact = plain_conv_in_float64(np.asarray(x), np.asarray(kernel))

    def error(conv):
        return np.sqrt(np.mean(np.square(np.asarray(jax.jit(conv)(x, kernel)) - exact)))

    assert error(cook_toom.conv) < times * error(plain_conv)


def plain_conv_in_float64(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """'same' convolution, tap by tap."""
    half = kernel.shape[0] // 2
    padded = np.pad(x.astype(np.float64), ((0, 0), (half, half), (half, half), (0, 0)))
    height, width = x.shape[1:3]
    return sum(
        padded[:, i : i + height, j : j + width] @ kernel[i, j].astype(np.float64)
        for i in range(kernel.shape[0])
        for j in range(kernel.shape[1])
    )


def exported(function, *arguments, platform: str) -> str:
    """The program that JAX, on this CPU, makes of a function for a platform."""
    return jax.export.export(jax.jit(function), platforms=[platform])(*arguments).mlir_module()


def test_the_platform_of_the_program_decides():
    x, kernel = random(1, 32, 32, 32), random(3, 3, 32, 32)

    def gradients(x, kernel):
        return jax.grad(lambda x, kernel: ops.conv(x, kernel).sum(), argnums=(0, 1))(x, kernel)

    for function, num_plain in ((ops.conv, 1), (gradients, 2)):
        on_gpu = exported(function, x, kernel, platform="cuda")
        assert on_gpu.count("stablehlo.convolution") == num_plain
        assert exported(function, x, kernel, platform="tpu").count("stablehlo.convolution") == (
            num_plain
        )
        # Cook-Toom computes six products of one row each.
        on_cpu = exported(function, x, kernel, platform="cpu")
        assert on_cpu.count("stablehlo.convolution") >= 6


def test_plain_gradients_equal_those_of_lax():
    x, kernel, cotangent = random(1, 9, 8, 4), random(3, 3, 4, 5), random(1, 9, 8, 5, seed=3)
    expected = jax.vjp(lambda x, kernel: plain_conv(x, kernel, 2), x, kernel)[1](cotangent)
    for ours, theirs in zip(
        convolution._plain_gradients(x, kernel, cotangent, 2), expected, strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
@pytest.mark.parametrize("shape", [(64, 64, 3, 16, 7), (32, 32, 32, 32, 3), (4, 4, 256, 256, 3)])
def test_the_batch_size_may_be_symbolic(platform, shape):
    height, width, channels, features, side = shape
    (batch,) = jax.export.symbolic_shape("batch")
    x = jax.ShapeDtypeStruct((batch, height, width, channels), jnp.float32)

    def forward(x, kernel, up_kernel):
        return ops.up_conv(ops.max_pool(ops.conv(x, kernel)), up_kernel)

    kernel, up_kernel = random(side, side, channels, features), random(2, 2, features, 4)
    program = jax.export.export(jax.jit(forward), platforms=[platform])(x, kernel, up_kernel)
    if platform == "cpu":
        real = random(3, height, width, channels)
        np.testing.assert_allclose(
            program.call(real, kernel, up_kernel),
            forward(real, kernel, up_kernel),
            rtol=1e-4,
            atol=1e-3,
        )


def test_conv_under_vmap_and_pmap():
    x, kernel = random(3, 1, 24, 24, 4), random(5, 5, 4, 6, seed=1)

    def gradients(conv):
        return jax.grad(lambda x, kernel: jnp.sum(jnp.sin(conv(x, kernel))), argnums=(0, 1))

    expected = jax.vmap(gradients(plain_conv), in_axes=(0, None))(x, kernel)
    batched = jax.vmap(gradients(ops.conv), in_axes=(0, None))(x, kernel)
    mapped = jax.pmap(gradients(ops.conv), in_axes=(0, None))(x[:1], kernel)
    for ours, one, theirs in zip(batched, mapped, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(one[0], theirs[0], rtol=1e-3, atol=1e-3)


def test_conv_in_bfloat16_keeps_its_dtype():
    x, kernel = random(2, 40, 32, 4), random(3, 3, 4, 8, seed=1)
    exact, pullback = jax.vjp(plain_conv, x, kernel)
    cotangent = random(*exact.shape, seed=9)
    half = [a.astype(jnp.bfloat16) for a in (x, kernel, cotangent)]
    rounded, half_pullback = jax.vjp(ops.conv, *half[:2])
    pairs = [(rounded, exact), *zip(half_pullback(half[2]), pullback(cotangent), strict=True)]
    for ours, theirs in pairs:
        assert ours.dtype == jnp.bfloat16
        scale = float(np.abs(theirs).max())
        np.testing.assert_allclose(ours.astype(jnp.float32), theirs, atol=0.03 * scale)


@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 4, 4, 8), (1, 2, 3, 8)])
def test_up_conv_equals_lax(shape):
    x, kernel = random(*shape), random(2, 2, shape[-1], 6, seed=1)

    def reference(x, kernel):
        # Keras's Conv2DTranspose is the gradient of a convolution: its kernel is (2, 2, out, in).
        return lax.conv_transpose(
            x,
            kernel.swapaxes(2, 3),
            strides=(2, 2),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            transpose_kernel=True,
        )

    assert_same(ops.up_conv, reference, x, kernel)


@pytest.mark.parametrize("shape", [(2, 6, 10, 3), (1, 2, 2, 1), (1, 16, 8, 5)])
def test_max_pool_equals_flax_ties_included(shape):
    values = np.random.default_rng(0).integers(0, 3, shape)  # most windows hold a tie
    x = jnp.asarray(values, jnp.float32)
    assert_same(ops.max_pool, lambda x: nn.max_pool(x, (2, 2), (2, 2)), x)
    assert_same(jax.jit(ops.max_pool), lambda x: nn.max_pool(x, (2, 2), (2, 2)), random(*shape))
