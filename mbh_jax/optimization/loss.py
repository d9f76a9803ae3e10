"""What a loss is: additive statistics of examples, and an objective of their sums."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax

Statistics = Mapping[str, jax.Array]


class Loss(NamedTuple):
    """A loss as additive statistics and an objective of their sums.

    Attributes:
        statistics: `(logits (B,H,W,K) float32, label (B,H,W) int) -> {name: (B, ...) float32}`.
        objective: `{name: (...) float32, "examples": () float32} -> () float32`; its argument holds
            the statistics summed over examples and the number of examples.
        linear: the objective is linear in the statistics for a given number of examples: its
            gradient with respect to them is known before they are.
    """

    statistics: Callable[[jax.Array, jax.Array], dict[str, jax.Array]]
    objective: Callable[[Statistics], jax.Array]
    linear: bool
