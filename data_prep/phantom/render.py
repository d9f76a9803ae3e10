"""From fields on the grid to a scan's slices: interpolation, slice thickness, labels."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy.ndimage

from data_prep.phantom import hounsfield
from data_prep.phantom.anatomy import Anatomy
from data_prep.phantom.bleeds import Bleeds
from data_prep.phantom.brain import Brain
from data_prep.phantom.fields import Resampler
from data_prep.phantom.plan import SAH
from data_prep.phantom.scan import SLAB_MM, Grid, Scan
from data_prep.phantom.shapes import FloatArray
from data_prep.phantom.skull import Face, Skull
from data_prep.phantom.tissue import AIR, CSF, ThinSlice, compose

THIN_SLICES = 3
"""Each slice is the mean of so many thin ones across its thickness."""
LABELLED_SHARE = 0.4
"""A voxel is labelled where blood fills at least this share of it."""
BONE_LIKE_HU = 400.0
"""Above this a voxel that holds some blood reads as bone and is not labelled."""
DRAWN_GAP_MM = 1.5
"""Half of the widest gap in subarachnoid blood that such labels cover."""


@dataclasses.dataclass(frozen=True)
class Rendering:
    """A scan before the scanner's own traces, as arrays (k, row, col).

    Attributes:
        hu: float32 HU.
        label: uint8 label values.
        tissue: uint8 index into `tissue.TISSUES`, without blood.
    """

    hu: FloatArray
    label: npt.NDArray[np.uint8]
    tissue: npt.NDArray[np.uint8]


def render(
    scan: Scan, grid: Grid, anatomy: Anatomy, bleeds: Bleeds, *, as_drawn: bool = False
) -> Rendering:
    """Samples every slice of a scan.

    Args:
        scan: where its slices are.
        grid: the fields' grid.
        anatomy: fields on the grid.
        bleeds: blood on the grid.
        as_drawn: label areas of subarachnoid blood together with the narrow gyri between, as people
            draw them.
    """
    shape = (scan.num_slices, scan.size, scan.size)
    hu = np.full(shape, hounsfield.AIR_HU, np.float32)
    label = np.zeros(shape, np.uint8)
    tissue = np.full(shape, AIR, np.uint8)
    rows = _span(scan.y_mm, grid.axes_mm[1])
    cols = _span(scan.x_mm, grid.axes_mm[2])
    resample = Resampler(grid.axes_mm, scan.y_mm[rows], scan.x_mm[cols])
    always = np.stack([*anatomy.skull, *anatomy.brain, *bleeds.borders.values()])
    in_face = np.stack(anatomy.face) if anatomy.face is not None else None
    face_top_mm = -np.inf if in_face is None else grid.axes_mm[0][in_face.shape[1] - 1]
    slab_mm = min(scan.spacing_mm, SLAB_MM)
    offsets_mm = ((np.arange(THIN_SLICES) + 0.5) / THIN_SLICES - 0.5) * slab_mm
    for k, z_mm in enumerate(scan.z_mm):
        thin = []
        for offset_mm in offsets_mm:
            here_mm = float(z_mm + offset_mm)
            planes = iter(resample(always, here_mm))
            skull = Skull._make(next(planes) for _ in Skull._fields)
            brain = Brain._make(next(planes) for _ in Brain._fields)
            face = None
            if in_face is not None and here_mm <= face_top_mm:
                face = Face._make(resample(in_face, here_mm))
            borders = dict(zip(bleeds.borders, planes, strict=True))
            local = Anatomy(skull, face, brain, anatomy.cerebrum, anatomy.wound)
            thin.append(compose(local, borders, bleeds, scan.pixel_mm, scan.y_mm[rows]))
        hu[k, rows, cols] = sum(one.hu for one in thin) / np.float32(THIN_SLICES)
        tissue[k, rows, cols] = thin[THIN_SLICES // 2].tissue
        if bleeds.borders:
            visible = hu[k, rows, cols] < BONE_LIKE_HU
            found = _label(thin)
            if as_drawn:
                within = (found == 0) & (tissue[k, rows, cols] >= CSF)
                found = fill_gaps(found, within, round(DRAWN_GAP_MM / scan.pixel_mm))
            label[k, rows, cols] = np.where(visible, found, 0)
    return Rendering(hu, label, tissue)


def _span(pixels_mm: FloatArray, grid_mm: FloatArray) -> slice:
    inside = np.flatnonzero((pixels_mm <= grid_mm.max()) & (pixels_mm >= grid_mm.min()))
    return slice(int(inside[0]), int(inside[-1]) + 1)


def _label(thin: Sequence[ThinSlice]) -> npt.NDArray[np.uint8]:
    """The commonest kind of blood where there is enough of any."""
    values = list(thin[0].blood)
    shares = np.stack([sum(one.blood[value] for one in thin) for value in values])
    most = np.asarray(values, np.uint8)[shares.argmax(axis=0)]
    return np.where(shares.sum(axis=0) >= LABELLED_SHARE * len(thin), most, 0).astype(np.uint8)


def fill_gaps(
    label: npt.NDArray[np.uint8], free: npt.NDArray[np.bool_], reach: int
) -> npt.NDArray[np.uint8]:
    """Subarachnoid blood with gaps of up to `2 * reach` pixels filled where they are free."""
    away = np.hypot(*np.indices((2 * reach + 1,) * 2) - reach)
    # The padding keeps what lies at the image's edge.
    blood = np.pad(label == SAH, reach)
    closed = scipy.ndimage.binary_closing(blood, away <= reach)[
        reach : reach + label.shape[0], reach : reach + label.shape[1]
    ]
    return np.where(free & closed, SAH, label).astype(np.uint8)
