"""Probabilities of all classes on disk, as nnU-Net writes them: one NumPy archive a scan."""

import zipfile
from pathlib import Path

import numpy as np

from mbh_jax import files
from mbh_jax.imageio.volume import Volume, turn_to_stored

MEMBER = "probabilities"
"""Name of the array in the archive."""

_ZIP_LEVEL = 1
"""Higher levels take several times as long for a few per cent of the size."""


def write_probabilities(path: Path, probabilities: np.ndarray, like: Volume) -> None:
    """Writes probabilities in the orientation that `like` was stored in; `numpy.load` reads them.

    The array "probabilities" is float16 and has the axes (class, k, j, i), where (i, j, k) are the
    axes of the stored image as nibabel shows it: nnU-Net and SimpleITK have this order.

    Args:
        path: ends in .npz; replaced only once the new file is whole.
        probabilities: (K, slices, rows, columns) in the program's orientation.
        like: the volume that they belong to.
    """
    with (
        files.atomic_path(path) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=_ZIP_LEVEL) as archive,
        archive.open(f"{MEMBER}.npy", "w", force_zip64=True) as file,
    ):
        for label, one_class in enumerate(probabilities):
            # One class at a time, so that there is no second copy of all of them.
            stored, _ = turn_to_stored(one_class, like.affine, like.stored_axcodes)
            turned = np.ascontiguousarray(stored.transpose(2, 1, 0), "<f2")
            if label == 0:
                shape = (len(probabilities), *turned.shape)
                header = {"descr": "<f2", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(turned.tobytes())
