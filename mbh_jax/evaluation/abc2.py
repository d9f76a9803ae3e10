"""The ABC/2 estimate of a lesion's volume, which people make by hand with a ruler.

It is for comparison with what was measured so: the voxels' own volume is exact where ABC/2 takes
every lesion for an ellipsoid, which SDH, SAH and IVH are not.
"""

import numpy as np

from mbh_jax.imageio.volume import affine_spacing_mm, pixel_area_mm2, voxel_volume_ml

WHOLE_SLICE_SHARE = 0.75
"""A slice whose area is more than this share of the largest slice's counts whole."""

HALF_SLICE_SHARE = 0.25
"""One with at least this share counts half, and one with less not at all."""


def abc2_ml(lesion: np.ndarray, affine: np.ndarray, slice_mm: np.ndarray | None = None) -> float:
    """The ABC/2 estimate of one lesion in mL.

    A is the largest diameter in the slice where the lesion is largest, B the largest width at right
    angles to it in that slice, and C the thickness of the slices, of which those at the ends count
    half or not at all (`WHOLE_SLICE_SHARE`, `HALF_SLICE_SHARE`).

    Source: Kothari et al., Stroke 27 (1996) 1304-1305.

    Args:
        lesion: (slices, rows, columns) bool, not empty.
        affine: (4, 4), voxel (column, row, slice) to RAS+ mm.
        slice_mm: (slices,), thickness of each slice where they are not evenly spaced; by the affine
            unless given.
    """
    column_mm, row_mm, _ = affine_spacing_mm(affine)
    areas = lesion.sum(axis=(1, 2))
    largest = lesion[int(areas.argmax())]
    # The first and last pixel of each row: those between them are no further out.
    used = np.flatnonzero(largest.any(1))
    last = largest.shape[1] - 1 - largest[used, ::-1].argmax(1)
    rows, columns = np.tile(used, 2), np.concatenate([largest[used].argmax(1), last])
    # Corners of the pixels, so that a lesion of one pixel has a diameter.
    corners = np.concatenate(
        [
            np.stack([(columns + x) * column_mm, (rows + y) * row_mm], 1)
            for x in (0, 1)
            for y in (0, 1)
        ]
    )
    angles = np.deg2rad(np.arange(0, 180, 3))
    directions = np.stack([np.cos(angles), np.sin(angles)])
    along = corners @ directions
    widths = along.max(0) - along.min(0)
    longest = int(widths.argmax())
    a_mm = widths[longest]
    b_mm = widths[(longest + len(angles) // 2) % len(angles)]
    share = areas / areas.max()
    counted = np.where(share > WHOLE_SLICE_SHARE, 1.0, np.where(share >= HALF_SLICE_SHARE, 0.5, 0))
    if slice_mm is None:
        slice_mm = np.full(len(lesion), voxel_volume_ml(affine) * 1000 / pixel_area_mm2(affine))
    return float(a_mm * b_mm * (counted @ slice_mm) / 2 / 1000)
