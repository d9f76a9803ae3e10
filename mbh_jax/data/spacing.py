"""The spacing of the scans that a network is trained on, to tell a scan that is unlike them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mbh_jax.data.schema import VolumeFacts
from mbh_jax.imageio.volume import affine_spacing_mm, pixel_area_mm2, voxel_volume_ml


class Lengths(NamedTuple):
    """Lengths of a volume, or names of them.

    Attributes:
        pixel_mm: the side of a pixel.
        slice_mm: the distance of neighbouring slices along their normal.
        field_mm: the greater side of a slice, all its pixels together. Slices are resized to the
            network's image size, so that it decides how large a head looks to the network.
    """

    pixel_mm: float
    slice_mm: float
    field_mm: float


class Spread(NamedTuple):
    """Least, median and greatest of a length in mm over volumes."""

    least: float
    median: float
    greatest: float


class TrainingSpacing(NamedTuple):
    """The `Lengths` that a network has seen, over the volumes of its training data."""

    pixel_mm: Spread
    slice_mm: Spread
    field_mm: Spread


def lengths(affine: np.ndarray, shape: Sequence[int]) -> Lengths:
    """The lengths of one volume.

    Args:
        affine: (4, 4), voxel (column, row, slice) to RAS+ mm.
        shape: slices, rows, columns.
    """
    column_mm, row_mm, _ = affine_spacing_mm(affine)
    area_mm2 = pixel_area_mm2(affine)
    return Lengths(
        float(np.sqrt(area_mm2)),
        voxel_volume_ml(affine) * 1000 / area_mm2,
        float(max(column_mm * shape[2], row_mm * shape[1])),
    )


def training_spacing(volumes: Iterable[VolumeFacts]) -> TrainingSpacing | None:
    """The spread over volumes; None where there is none whose millimetres are known."""
    found = [lengths(one.affine, one.shape) for one in volumes if one.spacing_known]
    if not found:
        return None
    pixel, between, field = (
        Spread(float(np.min(column)), float(np.median(column)), float(np.max(column)))
        for column in zip(*found, strict=True)
    )
    return TrainingSpacing(pixel, between, field)


def to_json(spacing: TrainingSpacing | None) -> dict[str, list[float]] | None:
    """Plain JSON of a spacing, which `from_json` reads."""
    return spacing and {name: [*spread] for name, spread in spacing._asdict().items()}


def from_json(value: Mapping[str, Sequence[float]] | None) -> TrainingSpacing | None:
    """The spacing of `to_json`'s value; None of None, as older runs have it.

    Raises:
        KeyError, TypeError: it is not what `to_json` gives.
    """
    if value is None:
        return None
    return TrainingSpacing(*(Spread(*value[name]) for name in TrainingSpacing._fields))
