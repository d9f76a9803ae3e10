"""Networks by name. A new one is a module that declares an `Architecture`, and a line here."""

import flax.linen as nn
import jax.numpy as jnp
from ml_collections import ConfigDict

from mbh_jax.models import flexunet, nnunet
from mbh_jax.models.architecture import Architecture

NETWORKS: dict[str, Architecture] = {
    "flexunet": flexunet.ARCHITECTURE,
    "nnunet": nnunet.ARCHITECTURE,
}
"""What `model.name` may be."""


def create_model(
    config: ConfigDict, num_classes: int, axis_name: str | None = None, num_slices: int = 1
) -> nn.Module:
    """The network that the section "model" of a configuration describes.

    Args:
        config: `name`, and the keys of that network's architecture.
        num_classes: channels of the logits.
        axis_name: device axis that batch statistics are taken over under pmap, or None.
        num_slices: slices that are channels of the input, the predicted one in the middle.
    """
    fields = {key: value for key, value in config.items() if key != "name"}
    if "dtype" in fields:
        fields["dtype"] = jnp.dtype(fields["dtype"])
    if "slice_fusion" in fields:
        fields["num_slices"] = num_slices
    create = NETWORKS[config.name].create
    return create(num_classes=num_classes, axis_name=axis_name, **fields)


def size_divisor(config: ConfigDict) -> int:
    """What must divide both sides of the images that the section "model" is used with."""
    return NETWORKS[config.name].size_divisor(config)
