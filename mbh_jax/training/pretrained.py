"""Weights that come with the package, by the names that `--init_from` and `--model` take."""

from importlib import resources

from etils import epath

from mbh_jax import files

PRETRAINED = {"phantom": "phantom.zip"}
"""Bundles in this folder. `phantom` is the network of configs/strong_small.py, trained by
configs/pretrain.py on generated heads alone: no patient's image is in it."""


def source_path(name: str, what: str) -> epath.Path:
    """The workdir or bundle that a user means: a path, or else a key of `PRETRAINED`.

    A file or folder of such a name goes before the weights of the package.

    Args:
        name: as it was given.
        what: what errors call it, such as "--init_from".

    Raises:
        UserError: see `mbh_jax.files.user_path`.
    """
    path = files.user_path(name, what)
    if name in PRETRAINED and not path.exists():
        return epath.Path(str(resources.files(__package__) / PRETRAINED[name]))
    return path
