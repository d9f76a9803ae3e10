"""Networks, by name: `create_model` is the one way in."""

import jax.numpy as jnp
from ml_collections import ConfigDict

from mbh_jax.models.flexunet import FlexUNet, size_divisor
from mbh_jax.models.layers import ACTIVATIONS, NORMS

__all__ = ["ACTIVATIONS", "MODELS", "NORMS", "FlexUNet", "create_model", "size_divisor"]

MODELS = {"flexunet": FlexUNet}
"""Network classes by their name in a configuration."""


def create_model(config: ConfigDict, num_classes: int, axis_name: str | None = None) -> FlexUNet:
    """The network that `config.model` describes.

    Args:
        config: `name`, and for "flexunet" its fields: base_filters, base_kernel, num_layers,
            dropout_rate, dilation, activation, norm, dtype ("float32" | "bfloat16") and remat.
        num_classes: channels of the logits.
        axis_name: device axis that batch statistics are taken over under pmap, or None.
    """
    fields = {key: value for key, value in config.items() if key != "name"}
    fields["dtype"] = jnp.dtype(fields["dtype"])
    return MODELS[config.name](num_classes=num_classes, axis_name=axis_name, **fields)
