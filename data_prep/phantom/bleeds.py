"""Blood in the brain, its ventricles and its CSF spaces; and all five kinds put together.

Every bleed is the part of its compartment where a score exceeds a level, and the level is chosen
so that the part holds the planned volume. Scores are in mm, so that `score - level` serves as a
signed distance to the bleed's own border.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_prep.phantom import hounsfield
from data_prep.phantom.anatomy import Anatomy
from data_prep.phantom.brain import Brain, csf_spaces
from data_prep.phantom.displacement import Site
from data_prep.phantom.extra_axial import ExtraAxial
from data_prep.phantom.fields import PeriodicNoise
from data_prep.phantom.filling import level_for_volume
from data_prep.phantom.plan import EDH, IPH, IVH, SAH, SDH, HeadPlan
from data_prep.phantom.scan import Grid
from data_prep.phantom.shapes import FloatArray, Position, coverage
from mbh_jax.labels import FOREGROUND

VARIED_MOTTLE_HU = (2.0, 9.0)
"""Deviation of the density inside one bleed; 3.5 HU in other heads."""
LAYERED_SHARE = 0.5
"""Share of `varied` heads whose subdural blood has layers."""
DISTENSION_MM = 0.6
"""How far subarachnoid blood widens a sulcus to each side."""

# Of a parenchymal bleed: (|x|, y, z) in mm, its share and the largest volume there in mL. The brain
# bleeds of hypertension are in the putamen, thalamus, lobes, cerebellum and pons; contusions are
# where the brain strikes the skull base; an aneurysm bursts into the lobe beside it.
PARENCHYMAL_SITES: dict[str, tuple[tuple[Position, float, float], ...]] = {
    "hypertension": (
        ((27.0, 4.0, 3.0), 0.45, 130.0),
        ((14.0, -10.0, 6.0), 0.22, 20.0),
        ((36.0, -36.0, 24.0), 0.10, 130.0),
        ((28.0, 40.0, 24.0), 0.08, 130.0),
        ((24.0, -52.0, -36.0), 0.10, 25.0),
        ((0.0, -13.0, -30.0), 0.05, 6.0),
    ),
    "trauma": (
        ((24.0, 56.0, 0.0), 0.40, 60.0),
        ((46.0, 14.0, -24.0), 0.25, 40.0),
        ((46.0, -20.0, -8.0), 0.15, 60.0),
        ((36.0, 20.0, 38.0), 0.20, 130.0),
    ),
    "aneurysm": (
        ((10.0, 42.0, -2.0), 0.5, 60.0),
        ((42.0, 8.0, -12.0), 0.5, 130.0),
    ),
}

VENTRICULAR_CASTS: tuple[Position, ...] = (
    (0.0, 2.0, -4.0),
    (0.0, -33.0, -38.0),
    (10.0, 24.0, 4.0),
    (-10.0, 24.0, 4.0),
    (10.0, -2.0, 17.0),
    (-10.0, -2.0, 17.0),
    (25.0, -34.0, 6.0),
    (-25.0, -34.0, 6.0),
)
"""Middles in mm of clots in the third, the fourth and the parts of the lateral ventricles."""
CAST_SHARE = 0.5
"""Share of `varied` heads with intraventricular blood in which it is such a clot."""


class Layers(NamedTuple):
    """How the density of a subdural haematoma changes within it.

    Cells of older blood, and of blood that does not clot, sink; the membrane towards the brain, and
    fresh blood along it, can be denser.

    Attributes:
        level_mm: y in the scan frame in front of which it is less dense, behind which denser.
        sediment_hu: that many HU less or more.
        membrane_hu: how much denser its rim is, but for that at the bone.
    """

    level_mm: float
    sediment_hu: float
    membrane_hu: float


@dataclasses.dataclass(frozen=True)
class Bleeds:
    """All blood of a head, on the grid.

    Attributes:
        borders: by label value, signed distance in mm to the bleed's border, positive inside. The
            compartments of IVH and SAH are cut out of them at full resolution.
        hu: by label value, mean density.
        oedema_mm: thickness of the rim around parenchymal blood.
        mottle_hu: deviation of the density inside one bleed.
        layers: of subdural blood, or None.
    """

    borders: dict[int, FloatArray]
    hu: dict[int, float]
    oedema_mm: float
    mottle_hu: float = 3.5
    layers: Layers | None = None


def parenchymal_sites(plan: HeadPlan, rng: np.random.Generator, side: float) -> list[Site]:
    """Places a plan's parenchymal bleeds; trauma makes up to three, most of them on `side`."""
    table = PARENCHYMAL_SITES[plan.cause]
    count = int(rng.integers(1, 4)) if plan.cause == "trauma" else 1
    parts_ml = np.sort(rng.dirichlet(np.full(count, 2.0)) * plan.volumes_ml[IPH])[::-1]
    sites: list[Site] = []
    taken: set[tuple[float, int]] = set()
    for part_ml in parts_ml:
        this_side = side if rng.random() < 0.75 else -side
        shares = np.array(
            [
                share * float(largest_ml >= part_ml and (this_side, row) not in taken)
                for row, (_, share, largest_ml) in enumerate(table)
            ]
        )
        if not shares.any():
            shares = np.array([largest_ml for _, _, largest_ml in table])
        row = int(rng.choice(len(table), p=shares / shares.sum()))
        taken.add((this_side, row))
        lateral, y, z = table[row][0]
        middle = np.array([this_side * lateral, y, z]) + rng.normal(0.0, 2.5, 3)
        sites.append(Site(middle, float(part_ml)))
    return sites


def place_bleeds(
    plan: HeadPlan,
    rng: np.random.Generator,
    grid: Grid,
    anatomy: Anatomy,
    started: tuple[dict[int, ExtraAxial], list[Site]],
) -> tuple[Bleeds, Anatomy]:
    """Places all bleeds of a plan in a head whose brain has already made room for them.

    Args:
        plan: which bleeds, how much.
        rng: shared by all studies of a head.
        grid: the fields' grid.
        anatomy: fields on the grid.
        started: extra-axial bleeds, and the parenchymal ones' sites.

    Returns:
        The bleeds, and the head with ventricles widened where they must hold more than they can.
    """
    walls, sites = started
    borders = {value: bleed.distance() for value, bleed in walls.items()}
    brain = anatomy.brain
    free = np.minimum.reduce([anatomy.skull.cavity, *(-border for border in borders.values())])
    if IPH in plan.volumes_ml:
        tissue = np.minimum.reduce([brain.depth - np.float32(1.5), -brain.ventricle, free])
        borders[IPH] = _parenchymal(rng, sites, grid, tissue)
        free = np.minimum(free, -borders[IPH])
    if IVH in plan.volumes_ml:
        clot = None
        if plan.varied and rng.random() < CAST_SHARE:
            clot = VENTRICULAR_CASTS[rng.integers(len(VENTRICULAR_CASTS))]
        borders[IVH], brain = _intraventricular(plan.volumes_ml[IVH], rng, grid, brain, clot)
        anatomy = anatomy._replace(brain=brain)
    if SAH in plan.volumes_ml:
        focus = _subarachnoid_focus(plan, rng, walls, sites)
        borders[SAH] = _subarachnoid(plan.volumes_ml[SAH], focus, grid, anatomy, free)
    hu, oedema_mm = _densities(plan, rng)
    if plan.varied:
        mottle_hu = float(rng.uniform(*VARIED_MOTTLE_HU))
        layers = None
        if rng.random() < LAYERED_SHARE:
            sediment_hu, membrane_hu = rng.uniform(0.0, [14.0, 18.0])
            layers = Layers(float(rng.uniform(-40.0, 30.0)), float(sediment_hu), float(membrane_hu))
        return Bleeds(borders, hu, oedema_mm, mottle_hu, layers), anatomy
    return Bleeds(borders, hu, oedema_mm), anatomy


def _densities(plan: HeadPlan, rng: np.random.Generator) -> tuple[dict[int, float], float]:
    """HU of each kind of blood by its age, and the oedema's thickness in mm.

    Blood that CSF has diluted or kept from clotting is less dense than a solid clot.
    """
    clot_hu = hounsfield.FRESH_CLOT_HU - hounsfield.CLOT_DECAY_HU_PER_DAY * plan.blood_age_days
    below_clot_hu = {EDH: (0.0, 3.0), IPH: (2.0, 3.0), IVH: (5.0, 3.0), SAH: (7.0, 3.0)}
    below_clot_hu[SDH] = (6.0, 4.0)
    if plan.varied:
        ranges_hu = dict(zip(FOREGROUND, hounsfield.VARIED_BLOOD_HU, strict=True))
        varied_hu = {value: float(rng.uniform(*ranges_hu[value])) for value in FOREGROUND}
        return varied_hu, float(rng.uniform(0.0, 9.0))
    hu = {
        value: float(max(clot_hu - rng.normal(mean, deviation), hounsfield.FAINTEST_BLOOD_HU))
        for value, (mean, deviation) in below_clot_hu.items()
    }
    oedema_mm = float(rng.uniform(2.0, 5.0) + 0.7 * min(plan.blood_age_days, 6.0))
    return hu, oedema_mm


def _parenchymal(
    rng: np.random.Generator, sites: list[Site], grid: Grid, tissue: FloatArray
) -> FloatArray:
    """Lobulated blobs; `tissue` is the signed distance to where they may be."""
    room_ml = coverage(tissue, grid.spacing_mm) * np.float32(grid.cell_ml)
    lobes = PeriodicNoise(rng, 30.0, 0.5).on_grid(grid.points)
    blobs = []
    for middle, volume_ml in sites:
        radius_mm = float(np.cbrt(1000.0 * volume_ml * 3.0 / (4.0 * np.pi)))
        stretch = np.exp(rng.normal([-0.1, 0.15, -0.05], 0.15)).astype(np.float32)
        squared = np.zeros_like(tissue)
        for p, m, s in zip(grid.points, middle, stretch, strict=True):
            squared += ((p - np.float32(m)) / s) ** 2
        lobulation_mm = np.float32(min(0.25 * radius_mm, 6.0))
        score = lobulation_mm * lobes - np.sqrt(squared)
        near = squared < np.float32((4.0 * radius_mm + 10.0) ** 2)
        blobs.append(score - np.float32(level_for_volume(score[near], room_ml[near], volume_ml)))
    return np.minimum(np.maximum.reduce(blobs), tissue)


def _intraventricular(
    volume_ml: float,
    rng: np.random.Generator,
    grid: Grid,
    brain: Brain,
    focus: Position | None,
) -> tuple[FloatArray, Brain]:
    """Fills the ventricles from the lowest point up; the patient lies supine, so from behind.

    With a `focus` blood has clotted around that place instead.
    """
    room_ml = coverage(brain.ventricle, grid.spacing_mm) * np.float32(grid.cell_ml)
    while volume_ml > 0.75 * float(room_ml.sum()):
        brain = brain._replace(ventricle=brain.ventricle + np.float32(0.8))
        room_ml = coverage(brain.ventricle, grid.spacing_mm) * np.float32(grid.cell_ml)
    # A little blood settles behind a level; a lot of it clots into a cast with a ragged border.
    ragged_mm = 1.0 if volume_ml < 0.4 * float(room_ml.sum()) else 7.0
    sides = np.float32(rng.normal(0.0, 7.0)) * np.tanh(brain.x / np.float32(3.0))
    score = sides + np.float32(ragged_mm) * brain.tone - grid.scan_y
    if focus is not None:
        score = np.float32(3.0) * brain.tone - np.sqrt(brain.points.squared_distance(focus))
    return score - np.float32(level_for_volume(score, room_ml, volume_ml)), brain


def _subarachnoid_focus(
    plan: HeadPlan, rng: np.random.Generator, walls: dict[int, ExtraAxial], sites: list[Site]
) -> npt.NDArray[np.float64]:
    """Where blood is thickest: the circle of Willis, or the convexity near another injury."""
    if plan.cause == "aneurysm":
        return np.array([rng.normal(0.0, 8.0), 12.0, -22.0])
    if SDH in walls and rng.random() < 0.6:
        return walls[SDH].entry + rng.normal(0.0, 12.0, 3)
    if sites and rng.random() < 0.5:
        return sites[0].middle * np.array([1.6, 1.2, 1.2])
    lateral = float(rng.choice((-50.0, 50.0)))
    return np.array([lateral, rng.uniform(-30.0, 30.0), rng.uniform(-5.0, 45.0)])


def _subarachnoid(
    volume_ml: float,
    focus: npt.NDArray[np.float64],
    grid: Grid,
    anatomy: Anatomy,
    free: FloatArray,
) -> FloatArray:
    """Fills CSF spaces from a focus outwards; `free` is the distance to what is still free."""
    brain = anatomy.brain
    spaces = csf_spaces(brain, anatomy.cerebrum) + np.float32(DISTENSION_MM)
    spaces = np.minimum.reduce([spaces, free, -brain.ventricle])
    room_ml = coverage(spaces, grid.spacing_mm) * np.float32(grid.cell_ml)
    away = np.sqrt(grid.points.squared_distance(focus))
    score = np.float32(9.0) * brain.tone - away
    return score - np.float32(level_for_volume(score, room_ml, volume_ml))
