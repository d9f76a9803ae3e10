"""Training and evaluation of multi-class brain-haemorrhage segmentation in CT, in JAX."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mbh_jax.inference.predictor import Predictor

__version__ = "0.1.0"


def load(*workdirs: Any, **options: Any) -> "Predictor":
    """The networks of one or several runs or bundles: see `mbh_jax.inference.loading.load`.

    mbh_jax.load("runs/quickstart").predict("scan.nii.gz").ml
    """
    from mbh_jax.inference import loading

    return loading.load(*workdirs, **options)
