"""What `mbh_jax.models.ops.lowering` gains over plain `jax.lax`, shape by shape.

    python -m benchmarks.conv_lowering --size 512 --batch 2
    python -m benchmarks.conv_lowering --size 512 --batch 16 --dtype bfloat16    # on a GPU

One line for each convolution of an 8-level FlexUNet and each of its passes: the result, the input's
gradient and the kernel's. "plain" is `lax.conv_general_dilated`; "ours" what the network runs on
this platform; "space to depth", on maps of 128 x 128 and more, is `benchmarks.space_to_depth`. All
are compiled as the package compiles, and take turns; figures are medians.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks import common, space_to_depth
from mbh_jax.errors import one_line_errors
from mbh_jax.models import FlexUNet
from mbh_jax.models.ops import lowering
from mbh_jax.runtime import xla

Conv = Callable[[jax.Array, jax.Array], jax.Array]

SPACE_TO_DEPTH_SIDE = 128
"""On smaller maps channels are many."""

PASSES = ("result", "input", "kernel")
"""The result, and the gradients with respect to input and kernel."""

WAYS = ("plain", "ours", "space to depth")
"""Columns of the table."""


def plain_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """'same' convolution as `flax.linen.Conv` writes it."""
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def compute(
    conv: Conv, name: str, x: jax.Array, kernel: jax.Array, gradient: jax.Array
) -> jax.Array:
    """The result of `conv(x, kernel)`, or a gradient for the result's; `name` is of `PASSES`."""
    if name == "result":
        return conv(x, kernel)
    return jax.vjp(conv, x, kernel)[1](gradient)[PASSES.index(name) - 1]


def median_seconds(functions: dict[str, Callable], arguments: tuple, repeats: int) -> dict:
    """Median time of each function, all taking turns, after one that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for repeat in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function(*arguments))
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def convolutions(network: FlexUNet, size: int) -> list[tuple[int, int, int, int]]:
    """(map side, kernel side, channels, features) of each different convolution."""
    shapes = []
    for i in range(network.num_layers):
        filters, kernel_size, *_ = network.level(i)
        below = 3 if i == 0 else filters // 2
        inputs = [below, filters] + ([2 * filters] if i < network.num_layers - 1 else [])
        shapes += [(size >> i, kernel_size, channels, filters) for channels in inputs]
    return shapes


def measure(
    shape: tuple[int, int, int, int], batch: int, dtype: jnp.dtype, repeats: int
) -> list[list[str]]:
    """Lines of the table for one convolution."""
    side, kernel_size, channels, features = shape
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (batch, side, side, channels), dtype)
    kernel = jax.random.normal(keys[1], (kernel_size, kernel_size, channels, features), dtype)
    gradient = jax.random.normal(keys[2], (batch, side, side, features), dtype)
    gflop = 2e-9 * gradient.size * kernel.size / features
    convs: dict[str, Conv] = {"plain": plain_conv, "ours": lowering.conv}
    if side >= SPACE_TO_DEPTH_SIDE:
        convs["space to depth"] = space_to_depth.conv
    lines = []
    for name in PASSES:
        functions = {
            way: xla.compile_when_called(jax.jit(functools.partial(compute, conv, name)))
            for way, conv in convs.items()
        }
        seconds = median_seconds(functions, (x, kernel, gradient), repeats)
        lines.append(
            [
                f"{side} x {side}",
                f"{kernel_size} x {kernel_size}",
                f"{channels} -> {features}",
                name,
                *(f"{1000 * seconds[way]:.2f}" if way in seconds else "-" for way in WAYS),
                f"{gflop / seconds['ours']:.0f}",
                f"{seconds['plain'] / seconds['ours']:.1f}",
            ]
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--base_filters", type=int, default=16)
    parser.add_argument("--levels", type=int, default=8, help="how many, from the first")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args(arguments)
    with one_line_errors():
        network = FlexUNet(6, base_filters=chosen.base_filters, num_layers=chosen.levels)
        print(common.describe_machine(common.machine(), common.versions("jax", "jaxlib")))
        print(f"{jax.devices()[0].device_kind}, batch {chosen.batch}, {chosen.dtype}\n")
        header = ["map", "kernel", "channels", "pass"]
        columns = [*(f"{way}, ms" for way in WAYS), "ours, GFLOP/s", "plain / ours"]
        print(common.table([*header, *columns], []))
        for shape in convolutions(network, chosen.size):
            for line in measure(shape, chosen.batch, jnp.dtype(chosen.dtype), chosen.repeats):
                print("| " + " | ".join(line) + " |", flush=True)


if __name__ == "__main__":
    main()
