"""What `mbh_jax.models.ops` gains over plain `jax.lax`, convolution by convolution.

    python -m benchmarks.conv_lowering --size 512 --batch 2
    python -m benchmarks.conv_lowering --size 512 --batch 16 --dtype bfloat16    # on a GPU

It prints one line for each convolution of the recipe's network and each of its passes: the output,
the gradient of the input and the gradient of the kernel. "plain" is `lax.conv_general_dilated`;
"ours" is what the network runs on this platform. Both are compiled with the package's XLA options
and are timed alternately; the figures are medians.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks import common
from benchmarks.workload import DTYPES, Workload
from mbh_jax.errors import one_line_errors
from mbh_jax.models import ops
from mbh_jax.runtime import xla

Conv = Callable[[jax.Array, jax.Array], jax.Array]

PASSES = ("output", "input", "kernel")
"""The output, and the gradients with respect to the input and the kernel."""


def plain_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A 'same' convolution as `flax.linen.Conv` computes it; shapes of `compute`."""
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def compute(
    conv: Conv, name: str, x: jax.Array, kernel: jax.Array, gradient: jax.Array
) -> jax.Array:
    """One pass of a convolution.

    Args:
        conv: the convolution.
        name: the pass, one of `PASSES`.
        x: (B, H, W, C).
        kernel: (k, k, C, F).
        gradient: (B, H, W, F), the gradient of the output.
    """
    if name == "output":
        return conv(x, kernel)
    return jax.vjp(conv, x, kernel)[1](gradient)[PASSES.index(name) - 1]


def median_seconds(functions: dict[str, Callable], arguments: tuple, repeats: int) -> dict:
    """Median seconds of functions called alternately; the first call of each is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for repeat in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function(*arguments))
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def convolutions(workload: Workload) -> list[tuple[int, int, int, int]]:
    """(map side, kernel side, channels, features) of each different convolution of a network."""
    shapes = [
        (workload.output_side(layer), *layer.kernel_shape[1:])
        for layer in workload.layers()
        if layer.is_hidden
    ]
    return list(dict.fromkeys(shapes))


def measure(
    shape: tuple[int, int, int, int], batch: int, dtype: jnp.dtype, repeats: int
) -> list[list[str]]:
    """The table's lines for one convolution: one line for each pass."""
    side, kernel_size, channels, features = shape
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (batch, side, side, channels), dtype)
    kernel = jax.random.normal(keys[1], (kernel_size, kernel_size, channels, features), dtype)
    gradient = jax.random.normal(keys[2], (batch, side, side, features), dtype)
    gflop = 2e-9 * gradient.size * kernel.size / features
    convs: dict[str, Conv] = {"plain": plain_conv, "ours": ops.conv}
    lines = []
    for name in PASSES:
        functions = {
            label: xla.CompiledWhenCalled(jax.jit(functools.partial(compute, conv, name)))
            for label, conv in convs.items()
        }
        seconds = median_seconds(functions, (x, kernel, gradient), repeats)
        lines.append(
            [
                f"{side} x {side}",
                f"{kernel_size} x {kernel_size}",
                f"{channels} -> {features}",
                name,
                f"{1000 * seconds['plain']:.2f}",
                f"{1000 * seconds['ours']:.2f}",
                f"{gflop / seconds['ours']:.0f}",
                f"{seconds['plain'] / seconds['ours']:.1f}",
            ]
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", default="flexunet", help="a module of configs/")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls (default: 5)")
    chosen = parser.parse_args(arguments)
    with one_line_errors():
        workload = Workload.from_recipe(
            chosen.recipe, "train", chosen.size, chosen.batch, chosen.dtype
        )
        print(common.describe_machine(common.machine(), common.versions("jax", "jaxlib")))
        print(f"{jax.devices()[0].device_kind}, batch {chosen.batch}, {chosen.dtype}\n")
        header = ["map", "kernel", "channels", "pass"]
        columns = ["plain, ms", "ours, ms", "ours, GFLOP/s", "plain / ours"]
        print(common.table([*header, *columns], []))
        for shape in convolutions(workload):
            for line in measure(shape, chosen.batch, jnp.dtype(chosen.dtype), chosen.repeats):
                print("| " + " | ".join(line) + " |", flush=True)


if __name__ == "__main__":
    main()
