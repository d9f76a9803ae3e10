"""Makes one phantom head CT: arrays, label, affine and names."""

import dataclasses
import math

import nibabel as nib
import numpy as np
import numpy.typing as npt

from data_prep.phantom.anatomy import Anatomy
from data_prep.phantom.bleeds import parenchymal_sites, place_bleeds
from data_prep.phantom.brain import make_brain
from data_prep.phantom.cerebrum import draw_cerebrum, vary_cerebrum
from data_prep.phantom.displacement import displace
from data_prep.phantom.extra_axial import place_extra_axial
from data_prep.phantom.fields import PeriodicNoise
from data_prep.phantom.plan import (
    IPH,
    SDH,
    STREAM_HEAD,
    STREAM_NOISE,
    STREAM_SCAN,
    HeadPlan,
    plan_head,
)
from data_prep.phantom.render import Rendering, render
from data_prep.phantom.scan import Scan, draw_scan, make_grid
from data_prep.phantom.scanner import add_scanner
from data_prep.phantom.shapes import Points
from data_prep.phantom.skull import FACE_TOP_MM, draw_build, make_face, make_skull
from data_prep.phantom.wound import add_wound, draw_wound
from mbh_jax.errors import UserError

DRAWN_BONE_LIKE_HU = 110
"""Labels that people drew hold next to no voxels above it: blood beside bone is left to the bone.
Those of `varied` phantoms do not either."""
MIN_SIZE = 32
MAX_SIZE = 1024


@dataclasses.dataclass(frozen=True)
class Head:
    """One phantom study in BHSD's array order: i from right to left, j posterior to anterior, k up.

    Attributes:
        plan: what was asked for.
        hu: (size, size, K) int16, Hounsfield units.
        label: (size, size, K) uint16, BHSD's label values.
        tissue: (size, size, K) uint8, index into `tissue.TISSUES`: what each voxel would be
            without the bleeding but with their mass effect.
        affine: (4, 4) float64, voxel to RAS+ in mm.
        spacing_mm: voxel size along i, j, k.
        tilt_rad: gantry tilt.
        header: the real file's header that it is to be written with, if any.
    """

    plan: HeadPlan
    hu: npt.NDArray[np.int16]
    label: npt.NDArray[np.uint16]
    tissue: npt.NDArray[np.uint8]
    affine: npt.NDArray[np.float64]
    spacing_mm: tuple[float, float, float]
    tilt_rad: float
    header: nib.Nifti1Header | None = None

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
        prevalence: one of `plan.PREVALENCES`.
        max_slices: at most so many slices, further apart; None for BHSD's 24 to 60.

    Raises:
        UserError: an argument is out of range.
    """
    check_size(size, max_slices)
    plan = plan_head(seed, index, prevalence)
    scan = draw_scan(plan.rng(STREAM_SCAN), size, max_slices, varied=plan.varied)
    return scan_head(plan, scan)


def scan_head(plan: HeadPlan, scan: Scan) -> Head:
    """Renders a planned head as a scan sees it."""
    rendering = _render_plan(plan, scan)
    hu = add_scanner(plan.rng(STREAM_NOISE), scan, rendering.hu, varied=plan.varied)
    label = rendering.label
    if plan.varied:
        label = np.where(hu < DRAWN_BONE_LIKE_HU, label, 0)
    return Head(
        plan=plan,
        hu=_to_stored(hu),
        label=_to_stored(label).astype(np.uint16),
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


def _render_plan(plan: HeadPlan, scan: Scan) -> Rendering:
    rng = plan.head_rng(STREAM_HEAD)
    build = draw_build(rng)
    cerebrum = draw_cerebrum(rng, plan.age_years)
    if plan.varied:
        cerebrum = vary_cerebrum(rng, cerebrum)
    grid = make_grid(scan)
    skull = make_skull(rng, build, grid.points)
    wound = draw_wound(rng) if plan.varied else None
    if wound is not None:
        skull = add_wound(skull, grid.points, wound)
    unevenness = PeriodicNoise(rng, 40.0, 0.5).on_grid(grid.points)
    walls = place_extra_axial(plan, rng, grid, skull, unevenness)
    side = float(rng.choice((-1.0, 1.0)))
    if SDH in walls:
        side = float(np.sign(walls[SDH].entry[0]))
    sites = parenchymal_sites(plan, rng, side) if IPH in plan.volumes_ml else []
    points, depth = displace(list(walls.values()), sites, grid.points, skull.cavity)
    brain = make_brain(rng, cerebrum, points, depth, grid.spacing_mm)
    low = np.flatnonzero(grid.points.z.min(axis=(1, 2)) < FACE_TOP_MM)
    face = None
    if low.size:
        face = make_face(build, Points(*(p[: low[-1] + 1] for p in grid.points)))
    anatomy = Anatomy(skull, face, brain, cerebrum, wound)
    bleeds, anatomy = place_bleeds(plan, rng, grid, anatomy, (walls, sites))
    return render(scan, grid, anatomy, bleeds, as_drawn=plan.varied)


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
