"""FlexUNet as the TensorFlow project documents it: full size, categorical cross-entropy, Adam.

    python -m mbh_jax.main --config=configs/flexunet.py --workdir=runs/flexunet \\
        --config.data.dir=data/bhsd
    python -m mbh_jax.main --workdir=runs/flexunet --mode=evaluate

The batch size is 2. The learning rate starts at 5e-5 and is halved after 4 epochs without a better
validation loss; the run stops after 10 such epochs. Training and validation use the slices with
haemorrhage. The network has 124,557,126 parameters. Every other recipe starts from this one.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The whole configuration; docs/configuration.md explains each key."""
    return ConfigDict(
        {
            "seed": 0,
            "data": {
                "dir": "data/bhsd",
                "image_size": 512,
                "window": "hu_0_255",
                "slices": "blood",
                "sampling": "uniform",
                "empty_share": -1.0,
                "extra_dir": "",
                "extra_share": 0.5,
                "extra_share_end": 0.5,
                "crop_size": 0,
                "crop_blood_share": 0.5,
                "neighbours": 0,
                "neighbour_mm": 0.0,
                "resident": False,
            },
            "model": {
                "name": "flexunet",
                "base_filters": 16,
                "base_kernel": 7,
                "num_layers": 8,
                "dropout_rate": 0.05,
                "dilation": 1,
                "activation": "relu",
                "norm": "none",
                "attention": False,
                "patch_size": 1,
                "slice_fusion": "channels",
                "dtype": "float32",
                "remat": False,
            },
            "loss": {"name": "cross_entropy"},
            "optimizer": {
                "name": "adam",
                "learning_rate": 5e-5,
                "beta1": 0.9,
                "beta2": 0.999,
                "epsilon": 1e-7,
                "clip_value": 0.5,
                "clip_norm": 0.0,
                "schedule": "constant",
                "warmup_epochs": 0.0,
                "plateau_patience": 4,
                "plateau_factor": 0.5,
            },
            "augment": {
                "name": "basic",
                "flip": False,
                "rotation_degrees": 0.0,
                "scale": 0.0,
                "shift": 0.0,
                "hu_scale": 0.0,
                "hu_shift_hu": 0.0,
                "hu_noise_hu": 0.0,
            },
            "train": {
                "batch_size": 2,
                "accumulate_steps": 1,
                "steps_per_call": 1,
                "num_epochs": 100,
                "steps_per_epoch": 0,
                "ema_decay": 0.0,
                "early_stopping_patience": 10,
                "max_nonfinite_steps": 0,
                "log_every_steps": 20,
                "checkpoint_every_steps": 500,
                "preview_slices": 6,
            },
            "eval": {
                "split": "test",
                "slices": "all",
                "batch_size": 4,
                "checkpoint": "best",
            },
            "parallel": {"mode": "pmap"},
            "profile": {"steps": ""},
        }
    )
