"""Programs compiled with the options of their platform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mbh_jax.runtime import xla


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


X, KERNEL = jnp.ones((1, 32, 32, 32)), jnp.ones((3, 3, 32, 32))


def test_convolutions_are_not_left_to_a_library_that_uses_one_core() -> None:
    compiled = xla.compile_lowered(jax.jit(convolve).lower(X, KERNEL))
    assert "convolution(" in compiled.as_text()
    assert "ynn" not in compiled.as_text()
    np.testing.assert_allclose(compiled(X, KERNEL), convolve(X, KERNEL))


def test_an_option_that_xla_lacks_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xla, "CPU_OPTIONS", {"xla_cpu_of_another_version": True})
    compiled = xla.compile_lowered(jax.jit(convolve).lower(X, KERNEL))
    assert compiled(X, KERNEL).shape == X.shape


def test_one_program_for_each_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    lowered = []

    def compile_and_count(program: jax.stages.Lowered) -> jax.stages.Compiled:
        lowered.append(program)
        return program.compile()

    monkeypatch.setattr(xla, "compile_lowered", compile_and_count)
    double = xla.CompiledWhenCalled(jax.jit(lambda tree: tree["x"] * 2))
    for size in (2, 3, 2, 3):
        np.testing.assert_array_equal(double({"x": jnp.arange(size)}), 2 * np.arange(size))
    assert len(lowered) == 2


def test_numpy_arrays_are_taken() -> None:
    double = xla.CompiledWhenCalled(jax.jit(lambda x, y: x * y))
    np.testing.assert_array_equal(double(np.arange(3), jnp.arange(3)), [0, 1, 4])
