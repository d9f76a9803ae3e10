"""Makes one phantom head CT: arrays, label, affine and names."""

import dataclasses
import math

import numpy as np
import numpy.typing as npt

from data_prep.phantom import bleeds, brain, render, shapes, skull
from data_prep.phantom.plan import (
    IPH,
    SDH,
    STREAM_HEAD,
    STREAM_NOISE,
    STREAM_SCAN,
    HeadPlan,
    plan_head,
)
from data_prep.phantom.scan import SLAB_MM, Scan, draw_scan
from data_prep.phantom.shapes import FloatArray
from mbh_jax.errors import UserError

MIN_SIZE = 32
MAX_SIZE = 1024
COARSE_PIXEL_MM = 2.5
"""From this pixel on, the fields' grid is 3 mm instead of 2."""


@dataclasses.dataclass(frozen=True)
class Head:
    """One phantom study in BHSD's array order: i from right to left, j posterior to anterior, k up.

    Attributes:
        plan: what was asked for.
        hu: (size, size, K) int16, Hounsfield units.
        label: (size, size, K) uint16, BHSD's label values.
        tissue: (size, size, K) uint8, index into `render.TISSUES`: what each voxel would be
            without the bleeding but with their mass effect.
        affine: (4, 4) float64, voxel to RAS+ in mm.
        spacing_mm: voxel size along i, j, k.
        tilt_rad: gantry tilt.
    """

    plan: HeadPlan
    hu: npt.NDArray[np.int16]
    label: npt.NDArray[np.uint16]
    tissue: npt.NDArray[np.uint8]
    affine: npt.NDArray[np.float64]
    spacing_mm: tuple[float, float, float]
    tilt_rad: float

    @property
    def name(self) -> str:
        """The volume's name without `.nii.gz`."""
        return self.plan.name


def make_head(
    seed: int, index: int, size: int, prevalence: str, max_slices: int | None = None
) -> Head:
    """Makes head `index` of the data set `seed`; the same for the same arguments, always.

    Args:
        seed: the data set's seed, 0 or above.
        index: the study's number, 0 or above.
        size: rows and columns; the field of view in mm does not depend on it.
        prevalence: `bhsd` or `even`, see `plan`.
        max_slices: at most so many slices, further apart; None for BHSD's 24 to 60.

    Raises:
        UserError: an argument is out of range.
    """
    check_size(size, max_slices)
    plan = plan_head(seed, index, prevalence)
    scan = draw_scan(plan.rng(STREAM_SCAN), size, max_slices)
    rendering = _render_plan(plan, scan)
    hu = render.add_scanner(plan.rng(STREAM_NOISE), scan, rendering.hu)
    return Head(
        plan=plan,
        hu=_to_stored(hu),
        label=_to_stored(rendering.label).astype(np.uint16),
        tissue=_to_stored(rendering.tissue),
        affine=_affine(scan),
        spacing_mm=(scan.pixel_mm, scan.pixel_mm, scan.spacing_mm),
        tilt_rad=scan.tilt_rad,
    )


def check_size(size: int, max_slices: int | None) -> None:
    """Refuses a size or a number of slices that cannot be made, by a `UserError`."""
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise UserError(f"size {size} is out of range: choose {MIN_SIZE} to {MAX_SIZE} pixels")
    if max_slices is not None and max_slices < 1:
        raise UserError(f"max_slices {max_slices} is out of range: choose 1 or more")


def _render_plan(plan: HeadPlan, scan: Scan) -> render.Rendering:
    rng = plan.head_rng(STREAM_HEAD)
    build = skull.draw_build(rng)
    cerebrum = brain.draw_cerebrum(rng, plan.age_years)
    grid_mm = 2.0 if scan.pixel_mm < COARSE_PIXEL_MM else 3.0
    axes = _grid_axes(scan, grid_mm)
    scan_z, scan_y, scan_x = np.meshgrid(*axes, indexing="ij")
    coordinates = scan.to_head(scan_z, scan_y, scan_x)
    bone = skull.make_skull(rng, build, *coordinates)
    cloud = shapes.PeriodicNoise(rng, 40.0, 0.5)(*coordinates)
    cell_ml = grid_mm**3 / 1000.0
    extra_axial = bleeds.place_extra_axial(plan, rng, bone, coordinates, cloud, cell_ml)
    side = float(rng.choice((-1.0, 1.0)))
    if SDH in extra_axial:
        side = float(np.sign(extra_axial[SDH].entry[0]))
    sites = bleeds.parenchymal_sites(plan, rng, side) if IPH in plan.volumes_ml else []
    shift = bleeds.displace(extra_axial, sites, coordinates, bone.cavity)
    tissue = brain.make_brain(rng, cerebrum, shift.x, shift.y, shift.z, shift.depth, grid_mm)
    blood, tissue = bleeds.place_bleeds(
        plan, rng, extra_axial, sites, coordinates, scan_y, bone, tissue, cerebrum, grid_mm
    )
    return render.render(scan, axes, bone, tissue, blood, cerebrum)


def _grid_axes(scan: Scan, grid_mm: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(z, y, x) of the fields' grid in the scan frame, in the order of slices, rows, columns."""
    half_mm = 0.5 * scan.size * scan.pixel_mm

    def axis(low: float, high: float) -> FloatArray:
        return np.arange(low, high + grid_mm, grid_mm, dtype=np.float32)

    offset_x, offset_y, _ = scan.offset_mm
    z = axis(scan.z_mm[0] - SLAB_MM, scan.z_mm[-1] + SLAB_MM)
    y = axis(max(offset_y - 116.0, -half_mm), min(offset_y + 124.0, half_mm))
    x = axis(max(offset_x - 96.0, -half_mm), min(offset_x + 96.0, half_mm))
    return z, y[::-1].copy(), x[::-1].copy()


def _to_stored(array: npt.NDArray) -> npt.NDArray:
    """(k, row, col) -> (i, j, k): columns are i, rows from the bottom up are j."""
    return np.ascontiguousarray(array[:, ::-1, :].transpose(2, 1, 0))


def _affine(scan: Scan) -> npt.NDArray[np.float64]:
    cosine, sine = math.cos(scan.tilt_rad), math.sin(scan.tilt_rad)
    affine = np.eye(4)
    affine[:3, 0] = [-scan.pixel_mm, 0.0, 0.0]
    affine[:3, 1] = np.array([0.0, cosine, sine]) * scan.pixel_mm
    affine[:3, 2] = np.array([0.0, -sine, cosine]) * scan.spacing_mm
    half_mm = 0.5 * scan.size * scan.pixel_mm
    affine[:3, 3] = [half_mm, -half_mm * cosine, scan.table_z_mm - half_mm * sine]
    return affine
