"""To find blood on a GPU: nnU-Net's residual-encoder network at 512 x 512, trained for BHSD.

    bash launch/bhsd.sh                                     # from download to a table, or:
    python -m mbh_jax.main --config=configs/strong.py --workdir=runs/strong \\
        --config.data.dir=data/bhsd

What it takes from nnU-Net v2: the network (eight stages, 140,025,130 parameters), deep supervision,
the sum of cross-entropy and batch Dice, SGD with Nesterov's momentum, the poly schedule and epochs
of 250 steps. What it does not: every kind of blood is drawn equally often, three windows are shown,
augmentation is that of strong_small.py, and the average of the weights is kept. It computes in
bfloat16.

It has not been trained on BHSD or on a GPU yet, so that neither its cost nor its Dice is known; on
two cores it was run on phantoms with fewer stages, to see that it works.
"""

from ml_collections import ConfigDict

from configs import flexunet


def get_config() -> ConfigDict:
    """nnU-Net's network and optimisation with another input, sampling and augmentation."""
    config = flexunet.get_config()
    config.data.window = "brain_blood_wide"
    config.data.slices = "all"
    config.data.sampling = "class_balanced"
    config.data.empty_share = 0.2

    config.model = ConfigDict(
        {
            "name": "nnunet",
            "encoder": "residual",
            "base_filters": 32,
            "max_filters": 512,
            "num_stages": 8,
            "deep_supervision": True,
            "slice_fusion": "channels",
            "dtype": "bfloat16",
            "remat": False,
        }
    )
    config.loss = ConfigDict({"name": "weighted_sum", "cross_entropy": 1.0, "dice": 1.0})
    config.optimizer = ConfigDict(
        {
            "name": "sgd",
            "learning_rate": 0.01,
            "momentum": 0.99,
            "nesterov": True,
            "weight_decay": 3e-5,
            "clip_value": 0.0,
            "clip_norm": 12.0,
            "schedule": "poly",
            "warmup_epochs": 0.0,
            "plateau_patience": 0,
            "plateau_factor": 0.5,
        }
    )
    config.augment = ConfigDict({"name": "strong", "spatial": True, "intensity": True})

    config.train.batch_size = 12
    config.train.num_epochs = 300
    config.train.steps_per_epoch = 250
    config.train.ema_decay = 0.999
    config.train.early_stopping_patience = 0
    config.eval.batch_size = 12
    return config
