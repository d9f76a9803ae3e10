"""Networks, by name: `create_model` makes any of them."""

from mbh_jax.models.registry import NETWORKS, create_model, size_divisor

__all__ = ["NETWORKS", "create_model", "size_divisor"]
