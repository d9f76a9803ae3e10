"""To find blood with little: 256 x 256, a small network, ten minutes on two cores.

    python -m mbh_jax.main --config=configs/strong_small.py --workdir=runs/small \\
        --config.data.dir=data/bhsd

Beside what the quickstart has: every kind of blood is drawn equally often, with a fifth of slices
without blood; windows that pictures clamped to 0..255 HU fill too; a network that takes 2 x 2
pixels as one, which makes a step faster; strong augmentation; AdamW; the average of the weights.
benchmarks/RESULTS.md has what it reaches. With few scans start from `--init_from=phantom` and mix
phantoms in (docs/training.md, "With weights from generated heads"): of some 25 real slices alone it
soon knows some by heart, and then finds less in others.
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    """The quickstart's network and loss; another input, sampling, augmentation and optimizer."""
    config = quickstart.get_config()
    config.data.dir = "data/bhsd"
    config.data.image_size = 256
    config.data.window = "brain_blood_wide"
    config.data.sampling = "class_balanced"
    config.data.empty_share = 0.2

    config.model.patch_size = 2

    config.optimizer = ConfigDict(
        config.optimizer.to_dict() | {"name": "adamw", "weight_decay": 0.01, "learning_rate": 1e-3}
    )
    config.augment = ConfigDict({"name": "strong", "spatial": True, "intensity": True})

    config.train.num_epochs = 20
    config.train.steps_per_epoch = 100
    config.train.ema_decay = 0.99
    config.eval.checkpoint = "last"
    return config
