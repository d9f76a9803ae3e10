"""Volumes as the records hold them: every slice a zlib stream. Imports no TensorFlow.

On 512 x 512 slices with scanner noise level 4 takes 8 ms a slice and 226 kB, level 6 takes 30 ms
for 225 kB, and 16-bit PNG 49 ms for 181 kB; zlib is read back in 2 ms and PNG in 4.4 ms.
"""

import zlib
from dataclasses import dataclass

import numpy as np

from mbh_jax.imageio.volume import LabelledVolume

ZLIB_LEVEL = 4


@dataclass(frozen=True, eq=False)
class CompressedVolume:
    """A labelled volume, axes and affine as in `mbh_jax.imageio.volume`.

    Attributes:
        shape: slices, rows, columns.
        affine: (4, 4) float64, voxel (column, row, slice) to RAS+ mm.
        pixels_per_class: (slices, classes) int64; zeros without voxel labels.
        images: a zlib stream of little-endian int16 HU for each slice.
        labels: a zlib stream of uint8 labels for each slice.
    """

    volume_id: str
    patient_id: str
    shape: tuple[int, int, int]
    affine: np.ndarray
    stored_axcodes: str
    has_label: bool
    case_label: str
    spacing_known: bool
    pixels_per_class: np.ndarray
    images: tuple[bytes, ...]
    labels: tuple[bytes, ...]


def compress(labelled: LabelledVolume) -> CompressedVolume:
    """Compresses a volume slice by slice."""
    volume = labelled.volume
    slices, rows, columns = volume.hu.shape
    return CompressedVolume(
        volume_id=labelled.volume_id,
        patient_id=labelled.patient_id,
        shape=(slices, rows, columns),
        affine=np.asarray(volume.affine, np.float64),
        stored_axcodes=volume.stored_axcodes,
        has_label=labelled.has_label,
        case_label=labelled.case_label,
        spacing_known=labelled.spacing_known,
        pixels_per_class=labelled.pixels_per_class,
        images=tuple(
            zlib.compress(plane.astype("<i2").tobytes(), ZLIB_LEVEL) for plane in volume.hu
        ),
        labels=tuple(zlib.compress(plane.tobytes(), ZLIB_LEVEL) for plane in labelled.label),
    )
