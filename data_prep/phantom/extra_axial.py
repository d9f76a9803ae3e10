"""Blood between bone and brain: epidural lenses, subdural crescents and sheets along the falx."""

import dataclasses

import numpy as np
import numpy.typing as npt

from data_prep.phantom.brain import falx_arch
from data_prep.phantom.plan import EDH, SDH, HeadPlan
from data_prep.phantom.scan import Grid
from data_prep.phantom.shapes import FloatArray, Points, coverage
from data_prep.phantom.skull import HEAD_RADIUS_MM, Skull

THICKEST_MM = 45.0
FALCINE_SHARE = 0.2
VARIED_FALCINE_SHARE = 0.35
BILATERAL_SHARE = 0.3
"""Share of crescents in `varied` heads without epidural blood that have another one opposite."""
FALCINE_LARGEST_ML = 20.0

# (|x|, y, z) in mm of the middle of an epidural haematoma on the bone, and its share: temporal and
# temporoparietal (the middle meningeal artery, most of them), frontal, parietal.
EPIDURAL_SITES = (
    ((60.0, 0.0, -8.0), 0.30),
    ((60.0, -12.0, 12.0), 0.25),
    ((58.0, -25.0, 20.0), 0.20),
    ((42.0, 55.0, 18.0), 0.15),
    ((45.0, -35.0, 48.0), 0.10),
)
LENS_RATIO = 0.45
"""Thickness of an epidural lens by its radius along the bone."""


@dataclasses.dataclass(frozen=True)
class ExtraAxial:
    """One haematoma on a wall: it reaches `thickness_mm * profile` away from the wall.

    Attributes:
        profile: relative thickness over each point of the wall, constant along the way inwards.
        thickness_mm: largest thickness.
        from_wall: distance from the inner table, or from the falx, in mm.
        entry: (3,) the middle on the wall, head frame, in mm.
        pushes: whether the brain below yields; sheets along the falx are too thin to count.
    """

    profile: FloatArray
    thickness_mm: float
    from_wall: FloatArray
    entry: npt.NDArray[np.float64]
    pushes: bool = True

    def distance(self) -> FloatArray:
        """Signed distance to the haematoma's surface in mm, positive inside."""
        below = np.float32(self.thickness_mm) * self.profile - self.from_wall
        # The wall itself is cut elsewhere; a slack of 1 mm leaves no gap before it.
        inside = np.minimum(below, self.from_wall + np.float32(1.0))
        beside = -np.abs(self.from_wall) - np.float32(10.0)
        return np.where(self.profile > 0.0, inside, beside)


def place_extra_axial(
    plan: HeadPlan, rng: np.random.Generator, grid: Grid, skull: Skull, tone: FloatArray
) -> dict[int, ExtraAxial]:
    """Places the epidural and the subdural haematoma of a plan, on opposite sides.

    Args:
        plan: which of them, how much.
        rng: shared by all studies of a head.
        grid: the fields' grid.
        skull: fields on the grid.
        tone: noise on the grid that makes the crescent uneven.
    """
    side = float(rng.choice((-1.0, 1.0)))
    shares = [share for _, share in EPIDURAL_SITES]
    lateral, *site = EPIDURAL_SITES[rng.choice(len(EPIDURAL_SITES), p=shares)][0]
    jitter_mm = rng.normal(0.0, 7.0, 2)
    along_falx = rng.random() < (VARIED_FALCINE_SHARE if plan.varied else FALCINE_SHARE)
    placed: dict[int, ExtraAxial] = {}
    if EDH in plan.volumes_ml:
        entry = np.array([side * lateral, *site])
        placed[EDH] = _epidural(plan.volumes_ml[EDH], entry, grid, skull)
    if SDH in plan.volumes_ml:
        volume_ml = plan.volumes_ml[SDH]
        if along_falx and volume_ml < FALCINE_LARGEST_ML:
            entry = np.array([-side, -35.0 + 4.0 * jitter_mm[0], 45.0 + jitter_mm[1]])
            placed[SDH] = _falcine(volume_ml, entry, grid, skull)
        else:
            entry = np.array([-side * 55.0, 4.0 + jitter_mm[0], 30.0 + jitter_mm[1]])
            thickness, other_side = 1.0, 0.0
            if plan.varied:
                # From films over most of a hemisphere to crescents as thick as an epidural lens.
                thickness = float(np.exp(rng.uniform(np.log(0.45), np.log(2.2))))
                if EDH not in placed and rng.random() < BILATERAL_SHARE:
                    other_side = float(rng.uniform(0.2, 1.0))
            placed[SDH] = _subdural(
                volume_ml, entry, grid, skull, tone, thickness=thickness, other_side=other_side
            )
    return placed


def suture_distance(points: Points, entry: npt.NDArray[np.float64]) -> FloatArray:
    """Distance in mm to the sagittal, coronal and lambdoid sutures, positive on `entry`'s bone.

    The coronal suture falls from the bregma, 10 mm before the middle of the vertex, forwards to the
    pterion; the lambdoid suture from the lambda to the asterion behind the ear.
    """
    x, y, z = points
    side = np.float32(np.sign(entry[0]))
    coronal = (y - np.float32(10.0) - np.float32(0.36) * (np.float32(70.0) - z)) / np.float32(
        np.hypot(1.0, 0.36)
    )
    lambdoid = (y + np.float32(76.0) - np.float32(0.35) * np.abs(x)) / np.float32(
        np.hypot(1.0, 0.35)
    )
    is_frontal = entry[1] - 10.0 - 0.36 * (70.0 - entry[2]) > 0.0
    own_side = coronal if is_frontal else -coronal
    return np.minimum.reduce([side * x, own_side, lambdoid])


def _epidural(
    volume_ml: float, entry: npt.NDArray[np.float64], grid: Grid, skull: Skull
) -> ExtraAxial:
    # A lens of radius R and thickness q R holds pi R^2 * q R / 2.
    radius_mm = (1000.0 * volume_ml / (0.5 * np.pi * LENS_RATIO)) ** (1.0 / 3.0)
    until_suture = (suture_distance(grid.points, entry) / np.float32(6.0)).clip(0.0, 1.0)
    arc = _arc_mm(grid.points, entry)
    for _ in range(6):
        lens = np.maximum(1.0 - (arc / np.float32(radius_mm)) ** 2, 0.0)
        profile = lens * until_suture
        thickness_mm = _thickness_for_volume(profile, skull.cavity, volume_ml, grid.spacing_mm)
        if thickness_mm < min(0.75 * radius_mm, 38.0):
            break
        radius_mm *= 1.15
    return ExtraAxial(profile, thickness_mm, skull.cavity, entry)


def _subdural(
    volume_ml: float,
    entry: npt.NDArray[np.float64],
    grid: Grid,
    skull: Skull,
    tone: FloatArray,
    *,
    thickness: float,
    other_side: float,
) -> ExtraAxial:
    """A crescent, `thickness` times as thick as usual where its volume allows it.

    `other_side` is the thickness of a second one opposite, relative to its own; 0: there is none.
    """
    x, y, z = grid.points
    side = np.float32(np.sign(entry[0]))
    on_side = side * x > 0.0
    if other_side:
        x = side * np.abs(x)
    own_ml = volume_ml / (1.0 + other_side)
    usual_mm = thickness * (3.0 + 0.075 * own_ml)
    radius_mm = float(np.sqrt(1000.0 * own_ml / usual_mm / np.pi) * 1.25)
    # The crescent ends at the falx and above the floor of the middle fossa, not at sutures, and it
    # is longer from front to back than it is high.
    arc = _arc_mm(Points(x, y * np.float32(0.8), z), entry)
    until_falx = ((side * x - np.float32(3.0)) / np.float32(8.0)).clip(0.0, 1.0)
    until_floor = ((z + np.float32(34.0)) / np.float32(14.0)).clip(0.0, 1.0)
    uneven = (1.0 + np.float32(0.15) * tone).clip(0.5, 1.5) * until_falx * until_floor
    if other_side:
        uneven = np.where(on_side, uneven, np.float32(other_side) * uneven)
    for _ in range(6):
        fall = ((np.float32(radius_mm) - arc) / np.float32(0.6 * radius_mm)).clip(0.0, 1.0)
        profile = np.sqrt(fall) * uneven
        thickness_mm = _thickness_for_volume(profile, skull.cavity, volume_ml, grid.spacing_mm)
        if thickness_mm < thickness * (6.0 + 0.12 * own_ml):
            break
        radius_mm *= 1.15
    return ExtraAxial(profile, thickness_mm, skull.cavity, entry)


def _falcine(
    volume_ml: float, entry: npt.NDArray[np.float64], grid: Grid, skull: Skull
) -> ExtraAxial:
    x, y, z = grid.points
    from_falx = np.float32(np.sign(entry[0])) * x
    from_falx = np.where(skull.cavity > 1.0, from_falx, np.float32(-5.0))
    radius_mm = float(np.sqrt(1000.0 * volume_ml / (3.0 + 0.1 * volume_ml) / np.pi) * 1.3)
    in_plane = np.hypot(y - np.float32(entry[1]), z - np.float32(entry[2]))
    on_falx = (falx_arch(grid.points) / np.float32(4.0)).clip(0.0, 1.0)
    fall = ((np.float32(radius_mm) - in_plane) / np.float32(0.6 * radius_mm)).clip(0.0, 1.0)
    profile = np.sqrt(fall) * on_falx
    thickness_mm = _thickness_for_volume(profile, from_falx, volume_ml, grid.spacing_mm)
    return ExtraAxial(profile, min(thickness_mm, 12.0), from_falx, entry, pushes=False)


def _arc_mm(points: Points, entry: npt.NDArray[np.float64]) -> FloatArray:
    """Distance along the skull, as a chord on a sphere, between each point's ray and `entry`'s."""
    tx, ty, tz = (entry / np.linalg.norm(entry)).astype(np.float32)
    cosine = (points.x * tx + points.y * ty + points.z * tz) / points.radius()
    return np.float32(HEAD_RADIUS_MM) * np.sqrt(np.maximum(2.0 - 2.0 * cosine, 0.0))


def _thickness_for_volume(
    profile: FloatArray, from_wall: FloatArray, volume_ml: float, cell_mm: float
) -> float:
    """The largest thickness with which the haematoma holds a volume, by bisection."""
    near = (profile > 0.02) & (from_wall > -cell_mm) & (from_wall < THICKEST_MM)
    relative, depth_mm = profile[near], from_wall[near]
    past_wall = coverage(depth_mm, cell_mm) - np.float32(1.0)
    low_mm, high_mm = 0.0, THICKEST_MM
    for _ in range(12):
        middle_mm = 0.5 * (low_mm + high_mm)
        # A cell that both surfaces cross holds the overlap of what each leaves.
        before_brain = coverage(np.float32(middle_mm) * relative - depth_mm, cell_mm)
        filled_ml = float((before_brain + past_wall).clip(0.0).sum()) * cell_mm**3 / 1000.0
        low_mm, high_mm = (middle_mm, high_mm) if filled_ml < volume_ml else (low_mm, middle_mm)
    return 0.5 * (low_mm + high_mm)
