"""What every implementation in a benchmark computes: network, task, batch and initial weights.

This module needs NumPy only, so that each framework can be installed in a separate environment.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from benchmarks.layers import Layer, layers_of

TASKS = ("train", "inference")
DTYPES = ("float32", "bfloat16")

_NETWORK_KEYS = {
    "flexunet": (
        "name",
        "base_filters",
        "base_kernel",
        "num_layers",
        "dropout_rate",
        "dilation",
        "activation",
        "norm",
        "patch_size",
    ),
    "nnunet": ("name", "encoder", "base_filters", "max_filters", "num_stages"),
}
_OPTIMIZER_KEYS = ("learning_rate", "beta1", "beta2", "epsilon", "clip_value", "clip_norm")


@dataclasses.dataclass(frozen=True)
class Workload:
    """One task at one image size and batch size.

    Attributes:
        task: "train" (loss, gradients, Adam) or "inference" (image to label map).
        recipe: module of `configs` that defines the network and the optimizer.
        size: side of the square image.
        batch: images a step, over all devices.
        dtype: dtype of the computation; the parameters are float32.
        network: the fields of `config.model` that change what is computed.
        optimizer: Adam's fields of `config.optimizer`; the learning rate is constant.
        num_classes: channels of the logits.
        channels: channels of the network's input.
        mode: "pmap" or "jit"; only `ours` uses it.
    """

    task: str
    recipe: str
    size: int
    batch: int
    dtype: str
    network: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    num_classes: int = 6
    channels: int = 3
    mode: str = "pmap"

    @classmethod
    def from_recipe(cls, recipe: str, task: str, size: int, batch: int, dtype: str) -> "Workload":
        """The workload of `configs/<recipe>.py` at another size and batch.

        Raises:
            UserError: the network cannot halve an image of that size often enough.
        """
        import importlib

        from configs import flexunet
        from mbh_jax import models
        from mbh_jax.errors import UserError

        config = importlib.import_module(f"configs.{recipe}").get_config()
        network = {key: config.model[key] for key in _NETWORK_KEYS[config.model.name]}
        # Adam, whatever the recipe has, so that all implementations have the same optimizer.
        adam = flexunet.get_config().optimizer.to_dict() | config.optimizer.to_dict()
        optimizer = {key: adam[key] for key in _OPTIMIZER_KEYS}
        divisor = models.NETWORKS[config.model.name].size_divisor(config.model)
        if size < 1 or size % divisor:
            raise UserError(f"size {size}: configs/{recipe}.py needs a multiple of {divisor}")
        return cls(task, recipe, size, batch, dtype, network, optimizer, mode=config.parallel.mode)

    def to_json(self) -> str:
        """A line that `from_json` reads."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Workload":
        """Reads what `to_json` wrote."""
        return cls(**json.loads(text))

    def layers(self) -> list[Layer]:
        """The layers with weights, in the order of the computation."""
        return layers_of(self.network, self.channels, self.num_classes)

    def num_parameters(self) -> int:
        """Number of trained parameters, counted from the layers' shapes."""
        has_norm = self.network.get("norm", "instance") != "none"
        return sum(
            int(np.prod(layer.kernel_shape))
            + layer.kernel_shape[3] * (layer.has_bias + 2 * (has_norm and layer.is_hidden))
            for layer in self.layers()
        )

    def flops(self) -> float:
        """Floating-point operations of a step, by the usual count for convolutions.

        A multiplication and its addition count as two operations. Training has three passes: the
        output, the input's gradient and the kernel's gradient; the first layer's input needs no
        gradient. Activations, normalisation and the optimizer are not counted.
        """
        total = 0.0
        for number, layer in enumerate(self.layers()):
            side = self.output_side(layer)
            products = 2.0 * self.batch * side * side * np.prod(layer.kernel_shape)
            if layer.kind == "up":
                products /= 4  # The 2 x 2 windows do not overlap: one tap for each output pixel.
            passes = 1 if self.task == "inference" else 2 if number == 0 else 3
            total += passes * products
        return total

    def output_side(self, layer: Layer) -> int:
        """Side of a layer's square output, in pixels."""
        return (self.size // self.network.get("patch_size", 1)) >> layer.level

    def weights(self) -> Iterator[tuple[Layer, np.ndarray]]:
        """Each layer's initial float32 kernel, the same for all; biases are zero."""
        for number, layer in enumerate(self.layers()):
            rng = np.random.default_rng(number)
            kernel = rng.standard_normal(layer.kernel_shape, np.float32)
            kernel *= np.float32(np.sqrt(2.0 / np.prod(layer.kernel_shape[:3])))
            yield layer, kernel

    def scans(self) -> np.ndarray:
        """(B, H, W, 1) int16 HU close to water (0), so that the untrained logits stay small."""
        rng = np.random.default_rng(1)
        return rng.integers(0, 4, (self.batch, self.size, self.size, 1), np.int16)

    def images(self) -> np.ndarray:
        """(B, H, W, channels) float32: `scans` after the window `hu_0_255`."""
        return np.repeat(self.scans().astype(np.float32), self.channels, axis=-1)

    def labels(self) -> np.ndarray:
        """(B, H, W) uint8 random classes."""
        rng = np.random.default_rng(2)
        shape = (self.batch, self.size, self.size)
        return rng.integers(0, self.num_classes, shape, np.uint8)
