"""Overfits a few slices: does the network see what the labels of this dataset mean?

    python -m mbh_jax.main --config=configs/overfit.py --config.data.dir=data/sample
    python -m mbh_jax.main --workdir=runs/overfit --mode=evaluate

The Dice of the training slices should come near 1; the Dice of other slices means nothing. The
network is the quickstart's at 256 x 256, without augmentation and dropout. It is evaluated on the
volumes that it was trained on.
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    """The quickstart's recipe without what works against overfitting, such as augmentation."""
    config = quickstart.get_config()
    config.data.dir = "data/sample"
    config.data.image_size = 256
    config.model.dropout_rate = 0.0
    config.augment = ConfigDict({"name": "none"})

    # Lesions of a few pixels: classes that a batch lacks must not push down those that it holds.
    config.loss.dice_smooth = 1e-5
    config.optimizer.learning_rate = 2e-3
    config.train.num_epochs = 180
    config.train.preview_slices = 0
    config.eval.split = "train"
    config.eval.checkpoint = "last"
    return config
