"""Augmentation of slices on the device, inside the compiled step.

What happens to an example depends on its own PRNG key alone, so that the result does not depend on
how the batch is ordered or divided over devices. `create_augmentation` makes what a configuration
names.
"""

from mbh_jax.data.augmentation.registry import (
    AUGMENTATIONS,
    Augmentation,
    create_augmentation,
)

__all__ = ["AUGMENTATIONS", "Augmentation", "create_augmentation"]
