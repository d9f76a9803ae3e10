"""The brain: cortex with sulci, ventricles, deep nuclei, cisterns, falx and tentorium.

`make_brain` gives smooth fields on a coarse grid; `csf_spaces` turns them, at any resolution, into
the spaces of the cerebrospinal fluid. Both work in brain coordinates: head-frame coordinates from
which the displacement by a bleed has been taken off, so that mass effect moves everything at once.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from data_prep.phantom import shapes
from data_prep.phantom.shapes import FloatArray

FAR_MM = -25.0
"""The distance given to points that lie outside a shape's neighbourhood."""

# Wall of a lateral ventricle: (|x|, y, z) in mm and radius, from frontal horn over trigone to
# temporal horn; then the occipital horn.
HORNS = (
    ((13.0, 36.0, 1.0), 4.0),
    ((8.0, 22.0, 5.0), 5.6),
    ((10.0, 2.0, 17.0), 5.4),
    ((15.0, -18.0, 17.0), 5.8),
    ((24.0, -32.0, 6.0), 7.0),
    ((34.0, -18.0, -14.0), 3.2),
    ((30.0, 4.0, -22.0), 2.4),
)
OCCIPITAL_HORN = (((24.0, -32.0, 6.0), 6.5), ((21.0, -58.0, 2.0), 3.4))
BRAINSTEM = (
    ((0.0, -10.0, -10.0), 13.0),
    ((0.0, -12.0, -26.0), 14.5),
    ((0.0, -14.0, -44.0), 14.0),
    ((0.0, -30.0, -80.0), 8.0),
)


@dataclasses.dataclass(frozen=True)
class Cerebrum:
    """What age and chance make of one brain.

    Attributes:
        sulcus_mm: half-width of an open sulcus at its mouth.
        sulcus_depth_mm: how deep sulci reach.
        subdural_gap_mm: CSF between the arachnoid and the gyral crowns.
        ventricle_mm: added to the radius of the ventricles.
        asymmetry: the right lateral ventricle's share above the left one's.
        falx_mm: half-thickness of the falx.
        calcified_pineal: whether the pineal gland is calcified.
        calcified_choroid: whether the choroid plexus is calcified.
    """

    sulcus_mm: float
    sulcus_depth_mm: float
    subdural_gap_mm: float
    ventricle_mm: float
    asymmetry: float
    falx_mm: float
    calcified_pineal: bool
    calcified_choroid: bool


class Brain(NamedTuple):
    """Fields on one grid; distances in mm, positive inside.

    Attributes:
        x: brain coordinate, patient's right.
        y: brain coordinate, anterior.
        z: brain coordinate, superior.
        depth: distance below the inner table, before displacement.
        fold: signed distance to the nearest middle surface of a sulcus.
        reach: how far above the bottom of its sulcus a point lies.
        ventricle: all four ventricles.
        nuclei: caudate, lentiform nucleus and thalamus.
        cistern: the basal cisterns.
        brainstem: midbrain, pons and medulla.
        tone: cloudy noise of deviation 1.
    """

    x: FloatArray
    y: FloatArray
    z: FloatArray
    depth: FloatArray
    fold: FloatArray
    reach: FloatArray
    ventricle: FloatArray
    nuclei: FloatArray
    cistern: FloatArray
    brainstem: FloatArray
    tone: FloatArray


def draw_cerebrum(rng: np.random.Generator, age_years: float) -> Cerebrum:
    """Draws a brain of an age; sulci and ventricles widen with it."""
    atrophy = float(np.clip((age_years - 45.0) / 45.0 + rng.normal(0.0, 0.2), -0.3, 1.2))
    return Cerebrum(
        sulcus_mm=0.75 + 0.75 * max(atrophy, 0.0) + 0.2 * atrophy,
        sulcus_depth_mm=float(rng.uniform(13.0, 18.0)),
        subdural_gap_mm=0.9 + 1.5 * max(atrophy, 0.0),
        ventricle_mm=float(rng.normal(-0.6 + 2.6 * atrophy, 0.5)),
        asymmetry=float(rng.normal(0.0, 0.8)),
        falx_mm=float(rng.uniform(0.6, 1.1)),
        calcified_pineal=bool(rng.random() < 0.012 * age_years),
        calcified_choroid=bool(rng.random() < 0.009 * age_years),
    )


def make_brain(
    rng: np.random.Generator,
    cerebrum: Cerebrum,
    x: FloatArray,
    y: FloatArray,
    z: FloatArray,
    depth: FloatArray,
    grid_mm: float,
) -> Brain:
    """The brain's fields.

    Args:
        rng: shared by all studies of a head.
        cerebrum: what the brain is like.
        x: (Z, Y, X) brain coordinates; the grid is even, its spacing `grid_mm` on all axes.
        y: likewise.
        z: likewise.
        depth: distance below the inner table in brain coordinates.
        grid_mm: the grid's spacing.
    """
    fold, reach = _folds(rng, cerebrum, x, y, z, depth, grid_mm)
    lateral = np.abs(x)
    nuclei = np.maximum.reduce(
        [
            shapes.ellipsoid(lateral, y, z, (14.5, 25.0, 6.0), (4.5, 8.5, 8.5)),
            shapes.ellipsoid(lateral, y, z, (25.0, 7.0, 1.0), (6.5, 15.0, 10.0)),
            shapes.ellipsoid(lateral, y, z, (11.5, -10.0, 5.0), (7.5, 13.0, 9.0)),
        ]
    )
    brainstem = _chain(lateral, y, z, BRAINSTEM)
    return Brain(
        x=x,
        y=y,
        z=z,
        depth=depth,
        fold=fold,
        reach=reach,
        ventricle=_ventricles(cerebrum, x, y, z),
        nuclei=nuclei,
        cistern=_cisterns(x, y, z, brainstem),
        brainstem=brainstem,
        tone=shapes.PeriodicNoise(rng, 30.0, 0.6)(x, y, z),
    )


def tentorium_height(x: FloatArray, y: FloatArray) -> FloatArray:
    """z of the tentorium: highest at the midline, falling to the sides and to the occiput."""
    return (
        np.float32(-5.0)
        - np.float32(0.42) * np.abs(x)
        + np.float32(0.22) * np.minimum(y + np.float32(25.0), 0.0)
    )


def infratentorial(x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
    """Signed distance, positive in the posterior fossa."""
    return np.minimum(tentorium_height(x, y) - z, np.float32(-6.0) - y)


def csf_spaces(brain: Brain, cerebrum: Cerebrum) -> FloatArray:
    """Signed distance to the spaces outside the brain that hold CSF, ventricles left out.

    Sulci, Sylvian and interhemispheric fissures, the basal cisterns and the layer between
    arachnoid and gyral crowns, as a share of the brain's own coordinates: mass effect moves them.
    """
    x, y, z = brain.x, brain.y, brain.z
    lateral = np.abs(x)
    width = np.float32(cerebrum.sulcus_mm)
    sulci = np.minimum(width - np.abs(brain.fold), brain.reach)

    insula = np.float32(41.0) - np.float32(0.008) * (y - np.float32(4.0)) ** 2
    on_insula = np.minimum(22.0 - np.abs(y - np.float32(2.0)), 13.0 - np.abs(z - np.float32(1.0)))
    insular = np.minimum(width + np.float32(0.4) - np.abs(lateral - insula), on_insula)
    rise = z + np.float32(2.0) + np.float32(0.38) * (y - np.float32(4.0))
    opercular = np.minimum(
        width + np.float32(0.5) - np.abs(rise + np.float32(1.5) * brain.tone),
        np.minimum(lateral - insula, 27.0 - np.abs(y + np.float32(2.0))),
    )

    callosum = (((y + 4.0) / 50.0) ** 2 + ((z - 6.0) / 27.0) ** 2 - 1.0) * 14.0
    between = np.minimum(callosum, np.float32(4.0) - infratentorial(x, y, z))
    fissure = np.minimum(np.float32(0.4) + width - lateral, between)

    crowns = np.float32(cerebrum.subdural_gap_mm) - brain.depth
    sheets = np.maximum.reduce([sulci, insular, opercular, fissure])
    return np.maximum.reduce([sheets, brain.cistern, crowns])


def _folds(
    rng: np.random.Generator,
    cerebrum: Cerebrum,
    x: FloatArray,
    y: FloatArray,
    z: FloatArray,
    depth: FloatArray,
    grid_mm: float,
) -> tuple[FloatArray, FloatArray]:
    """Signed distance to the sulci's middle surfaces, and the height above their bottoms.

    Sulci are the zeros of a narrow-band noise that is read where the ray from the brain's middle
    meets the surface, so that they run inwards from it; dividing by the gradient makes a distance.
    """
    radius = np.sqrt(x * x + y * y + z * z) + np.float32(1.0)
    outwards = 1.0 + 0.85 * depth.clip(0.0, 40.0) / radius
    pattern = shapes.PeriodicNoise(rng, 25.0, 0.22)(x * outwards, y * outwards, z * outwards)
    slopes = np.gradient(pattern, grid_mm)
    steepness = np.sqrt(sum(slope * slope for slope in slopes))
    fold = pattern / np.maximum(steepness, np.float32(0.10))
    variation = shapes.PeriodicNoise(rng, 50.0, 0.5)(x, y, z)
    reach = np.float32(cerebrum.sulcus_depth_mm) + np.float32(4.0) * variation - depth
    below = infratentorial(x, y, z)
    return fold.astype(np.float32), np.minimum(reach, -below - np.float32(2.0)).astype(np.float32)


def _ventricles(cerebrum: Cerebrum, x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
    lateral = np.abs(x)
    side = np.float32(0.5 * cerebrum.asymmetry) * np.tanh(x / np.float32(8.0))
    near = np.flatnonzero((z.max(axis=(1, 2)) > -60.0) & (z.min(axis=(1, 2)) < 42.0))
    ventricle = np.full_like(x, FAR_MM)
    if not near.size:
        return ventricle
    part = slice(near[0], near[-1] + 1)
    lx, px, py, pz = lateral[part], x[part], y[part], z[part]
    # Horns are flatter from side to side than they are long: squeeze x about their middle line.
    horns = shapes.smooth_max(_chain(lx, py, pz, HORNS), _chain(lx, py, pz, OCCIPITAL_HORN), 3.0)
    horns = horns + np.float32(cerebrum.ventricle_mm) + side[part]
    third = shapes.ellipsoid(px, py, pz, (0.0, 2.0, -4.0), (2.6, 14.0, 10.0))
    fourth = shapes.ellipsoid(px, py, pz, (0.0, -33.0, -38.0), (8.0, 5.5, 11.0))
    middle = np.maximum(third, fourth) + np.float32(0.4 * cerebrum.ventricle_mm)
    ventricle[part] = np.maximum(horns, middle).clip(FAR_MM, None)
    return ventricle


def _chain(
    x: FloatArray,
    y: FloatArray,
    z: FloatArray,
    points: tuple[tuple[shapes.Point, float], ...],
) -> FloatArray:
    links = [
        shapes.capsule(x, y, z, start, end, r0, r1)
        for (start, r0), (end, r1) in zip(points[:-1], points[1:], strict=True)
    ]
    return np.maximum.reduce(links)


def _cisterns(x: FloatArray, y: FloatArray, z: FloatArray, brainstem: FloatArray) -> FloatArray:
    around = np.float32(2.2) - np.abs(brainstem + np.float32(2.2))
    around = np.minimum(around, np.minimum(np.float32(-9.0) - z, y + np.float32(24.0)))
    suprasellar = shapes.ellipsoid(x, y, z, (0.0, 12.0, -25.0), (15.0, 10.0, 8.0))
    quadrigeminal = shapes.ellipsoid(x, y, z, (0.0, -29.0, -7.0), (13.0, 4.5, 7.0))
    magna = shapes.ellipsoid(x, y, z, (0.0, -66.0, -72.0), (16.0, 9.0, 7.0))
    return np.maximum.reduce([around, suprasellar, quadrigeminal, magna])
