"""Images and labels in files of volumes: NIfTI, also in a zip, MetaImage and NRRD."""

from pathlib import Path, PurePosixPath

import numpy as np

from data_prep.sources.files import SourceFile
from mbh_jax.errors import UserError
from mbh_jax.imageio import nifti, stored
from mbh_jax.imageio.readers import READERS, suffix_of
from mbh_jax.imageio.stored import Header
from mbh_jax.imageio.volume import Volume

_IN_ZIPS = (".nii.gz", ".nii")


def read_image(file: SourceFile) -> tuple[Volume, Header]:
    """Reads a CT in the program's orientation, and its header, to compare with the label's.

    Raises:
        UserError: as `mbh_jax.imageio.stored.to_volume`, or the file cannot be read.
    """
    header, voxels = _read_stored(file)
    return stored.to_volume(header, voxels, file.name), header


def read_label(
    file: SourceFile, image: Header, *, ignore: int | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Reads the label volume of an image.

    Arguments, returned values and errors are those of `mbh_jax.imageio.stored.to_label_like`.
    """
    return stored.to_label_like(*_read_stored(file), image, file.name, ignore=ignore)


def _read_stored(file: SourceFile) -> tuple[Header, np.ndarray]:
    suffix = suffix_of(PurePosixPath(file.path))
    if suffix in _IN_ZIPS:
        with file.open() as stream:
            return nifti.read_stored(stream, file.name)
    if file.archive:
        raise UserError(
            f"{file.name}: of a zip only NIfTI and PNG are read: unpack it and give the folder"
        )
    return READERS[suffix](Path(file.path))
