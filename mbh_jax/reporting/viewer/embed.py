"""A scan and its mask as a page holds them: cropped to the head, small enough, as NIfTI in text."""

import base64
import gzip
from typing import NamedTuple

import nibabel
import numpy as np
from scipy import ndimage

MAX_EMBEDDED_BYTES = 26 << 20
"""Most characters of a scan in a page, which is then at most 30 MB with the viewer's 2.3 MB."""

HEAD_HU = -300
"""What is above is no air, and no foam of a head rest."""

MARGIN_MM = 10.0
"""Air that is kept around the head."""


class Grid(NamedTuple):
    """A scan and its mask on one grid.

    Attributes:
        hu: (slices, rows, columns) int16, Hounsfield units.
        mask: of the same shape, uint8 label values.
        affine: (4, 4), voxel (column, row, slice) to RAS+ mm.
        spacing_mm: (3,), distance of neighbouring columns, rows and slices.
    """

    hu: np.ndarray
    mask: np.ndarray
    affine: np.ndarray

    @property
    def spacing_mm(self) -> np.ndarray:
        """(3,), distance of neighbouring columns, rows and slices."""
        return nibabel.affines.voxel_sizes(self.affine)


class Embedded(NamedTuple):
    """What a page holds.

    Attributes:
        image, mask: NIfTI, gzip, base64.
        rows, columns: first and last row and column of the scan that are in it, from 0.
        is_halved: whether rows and columns have half the scan's resolution.
    """

    image: str
    mask: str
    rows: tuple[int, int]
    columns: tuple[int, int]
    is_halved: bool


def embed(grid: Grid, *, max_bytes: int = MAX_EMBEDDED_BYTES) -> Embedded | None:
    """Text of a scan and its mask; None where it is longer than `max_bytes` at half resolution."""
    rows, columns = head_box(grid)
    cropped = crop(grid, rows, columns)
    for is_halved in (False, True):
        shown = halve(cropped) if is_halved else cropped
        image = nifti_text(shown.hu, shown.affine)
        if len(image) <= max_bytes:
            mask = nifti_text(shown.mask, shown.affine)
            return Embedded(image, mask, _ends(rows), _ends(columns), is_halved)
    return None


def head_box(grid: Grid) -> tuple[slice, slice]:
    """Rows and columns that hold the head, with a margin, and all of the mask.

    The head is the largest connected body above `HEAD_HU`, so that a table is not in the way. All
    rows and columns where there is none.
    """
    # Every second row and column are enough, and four times as fast.
    bodies, number = ndimage.label(grid.hu[:, ::2, ::2] > HEAD_HU)
    shape = grid.hu.shape[1:]
    if not number:
        return slice(0, shape[0]), slice(0, shape[1])
    largest = int(np.bincount(bodies.ravel())[1:].argmax()) + 1
    inside = (bodies == largest).any(axis=0).repeat(2, 0).repeat(2, 1)[: shape[0], : shape[1]]
    inside |= grid.mask.any(axis=0)
    boxes = []
    for axis, spacing_mm in ((0, grid.spacing_mm[1]), (1, grid.spacing_mm[0])):
        found = np.flatnonzero(inside.any(axis=1 - axis))
        margin = int(np.ceil(MARGIN_MM / spacing_mm))
        first, last = int(found[0]) - margin, int(found[-1]) + margin
        boxes.append(slice(max(first, 0), min(last + 1, shape[axis])))
    return boxes[0], boxes[1]


def crop(grid: Grid, rows: slice, columns: slice) -> Grid:
    """The part of a grid in some rows and columns; every voxel stays where it is in the patient."""
    affine = grid.affine.copy()
    affine[:, 3] = grid.affine @ (columns.start, rows.start, 0, 1)
    return Grid(grid.hu[:, rows, columns], grid.mask[:, rows, columns], affine)


def halve(grid: Grid) -> Grid:
    """A grid with half the rows and columns.

    Four pixels become their mean HU. If any of them is blood, all are: the most frequent kind, of
    equals that with the lowest label value, so that a lesion of one pixel does not disappear.
    """
    slices, rows, columns = grid.hu.shape
    padding = ((0, 0), (0, rows % 2), (0, columns % 2))
    hu, mask = np.pad(grid.hu, padding, "edge"), np.pad(grid.mask, padding, "edge")
    blocks = slices, hu.shape[1] // 2, 2, hu.shape[2] // 2, 2
    mean = np.rint(hu.reshape(blocks).mean(axis=(2, 4), dtype=np.float32)).astype(np.int16)
    halved, most = np.zeros(mean.shape, np.uint8), np.zeros(mean.shape, np.uint8)
    for value in np.unique(mask[mask > 0]):
        count = (mask == value).reshape(blocks).sum(axis=(2, 4), dtype=np.uint8)
        halved[count > most] = value
        most = np.maximum(most, count)
    affine = grid.affine.copy()
    affine[:, 3] = grid.affine @ (0.5, 0.5, 0, 1)
    affine[:, :2] *= 2
    return Grid(mean, halved, affine)


def nifti_text(array: np.ndarray, affine: np.ndarray) -> str:
    """An array (slices, rows, columns) as base64 of a gzipped NIfTI file; no time stands in it."""
    image = nibabel.Nifti1Image(array.transpose(2, 1, 0), affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code="scanner")
    # A quaternion cannot hold the shear of a gantry tilt.
    image.set_qform(None, code="unknown")
    return base64.b64encode(gzip.compress(image.to_bytes(), 6, mtime=0)).decode()


def _ends(part: slice) -> tuple[int, int]:
    return part.start, part.stop - 1
