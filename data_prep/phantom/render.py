"""From fields on the grid to a scan's slices: interpolation, slice thickness, labels."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from data_prep.phantom import hounsfield
from data_prep.phantom.anatomy import Anatomy
from data_prep.phantom.bleeds import Bleeds
from data_prep.phantom.brain import Brain
from data_prep.phantom.fields import Resampler
from data_prep.phantom.scan import SLAB_MM, Grid, Scan
from data_prep.phantom.shapes import FloatArray
from data_prep.phantom.skull import Face, Skull
from data_prep.phantom.tissue import AIR, ThinSlice, compose

THIN_SLICES = 3
"""Each slice is the mean of so many thin ones across its thickness."""
LABELLED_SHARE = 0.4
"""A voxel is labelled where blood fills at least this share of it."""
BONE_LIKE_HU = 400.0
"""Above this a voxel that holds some blood reads as bone and is not labelled."""
VARIED_BONE_LIKE_HU = 110.0
"""The same where labels are as people draw them: real ones have next to no voxels above it."""


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
    scan: Scan, grid: Grid, anatomy: Anatomy, bleeds: Bleeds, *, bone_like_hu: float = BONE_LIKE_HU
) -> Rendering:
    """Samples every slice of a scan; what is denser than `bone_like_hu` is not labelled."""
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
            local = Anatomy(skull, face, brain, anatomy.cerebrum)
            thin.append(compose(local, borders, bleeds, scan.pixel_mm))
        hu[k, rows, cols] = sum(one.hu for one in thin) / np.float32(THIN_SLICES)
        tissue[k, rows, cols] = thin[THIN_SLICES // 2].tissue
        if bleeds.borders:
            visible = hu[k, rows, cols] < bone_like_hu
            label[k, rows, cols] = np.where(visible, _label(thin), 0)
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
