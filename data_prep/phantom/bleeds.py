"""The five kinds of blood: where each lies, how much room it takes, how dense it is.

Every bleed is the part of its compartment where a score exceeds a level, and the level is chosen
so that the part holds the planned volume. Scores are in mm, so that `score - level` serves as a
signed distance to the bleed's own border.
"""

import dataclasses

import numpy as np
import numpy.typing as npt

from data_prep.phantom import hounsfield, shapes
from data_prep.phantom.brain import Brain, Cerebrum, csf_spaces
from data_prep.phantom.plan import EDH, IPH, IVH, SAH, SDH, HeadPlan
from data_prep.phantom.shapes import FloatArray
from data_prep.phantom.skull import Skull

HEAD_RADIUS_MM = 78.0
SMALLEST_MM = -40.0

# (|x|, y, z) in mm of the middle of an epidural haematoma on the bone: temporal and temporoparietal
# (the middle meningeal artery, most of them), frontal, parietal.
EPIDURAL_SITES = (
    (60.0, 0.0, -8.0),
    (60.0, -12.0, 12.0),
    (58.0, -25.0, 20.0),
    (42.0, 55.0, 18.0),
    (45.0, -35.0, 48.0),
)
# Site in mm, its share and the largest bleed there in mL.
PARENCHYMAL_SITES: dict[str, tuple[tuple[shapes.Point, float, float], ...]] = {
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
        ((46.0, 14.0, -26.0), 0.25, 40.0),
        ((46.0, -20.0, -10.0), 0.15, 60.0),
        ((36.0, 20.0, 38.0), 0.20, 130.0),
    ),
    "aneurysm": (
        ((10.0, 42.0, -2.0), 0.5, 60.0),
        ((42.0, 8.0, -12.0), 0.5, 80.0),
    ),
}


@dataclasses.dataclass(frozen=True)
class Shift:
    """Where tissue came from before the bleeds took their room.

    Attributes:
        x: brain coordinates (head frame less displacement), in mm.
        y: likewise.
        z: likewise.
        depth: distance below the inner table in brain coordinates.
    """

    x: FloatArray
    y: FloatArray
    z: FloatArray
    depth: FloatArray


@dataclasses.dataclass(frozen=True)
class Bleeds:
    """Signed distances in mm by label value, on the coarse grid; only bleeds that exist.

    For IVH and SAH this is the distance to the bleed's border inside its compartment; the
    compartment itself is cut at full resolution. `hu` is the density of each, `oedema_mm` the
    thickness of the rim around the parenchymal bleed.
    """

    fields: dict[int, FloatArray]
    hu: dict[int, float]
    oedema_mm: float


@dataclasses.dataclass(frozen=True)
class ExtraAxial:
    """An epidural or subdural haematoma: `thickness_mm * profile` deep below the inner table."""

    profile: FloatArray
    thickness_mm: float
    entry: npt.NDArray[np.float64]

    def distance(self, skull: Skull) -> FloatArray:
        """Signed distance to its inner border; below 0 where the profile is 0."""
        inside = np.float32(self.thickness_mm) * self.profile - skull.cavity
        return np.where(self.profile > 0.0, inside, SMALLEST_MM).astype(np.float32)


def level_for_volume(score: FloatArray, weight_ml: FloatArray, volume_ml: float) -> float:
    """The level above which `score` holds `volume_ml`.

    Args:
        score: any shape.
        weight_ml: the same shape, volume of each cell that may be filled.
        volume_ml: what to fill; all is filled where there is less room.
    """
    room = weight_ml > 1e-6
    scores, weights = score[room], weight_ml[room]
    order = np.argsort(-scores)
    filled = np.cumsum(weights[order], dtype=np.float64)
    last = int(np.searchsorted(filled, volume_ml))
    if not len(order):
        return 0.0
    return float(scores[order[min(last, len(order) - 1)]])


def place_extra_axial(
    plan: HeadPlan,
    rng: np.random.Generator,
    skull: Skull,
    coordinates: tuple[FloatArray, FloatArray, FloatArray],
    tone: FloatArray,
    cell_ml: float,
) -> dict[int, ExtraAxial]:
    """Places the epidural and the subdural haematoma of a plan, on opposite sides."""
    x, y, z = coordinates
    side = float(rng.choice((-1.0, 1.0)))
    site = EPIDURAL_SITES[rng.choice(len(EPIDURAL_SITES), p=(0.3, 0.25, 0.2, 0.15, 0.1))]
    tilt = rng.normal(0.0, 0.12, 2)
    placed: dict[int, ExtraAxial] = {}
    inside_ml = shapes.coverage(skull.cavity, 2.0) * np.float32(cell_ml)
    if EDH in plan.volumes_ml:
        entry = np.array([side * site[0], site[1], site[2]])
        placed[EDH] = _epidural(plan.volumes_ml[EDH], entry, coordinates, skull, inside_ml)
    if SDH in plan.volumes_ml:
        volume_ml = plan.volumes_ml[SDH]
        entry = np.array([-side * 55.0, 4.0 + 60.0 * tilt[0], 30.0 + 60.0 * tilt[1]])
        target_mm = 3.0 + 0.075 * volume_ml
        radius_mm = float(np.sqrt(1000.0 * volume_ml / target_mm / np.pi) * 1.25)
        crescent = _subdural(volume_ml, entry, coordinates, skull, inside_ml, tone, radius_mm)
        placed[SDH] = crescent
    return placed


def _arc_mm(
    coordinates: tuple[FloatArray, FloatArray, FloatArray], entry: npt.NDArray[np.float64]
) -> FloatArray:
    """Distance along the skull, as a chord on a sphere, between each point's ray and `entry`'s."""
    x, y, z = coordinates
    towards = (entry / np.linalg.norm(entry)).astype(np.float32)
    radius = np.sqrt(x * x + y * y + z * z) + np.float32(1.0)
    cosine = (x * towards[0] + y * towards[1] + z * towards[2]) / radius
    return np.float32(HEAD_RADIUS_MM) * np.sqrt(np.maximum(2.0 - 2.0 * cosine, 0.0))


def _epidural(
    volume_ml: float,
    entry: npt.NDArray[np.float64],
    coordinates: tuple[FloatArray, FloatArray, FloatArray],
    skull: Skull,
    inside_ml: FloatArray,
) -> ExtraAxial:
    x, y, z = coordinates
    # A lens of radius R and thickness 0.35 R holds pi R^2 * 0.35 R / 2.
    radius_mm = (1000.0 * volume_ml / (0.5 * np.pi * 0.35)) ** (1.0 / 3.0)
    bone = _suture_distance(coordinates, entry)
    arc = _arc_mm(coordinates, entry)
    for _ in range(6):
        lens = np.maximum(1.0 - (arc / np.float32(radius_mm)) ** 2, 0.0)
        profile = lens * (bone / np.float32(7.0)).clip(0.0, 1.0)
        thickness_mm = _thickness_for_volume(profile, skull, inside_ml, volume_ml)
        if thickness_mm < 0.75 * radius_mm and thickness_mm < 38.0:
            break
        radius_mm *= 1.15
    return ExtraAxial(profile.astype(np.float32), thickness_mm, entry)


def _suture_distance(
    coordinates: tuple[FloatArray, FloatArray, FloatArray], entry: npt.NDArray[np.float64]
) -> FloatArray:
    """Distance to the sagittal, coronal and lambdoid sutures, positive on `entry`'s bone."""
    x, y, z = coordinates
    side = np.float32(np.sign(entry[0]))
    lateral = np.abs(x)
    # Bregma lies about 10 mm before the middle of the vertex and the pterion 35 mm before the
    # temporal middle; the lambdoid suture falls from lambda to the asterion behind the ear.
    coronal = (y - 10.0 - 0.36 * (70.0 - z)) / np.float32(np.hypot(1.0, 0.36))
    lambdoid = (y + 76.0 - 0.35 * lateral) / np.float32(np.hypot(1.0, 0.35))
    entry_coronal = entry[1] - 10.0 - 0.36 * (70.0 - entry[2])
    frontal = np.float32(1.0 if entry_coronal > 0.0 else -1.0)
    return np.minimum.reduce([side * x, frontal * coronal, lambdoid]).astype(np.float32)


def _subdural(
    volume_ml: float,
    entry: npt.NDArray[np.float64],
    coordinates: tuple[FloatArray, FloatArray, FloatArray],
    skull: Skull,
    inside_ml: FloatArray,
    tone: FloatArray,
    radius_mm: float,
) -> ExtraAxial:
    x, y, z = coordinates
    side = np.float32(np.sign(entry[0]))
    # The crescent ends at the falx and above the floor of the middle fossa, not at sutures, and it
    # is longer from front to back than it is high.
    stretched = (x, y * np.float32(0.8), z)
    arc = _arc_mm(stretched, entry)
    ends = ((side * x - 3.0) / 8.0).clip(0.0, 1.0) * ((z + 34.0) / 14.0).clip(0.0, 1.0)
    uneven = (1.0 + np.float32(0.15) * tone).clip(0.5, 1.5)
    for _ in range(6):
        fall = ((np.float32(radius_mm) - arc) / np.float32(0.6 * radius_mm)).clip(0.0, 1.0)
        profile = np.sqrt(fall) * ends * uneven
        thickness_mm = _thickness_for_volume(profile, skull, inside_ml, volume_ml)
        if thickness_mm < 6.0 + 0.12 * volume_ml:
            break
        radius_mm *= 1.15
    return ExtraAxial(profile.astype(np.float32), thickness_mm, entry)


def _thickness_for_volume(
    profile: FloatArray, skull: Skull, inside_ml: FloatArray, volume_ml: float
) -> float:
    score = -skull.cavity / np.maximum(profile, np.float32(1e-3))
    room = np.where((profile > 0.02) & (skull.cavity < 60.0), inside_ml, np.float32(0.0))
    return -level_for_volume(score, room, volume_ml)


def parenchymal_sites(
    plan: HeadPlan, rng: np.random.Generator, side: float
) -> list[tuple[npt.NDArray[np.float64], float]]:
    """Middles in mm and volumes in mL of a plan's parenchymal bleeds; trauma makes several."""
    volume_ml = plan.volumes_ml[IPH]
    table = PARENCHYMAL_SITES.get(plan.cause, PARENCHYMAL_SITES["hypertension"])
    count = int(rng.integers(1, 4)) if plan.cause == "trauma" else 1
    parts = rng.dirichlet(np.full(count, 2.0)) * volume_ml
    sites = []
    for part_ml in sorted(parts, reverse=True):
        fitting = [row for row in table if row[2] >= part_ml] or [table[0]]
        shares = np.array([row[1] for row in fitting])
        (lateral, y, z), _, _ = fitting[rng.choice(len(fitting), p=shares / shares.sum())]
        this_side = side if rng.random() < 0.75 else -side
        middle = np.array([this_side * lateral, y, z]) + rng.normal(0.0, 2.5, 3)
        sites.append((middle, float(part_ml)))
    return sites


def displace(
    extra_axial: dict[int, ExtraAxial],
    sites: list[tuple[npt.NDArray[np.float64], float]],
    coordinates: tuple[FloatArray, FloatArray, FloatArray],
    cavity: FloatArray,
) -> Shift:
    """Moves tissue out of the way of bleeds.

    Below an extra-axial bleed the surface yields by the bleed's thickness, the midline by about a
    quarter of it; a parenchymal bleed of radius a pushes a shell of radius r out by a^3 / 6 r^2,
    half of what keeping the tissue's volume would take: the rest of it is destroyed.
    """
    x, y, z = coordinates
    depth = cavity
    moved = [np.zeros_like(x) for _ in range(3)]
    radius = np.sqrt(x * x + y * y + z * z) + np.float32(1.0)
    for bleed in extra_axial.values():
        thickness = np.float32(bleed.thickness_mm) * bleed.profile
        below = np.maximum(cavity - thickness, 0.0)
        near = thickness * np.exp(-below / np.float32(35.0))
        depth = depth - near
        share = (below / np.float32(30.0)).clip(0.0, 1.0)
        inwards = -bleed.entry / np.linalg.norm(bleed.entry)
        away = sum((p - np.float32(e)) ** 2 for p, e in zip(coordinates, bleed.entry, strict=True))
        deep = np.float32(0.5 * bleed.thickness_mm) * np.exp(-away / np.float32(80.0**2))
        for axis, p in enumerate(coordinates):
            radial = -p / radius
            moved[axis] += (1.0 - share) * near * radial + share * deep * np.float32(inwards[axis])
    for middle, volume_ml in sites:
        cubed = 1000.0 * volume_ml * 3.0 / (4.0 * np.pi)
        offsets = [p - np.float32(m) for p, m in zip(coordinates, middle, strict=True)]
        distance = np.sqrt(sum(o * o for o in offsets))
        reach = np.maximum(distance, np.float32(cubed ** (1.0 / 3.0)))
        push = np.float32(cubed / 6.0) / reach**3 * (cavity / np.float32(15.0)).clip(0.0, 1.0)
        for axis, offset in enumerate(offsets):
            moved[axis] += push * offset
    px, py, pz = ((p - m).astype(np.float32) for p, m in zip(coordinates, moved, strict=True))
    return Shift(px, py, pz, depth.astype(np.float32))


def place_bleeds(
    plan: HeadPlan,
    rng: np.random.Generator,
    extra_axial: dict[int, ExtraAxial],
    sites: list[tuple[npt.NDArray[np.float64], float]],
    coordinates: tuple[FloatArray, FloatArray, FloatArray],
    scan_y: FloatArray,
    skull: Skull,
    brain: Brain,
    cerebrum: Cerebrum,
    grid_mm: float,
) -> tuple[Bleeds, Brain]:
    """Places all bleeds of a plan in a brain that has already made room for them.

    Args:
        plan: which bleeds, how much.
        rng: shared by all studies of a head.
        extra_axial: the epidural and subdural ones.
        sites: middles and volumes of the parenchymal ones.
        coordinates: (x, y, z) of the grid in the head frame.
        scan_y: y of the grid in the scan frame; blood settles where it is lowest.
        skull: fields on the grid.
        brain: fields on the grid.
        cerebrum: what the brain is like.
        grid_mm: the grid's spacing.

    Returns:
        The bleeds, and the brain with ventricles widened where they must hold more blood than fits.
    """
    cell_ml = grid_mm**3 / 1000.0
    fields = {value: bleed.distance(skull) for value, bleed in extra_axial.items()}
    outside = np.maximum.reduce([*fields.values()]) if fields else np.full_like(scan_y, SMALLEST_MM)
    if IPH in plan.volumes_ml:
        tissue = np.minimum(brain.depth - np.float32(1.5), -brain.ventricle)
        tissue = np.minimum(tissue, -outside)
        fields[IPH] = _parenchymal(rng, sites, coordinates, brain, tissue, cell_ml, grid_mm)
    if IVH in plan.volumes_ml:
        fields[IVH], brain = _intraventricular(
            plan.volumes_ml[IVH], rng, scan_y, brain, cell_ml, grid_mm
        )
    if SAH in plan.volumes_ml:
        taken = [fields[value] for value in (EDH, SDH, IPH) if value in fields]
        free = np.minimum.reduce([skull.cavity, -brain.ventricle, *(-field for field in taken)])
        focus = _subarachnoid_focus(plan, rng, extra_axial, sites)
        fields[SAH] = _subarachnoid(
            plan.volumes_ml[SAH], focus, coordinates, brain, cerebrum, free, cell_ml, grid_mm
        )
    fresh_hu = hounsfield.FRESH_CLOT_HU - hounsfield.CLOT_DECAY_HU_PER_DAY * plan.blood_age_days
    hu = {
        EDH: fresh_hu + rng.normal(0.0, 3.0),
        IPH: fresh_hu + rng.normal(-2.0, 3.0),
        IVH: fresh_hu + rng.normal(-5.0, 3.0),
        SAH: fresh_hu + rng.normal(-6.0, 4.0),
        SDH: fresh_hu + rng.normal(-6.0, 5.0),
    }
    oedema_mm = float(rng.uniform(2.0, 5.0) + 0.7 * min(plan.blood_age_days, 6.0))
    return Bleeds(fields, hu, oedema_mm), brain


def _parenchymal(
    rng: np.random.Generator,
    sites: list[tuple[npt.NDArray[np.float64], float]],
    coordinates: tuple[FloatArray, FloatArray, FloatArray],
    brain: Brain,
    tissue: FloatArray,
    cell_ml: float,
    grid_mm: float,
) -> FloatArray:
    room_ml = shapes.coverage(tissue, grid_mm) * np.float32(cell_ml)
    lobes = shapes.PeriodicNoise(rng, 32.0, 0.5)(*coordinates)
    blobs = []
    for middle, volume_ml in sites:
        radius_mm = (1000.0 * volume_ml * 3.0 / (4.0 * np.pi)) ** (1.0 / 3.0)
        stretch = np.exp(rng.normal([-0.1, 0.15, -0.05], 0.15))
        squared = sum(
            ((p - np.float32(m)) / np.float32(s)) ** 2
            for p, m, s in zip(coordinates, middle, stretch, strict=True)
        )
        bumps = np.float32(min(0.25 * radius_mm, 6.0)) * lobes
        score = (bumps - np.sqrt(squared)).astype(np.float32)
        near = np.where(squared < (4.0 * radius_mm + 10.0) ** 2, room_ml, np.float32(0.0))
        blobs.append(score - np.float32(level_for_volume(score, near, volume_ml)))
    return np.minimum(np.maximum.reduce(blobs), tissue)


def _intraventricular(
    volume_ml: float,
    rng: np.random.Generator,
    scan_y: FloatArray,
    brain: Brain,
    cell_ml: float,
    grid_mm: float,
) -> tuple[FloatArray, Brain]:
    """Fills the ventricles from the lowest point up; the patient lies supine, so from behind."""
    for _ in range(12):
        room_ml = shapes.coverage(brain.ventricle, grid_mm) * np.float32(cell_ml)
        share = volume_ml / float(room_ml.sum())
        if share < 0.75:
            break
        brain = brain._replace(ventricle=brain.ventricle + np.float32(0.8))
    uneven_mm = rng.normal(0.0, 7.0)
    # A little blood settles behind a level; a lot of it clots into a cast with a ragged border.
    ragged_mm = 1.0 if share < 0.4 else 7.0
    sides = np.float32(uneven_mm) * np.tanh(brain.x / np.float32(3.0))
    score = (sides + np.float32(ragged_mm) * brain.tone - scan_y).astype(np.float32)
    return score - np.float32(level_for_volume(score, room_ml, volume_ml)), brain


def _subarachnoid_focus(
    plan: HeadPlan,
    rng: np.random.Generator,
    extra_axial: dict[int, ExtraAxial],
    sites: list[tuple[npt.NDArray[np.float64], float]],
) -> npt.NDArray[np.float64]:
    """Where blood is thickest: the circle of Willis, or the convexity near another injury."""
    if plan.cause == "aneurysm":
        return np.array([rng.normal(0.0, 8.0), 12.0, -22.0])
    if SDH in extra_axial and rng.random() < 0.6:
        return extra_axial[SDH].entry + rng.normal(0.0, 12.0, 3)
    if sites and rng.random() < 0.5:
        return sites[0][0] * np.array([1.6, 1.2, 1.2])
    lateral = float(rng.choice((-50.0, 50.0)))
    return np.array([lateral, rng.uniform(-30.0, 30.0), rng.uniform(-5.0, 45.0)])


def _subarachnoid(
    volume_ml: float,
    focus: npt.NDArray[np.float64],
    coordinates: tuple[FloatArray, FloatArray, FloatArray],
    brain: Brain,
    cerebrum: Cerebrum,
    free: FloatArray,
    cell_ml: float,
    grid_mm: float,
) -> FloatArray:
    spaces = np.minimum(csf_spaces(brain, cerebrum) + np.float32(DISTENSION_MM), free)
    room_ml = shapes.coverage(spaces, grid_mm) * np.float32(cell_ml)
    away = np.sqrt(sum((p - np.float32(f)) ** 2 for p, f in zip(coordinates, focus, strict=True)))
    score = (np.float32(9.0) * brain.tone - away).astype(np.float32)
    return score - np.float32(level_for_volume(score, room_ml, volume_ml))


DISTENSION_MM = 0.6
"""How far blood widens a sulcus to each side."""
