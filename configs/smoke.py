"""A tiny network at 64 x 64 for two epochs: does everything run, on any dataset?

    python -m mbh_jax.main --config=configs/smoke.py --config.data.dir=data/phantom

It takes less than a minute on two cores, with the phantoms that launch/quickstart.sh generates.
"""

from ml_collections import ConfigDict

from configs import flexunet


def get_config() -> ConfigDict:
    """The original recipe with a tiny network."""
    config = flexunet.get_config()
    config.data.image_size = 64
    config.data.window = "brain_subdural_bone"
    config.model.base_filters = 4
    config.model.base_kernel = 3
    config.model.num_layers = 3
    config.optimizer.learning_rate = 1e-3
    config.train.batch_size = 8
    config.train.num_epochs = 2
    config.eval.batch_size = 8
    return config
