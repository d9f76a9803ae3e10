"""The cases of a dataset that a report shows."""

import numpy as np
from etils import epath

from mbh_jax.data.loader import Loader
from mbh_jax.imageio import nifti
from mbh_jax.reporting.report.cases import CaseImages


def case_images(
    loader: Loader, examples: np.ndarray, masks_dir: epath.Path, case: str
) -> CaseImages:
    """A case of the dataset with its mask, read back from where they were written."""
    index = loader.index
    number = next(v for v, volume in enumerate(index.volumes) if volume.volume_id == case)
    hu, reference = loader.read_slices(examples[index.volume[examples] == number])
    path = masks_dir / f"{case}.nii.gz"
    with path.open("rb") as stream:
        prediction, _ = nifti.read_label(stream, str(path))
    return CaseImages(hu, reference, prediction)
