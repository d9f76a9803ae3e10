"""What `mbh_jax.models.lowering` gains over plain `jax.lax`, shape by shape.

    python -m benchmarks.conv_lowering [--size 512] [--batch 2] [--base_filters 16] [--repeats 5]

One line for each convolution of an 8-level FlexUNet: GFLOP/s of the result, the input's gradient
and the kernel's gradient, plain and ours, and how many times faster ours is. The two run in turn,
the first a warm-up; figures are medians, so that a busy machine slows both alike.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import jax
from jax import lax

from mbh_jax.models import FlexUNet, lowering

Conv = Callable[[jax.Array, jax.Array], jax.Array]


def plain_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """'same' convolution as `flax.linen.Conv` writes it."""
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def passes(conv: Conv) -> dict[str, Callable]:
    """The three computations of a training step, each `(x, kernel, gradient) -> array`."""
    return {
        "result": jax.jit(lambda x, kernel, gradient: conv(x, kernel)),
        "input": jax.jit(lambda x, kernel, gradient: jax.vjp(conv, x, kernel)[1](gradient)[0]),
        "kernel": jax.jit(lambda x, kernel, gradient: jax.vjp(conv, x, kernel)[1](gradient)[1]),
    }


def median_seconds(functions: dict[str, Callable], arguments: tuple, repeats: int) -> dict:
    """Median time of each function, all taking turns."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--base_filters", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    network = FlexUNet(num_classes=6, base_filters=options.base_filters)

    print(f"{jax.default_backend()}, jax {jax.__version__}; GFLOP/s plain -> ours (times faster)")
    for side, kernel_size, channels, features in convolutions(network, options.size):
        keys = jax.random.split(jax.random.key(0), 3)
        x = jax.random.normal(keys[0], (options.batch, side, side, channels))
        kernel = jax.random.normal(keys[1], (kernel_size, kernel_size, channels, features))
        gradient = jax.random.normal(keys[2], (options.batch, side, side, features))
        gflop = 2e-9 * gradient.size * kernel.size / features
        line = f"{side:4}x{side:<4} {kernel_size}x{kernel_size} {channels:5} -> {features:<5}"
        plain, ours = passes(plain_conv), passes(lowering.conv)
        for name in plain:
            functions = {"plain": plain[name], "ours": ours[name]}
            seconds = median_seconds(functions, (x, kernel, gradient), options.repeats)
            line += (
                f" {name} {gflop / seconds['plain']:4.0f} -> {gflop / seconds['ours']:<4.0f}"
                f" ({seconds['plain'] / seconds['ours']:4.1f})"
            )
        print(line, flush=True)


if __name__ == "__main__":
    main()
