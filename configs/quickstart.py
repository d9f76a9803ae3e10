"""What launch/quickstart.sh runs: phantom heads at 128 x 128, a few minutes on two cores.

    python -m mbh_jax.main --config=configs/quickstart.py --workdir=runs/quickstart

It shows what this project adds to the original recipe: three CT windows, batch normalisation, a
loss that counts haemorrhage, augmentation on the device, and training on healthy slices too. It is
not a recipe for BHSD.
"""

from ml_collections import ConfigDict

from configs import flexunet


def get_config() -> ConfigDict:
    """The original recipe, smaller, with another loss, input and augmentation."""
    config = flexunet.get_config()
    config.data.dir = "data/phantom"
    config.data.image_size = 128
    config.data.window = "brain_subdural_bone"
    config.data.slices = "all"

    config.model.base_kernel = 3
    config.model.num_layers = 5
    config.model.norm = "batch"

    config.loss = ConfigDict({"name": "cross_entropy_dice", "dice_weight": 1.0, "dice_smooth": 1.0})
    config.optimizer.learning_rate = 1.5e-3
    config.optimizer.clip_value = 0.0
    config.optimizer.clip_norm = 1.0
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_epochs = 0.5
    config.optimizer.plateau_patience = 0

    config.augment.flip = True
    config.augment.rotation_degrees = 10.0
    config.augment.scale = 0.1
    config.augment.shift = 0.05
    config.augment.hu_shift_hu = 2.0

    config.train.batch_size = 4
    config.train.num_epochs = 4
    config.train.early_stopping_patience = 0
    config.eval.batch_size = 16
    return config
