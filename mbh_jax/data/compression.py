"""Volumes as the records hold them: every slice a zlib stream. Imports no TensorFlow."""

import zlib
from dataclasses import dataclass

import numpy as np

from mbh_jax.data.schema import LabelledVolume, VolumeFacts

ZLIB_LEVEL = 4


@dataclass(frozen=True, eq=False, kw_only=True)
class CompressedVolume(VolumeFacts):
    """A labelled volume with compressed pixels.

    Attributes:
        pixels_per_class: (slices, classes) int64; zeros without voxel labels.
        images: a zlib stream of little-endian int16 HU for each slice.
        labels: a zlib stream of uint8 labels for each slice.
    """

    pixels_per_class: np.ndarray
    images: tuple[bytes, ...]
    labels: tuple[bytes, ...]


def compress(labelled: LabelledVolume) -> CompressedVolume:
    """Compresses a volume slice by slice."""
    return CompressedVolume(
        **labelled.facts,
        pixels_per_class=labelled.pixels_per_class,
        images=tuple(
            zlib.compress(plane.astype("<i2").tobytes(), ZLIB_LEVEL) for plane in labelled.hu
        ),
        labels=tuple(zlib.compress(plane.tobytes(), ZLIB_LEVEL) for plane in labelled.label),
    )
