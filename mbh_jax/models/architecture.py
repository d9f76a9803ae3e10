"""What a network declares, so that a configuration can name it."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import flax.linen as nn
from ml_collections import ConfigDict

from mbh_jax.keys import Key


def _no_problem(config: ConfigDict) -> str | None:
    del config
    return None


def _never(config: ConfigDict) -> bool:
    del config
    return False


class Architecture(NamedTuple):
    """A network that a configuration can name.

    The module that `create` makes takes an image (B, H, W, S * C), the C windows of each of S
    neighbouring slices, the first slice's first, and `train`, `weight` and
    `dropout_keys`, as `FlexUNet` does, and returns float32 logits (B, H, W, num_classes); in
    training, if it has a key "deep_supervision" that is on, a tuple of them at full, half, ...
    resolution. Its last layers have names that begin with "logits". What it needs of a device's
    memory is read from the compiled training step (`mbh_jax.training.memory`), and is not declared
    here.

    Attributes:
        create: makes the module of its keys' values, `num_classes` and `axis_name`; if it has a
            key "slice_fusion" also of `num_slices`, which is S.
        keys: its own keys in the section "model".
        meaning: what it is, for the documentation.
        size_divisor: of the section "model": what must divide both sides of an image.
        problem: of the section "model": what is wrong with a combination of valid values, or None.
        without_influence: of `keys`, those that change neither weights nor results, only memory and
            time; they may change when a run is resumed.
        has_batch_statistics: of the section "model": whether results depend on how a batch is
            divided into microbatches.
    """

    create: Callable[..., nn.Module]
    keys: Mapping[str, Key]
    meaning: str
    size_divisor: Callable[[ConfigDict], int]
    problem: Callable[[ConfigDict], str | None] = _no_problem
    without_influence: tuple[str, ...] = ()
    has_batch_statistics: Callable[[ConfigDict], bool] = _never
