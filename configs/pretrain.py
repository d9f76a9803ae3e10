"""Teaches strong_small.py's network on phantoms, before it sees a real scan.

    python -m data_prep.phantom --output data/raw/teachers --num_volumes 384 --seed 11 --size 256 \\
        --prevalence varied --workers 2
    python -m data_prep.build_tfrecords --source data/raw/teachers --output data/teachers \\
        --split patient:0.96,0.02,0.02
    python -m mbh_jax.main --config=configs/pretrain.py --workdir=runs/pretrain
    python -m mbh_jax.main --config=configs/strong_small.py --workdir=runs/small \\
        --config.data.dir=data/bhsd --init_from=runs/pretrain

The phantoms show all five kinds of blood equally often, as faint and as small as real bleeds.
The weights that come with the package (`--init_from=phantom`) were made by the first three commands
and `python -m mbh_jax.export --model=runs/pretrain --output=phantom.zip --checkpoint last`.
benchmarks/RESULTS.md has what such a network finds on real slices, before and after it has seen
some.
"""

from ml_collections import ConfigDict

from configs import strong_small


def get_config() -> ConfigDict:
    """The recipe of strong_small.py on phantoms."""
    config = strong_small.get_config()
    config.data.dir = "data/teachers"
    # Fewer epochs of more steps: there are many slices to validate on.
    config.train.num_epochs = 12
    config.train.steps_per_epoch = 500
    config.train.preview_slices = 0
    return config
