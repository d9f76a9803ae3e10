"""The layers with weights of a network, from the fields of `config.model` by its rules.

They are written down again here, apart from `mbh_jax.models`, so that a benchmark compares every
implementation with something else than itself. Only NumPy and the standard library are needed.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Layer(NamedTuple):
    """One layer with weights: `kind` is "conv" or "up"; kernels are (k, k, channels, features)."""

    name: str
    kind: str
    kernel_shape: tuple[int, int, int, int]
    level: int
    """How often the layer's output has been halved."""
    dilation: int = 1
    dropout_rate: float = 0.0
    """Rate of the dropout that follows the layer; 0: none."""
    is_hidden: bool = True
    """Whether a normalisation follows, if the network has one; FlexUNet has an activation too."""
    has_bias: bool = True


def layers_of(network: Mapping[str, Any], channels: int, num_classes: int) -> list[Layer]:
    """The layers in the order of the computation.

    Args:
        network: the fields of `config.model`.
        channels: of the input.
        num_classes: of the output.
    """
    rules = {"flexunet": _flexunet, "nnunet": _nnunet}
    return rules[network["name"]](network, channels, num_classes)


def _flexunet(network: Mapping[str, Any], channels: int, num_classes: int) -> list[Layer]:
    last = network["num_layers"] - 1
    filters = [network["base_filters"] * 2**i for i in range(last + 1)]
    patch = network["patch_size"] ** 2

    def block(name: str, i: int, channels: int) -> list[Layer]:
        side = max(network["base_kernel"] - 2 * i, 3)
        dilation = max(network["dilation"] - i, 1)
        first = (side, side, channels, filters[i])
        second = (side, side, filters[i], filters[i])
        return [
            Layer(f"{name}/conv_0", "conv", first, i, dilation, network["dropout_rate"] * i),
            Layer(f"{name}/conv_1", "conv", second, i, dilation),
        ]

    found = []
    for i in range(last):
        found += block(f"encoder_{i}", i, filters[i - 1] if i else channels * patch)
    found += block("bridge", last, filters[last - 1] if last else channels * patch)
    for i in reversed(range(last)):
        shape = (2, 2, filters[i + 1], filters[i])
        found.append(Layer(f"up_{i}", "up", shape, i, is_hidden=False))
        found += block(f"decoder_{i}", i, 2 * filters[i])
    shape = (1, 1, filters[0], num_classes * patch)
    return [*found, Layer("logits", "conv", shape, 0, is_hidden=False)]


def _nnunet(network: Mapping[str, Any], channels: int, num_classes: int) -> list[Layer]:
    """nnU-Net's PlainConvUNet or ResidualEncoderUNet in 2D, with a head at full resolution."""
    stages = network["num_stages"]
    filters = [min(network["base_filters"] * 2**i, network["max_filters"]) for i in range(stages)]
    is_residual = network["encoder"] == "residual"

    def conv(name: str, i: int, channels: int, side: int = 3, has_bias: bool = True) -> Layer:
        shape = (side, side, channels, filters[i])
        return Layer(f"{name}/conv", "conv", shape, i, has_bias=has_bias)

    found = []
    if is_residual:
        found.append(conv("stem", 0, channels))
        channels = filters[0]
    for i in range(stages):
        for block in range((1, 3, 4, 6)[min(i, 3)] if is_residual else 2):
            name = f"encoder_{i}/block_{block}" if is_residual else f"encoder_{i}/conv_{block}"
            if not is_residual:
                found.append(conv(name, i, channels))
            else:
                if channels != filters[i]:
                    found.append(conv(f"{name}/skip", i, channels, side=1, has_bias=False))
                found.append(conv(f"{name}/conv_0", i, channels))
                found.append(conv(f"{name}/conv_1", i, filters[i]))
            channels = filters[i]
    for i in reversed(range(stages - 1)):
        shape = (2, 2, filters[i + 1], filters[i])
        found.append(Layer(f"up_{i}", "up", shape, i, is_hidden=False))
        found.append(conv(f"decoder_{i}/conv_0", i, 2 * filters[i]))
        if not is_residual:
            found.append(conv(f"decoder_{i}/conv_1", i, filters[i]))
    shape = (1, 1, filters[0], num_classes)
    return [*found, Layer("logits", "conv", shape, 0, is_hidden=False)]
