"""The brain: cortex with sulci, ventricles, deep nuclei, cisterns, falx and tentorium.

`make_brain` gives smooth fields on a coarse grid; `csf_spaces` and the membranes turn them, at any
resolution, into tissue. All work in brain coordinates: head-frame coordinates from which the
displacement by a bleed has been taken off, so that mass effect moves everything at once.
"""

import functools
from typing import NamedTuple

import numpy as np

from data_prep.phantom import shapes
from data_prep.phantom.cerebrum import Cerebrum
from data_prep.phantom.fields import PeriodicNoise
from data_prep.phantom.shapes import Ball, FloatArray, Points

# A lateral ventricle on the right as balls in mm: frontal horn, body, trigone, temporal horn; then
# its occipital horn.
LATERAL_VENTRICLE: tuple[Ball, ...] = (
    ((13.0, 36.0, 1.0), 4.0),
    ((8.0, 22.0, 5.0), 5.6),
    ((10.0, 2.0, 17.0), 5.4),
    ((15.0, -18.0, 17.0), 5.8),
    ((24.0, -32.0, 6.0), 7.0),
    ((34.0, -18.0, -14.0), 3.2),
    ((30.0, 4.0, -22.0), 2.4),
)
OCCIPITAL_HORN: tuple[Ball, ...] = (((24.0, -32.0, 6.0), 6.5), ((21.0, -58.0, 2.0), 3.4))
BRAINSTEM: tuple[Ball, ...] = (
    ((0.0, -10.0, -10.0), 13.0),
    ((0.0, -12.0, -26.0), 14.5),
    ((0.0, -14.0, -44.0), 14.0),
    ((0.0, -30.0, -80.0), 8.0),
)


class Brain(NamedTuple):
    """Fields on one grid; distances in mm, positive inside.

    Attributes:
        x: brain coordinate, patient's right.
        y: brain coordinate, anterior.
        z: brain coordinate, superior.
        depth: distance below the inner table in brain coordinates.
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

    @property
    def points(self) -> Points:
        """Brain coordinates."""
        return Points(self.x, self.y, self.z)


def make_brain(
    rng: np.random.Generator,
    cerebrum: Cerebrum,
    points: Points,
    depth: FloatArray,
    grid_mm: float,
) -> Brain:
    """The brain's fields.

    Args:
        rng: shared by all studies of a head.
        cerebrum: what the brain is like.
        points: brain coordinates of an even grid, (Z, Y, X).
        depth: distance below the inner table in brain coordinates.
        grid_mm: the grid's spacing.
    """
    fold, reach = _folds(rng, cerebrum, points, depth, grid_mm)
    brainstem = shapes.in_slab(points, (-110.0, 15.0), _brainstem)
    tone = PeriodicNoise(rng, 28.0, 0.6).on_grid(points)
    return Brain(
        *points,
        depth=depth,
        fold=fold,
        reach=reach,
        ventricle=shapes.in_slab(points, (-65.0, 45.0), functools.partial(_ventricles, cerebrum)),
        nuclei=shapes.in_slab(points, (-20.0, 26.0), _nuclei),
        cistern=_cisterns(points, brainstem, tone),
        brainstem=brainstem,
        tone=tone,
    )


def tentorium_height(points: Points) -> FloatArray:
    """z of the tentorium: highest at the midline, falling to the sides and to the occiput."""
    backwards = np.minimum(points.y + np.float32(25.0), 0.0)
    return np.float32(-5.0) - np.float32(0.42) * np.abs(points.x) + np.float32(0.22) * backwards


def infratentorial(points: Points) -> FloatArray:
    """Signed distance, positive in the posterior fossa."""
    return np.minimum(tentorium_height(points) - points.z, np.float32(-6.0) - points.y)


def falx_arch(points: Points) -> FloatArray:
    """Signed distance in the midline plane, positive where the falx spans it."""
    y, z = points.y, points.z
    arch = ((y + np.float32(4.0)) / 58.0) ** 2 + ((z - np.float32(6.0)) / 36.0) ** 2
    return np.minimum(np.float32(16.0) * (arch - 1.0), np.float32(2.0) - infratentorial(points))


def csf_spaces(brain: Brain, cerebrum: Cerebrum) -> FloatArray:
    """Signed distance to the spaces around the brain that hold CSF; ventricles are left out.

    Sulci, Sylvian and interhemispheric fissures, the basal cisterns and the layer over the gyral
    crowns.
    """
    x, y, z = brain.points
    lateral = np.abs(x)
    width = np.float32(cerebrum.sulcus_mm)
    sulci = np.minimum(width - np.abs(brain.fold), brain.reach)

    insula = np.float32(41.0) - np.float32(0.008) * (y - np.float32(4.0)) ** 2
    insula = insula + np.float32(1.5) * brain.tone
    extent = np.minimum(
        np.float32(22.0) - np.abs(y - np.float32(2.0)),
        np.float32(13.0) - np.abs(z - np.float32(1.0)),
    )
    insular = np.minimum(width + np.float32(0.2) - np.abs(lateral - insula), extent)
    rise = z + np.float32(2.0) + np.float32(0.38) * (y - np.float32(4.0))
    rise = rise + np.float32(3.0) * brain.tone
    extent = np.minimum(lateral - insula, np.float32(27.0) - np.abs(y + np.float32(2.0)))
    opercular = np.minimum(width + np.float32(0.3) - np.abs(rise), extent)

    callosum = ((y + np.float32(4.0)) / 50.0) ** 2 + ((z - np.float32(6.0)) / 27.0) ** 2
    extent = np.minimum(
        np.float32(14.0) * (callosum - 1.0), np.float32(4.0) - infratentorial(brain.points)
    )
    fissure = np.minimum(width + np.float32(0.4) - lateral, extent)

    crowns = np.float32(cerebrum.subdural_gap_mm) - brain.depth
    return np.maximum.reduce([sulci, insular, opercular, fissure, brain.cistern, crowns])


def _folds(
    rng: np.random.Generator,
    cerebrum: Cerebrum,
    points: Points,
    depth: FloatArray,
    grid_mm: float,
) -> tuple[FloatArray, FloatArray]:
    """Signed distance to the sulci's middle surfaces, and the height above their bottoms.

    Sulci are the zeros of a narrow-band noise that is read where the ray from the brain's middle
    meets the surface, so that they run inwards from it; dividing by the gradient makes a distance.
    """
    outwards = np.float32(1.0) + np.float32(0.85) * depth.clip(0.0, 40.0) / points.radius()
    pattern = PeriodicNoise(rng, 25.0, 0.22).at(Points(*(p * outwards for p in points)))
    squared: FloatArray = np.zeros_like(pattern)
    for slope in np.gradient(pattern, np.float32(grid_mm)):
        squared += slope * slope
    fold = pattern / np.sqrt(squared).clip(0.1, None)
    variation = PeriodicNoise(rng, 50.0, 0.5).on_grid(points)
    reach = np.float32(cerebrum.sulcus_depth_mm) + np.float32(4.0) * variation - depth
    return fold, np.minimum(reach, -infratentorial(points) - np.float32(2.0))


def _brainstem(points: Points) -> FloatArray:
    return shapes.chain(points, BRAINSTEM)


def _nuclei(points: Points) -> FloatArray:
    both = points.mirrored()
    caudate = shapes.ellipsoid(both, (14.5, 25.0, 6.0), (4.5, 8.5, 8.5))
    lentiform = shapes.ellipsoid(both, (25.0, 7.0, 1.0), (6.5, 15.0, 10.0))
    thalamus = shapes.ellipsoid(both, (11.5, -10.0, 5.0), (7.5, 13.0, 9.0))
    return np.maximum.reduce([caudate, lentiform, thalamus])


def _ventricles(cerebrum: Cerebrum, points: Points) -> FloatArray:
    both = points.mirrored()
    side = np.float32(0.5 * cerebrum.asymmetry_mm) * np.tanh(points.x / np.float32(8.0))
    horns = shapes.smooth_max(
        shapes.chain(both, LATERAL_VENTRICLE), shapes.chain(both, OCCIPITAL_HORN), 3.0
    )
    horns = horns + np.float32(cerebrum.ventricle_mm) + side
    third = shapes.ellipsoid(points, (0.0, 2.0, -4.0), (2.6, 14.0, 10.0))
    fourth = shapes.ellipsoid(points, (0.0, -33.0, -38.0), (8.0, 5.5, 11.0))
    middle = np.maximum(third, fourth) + np.float32(0.4 * cerebrum.ventricle_mm)
    return np.maximum(horns, middle)


def _cisterns(points: Points, brainstem: FloatArray, tone: FloatArray) -> FloatArray:
    half_mm = (np.float32(1.1) + np.float32(1.2) * tone).clip(0.0, 2.6)
    around = half_mm - np.abs(brainstem + half_mm)
    around = np.minimum(
        around, np.minimum(np.float32(-9.0) - points.z, points.y + np.float32(24.0))
    )
    return np.maximum(around, shapes.in_slab(points, (-95.0, 15.0), _wide_cisterns))


def _wide_cisterns(points: Points) -> FloatArray:
    suprasellar = shapes.ellipsoid(points, (0.0, 12.0, -25.0), (14.0, 9.0, 8.0))
    quadrigeminal = shapes.ellipsoid(points, (0.0, -29.0, -7.0), (13.0, 4.5, 7.0))
    magna = shapes.ellipsoid(points, (0.0, -66.0, -72.0), (16.0, 9.0, 7.0))
    return np.maximum.reduce([suprasellar, quadrigeminal, magna])
