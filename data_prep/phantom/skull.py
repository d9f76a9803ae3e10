"""The head around the brain: cranial cavity, bone, scalp, and the face of its low slices.

The head frame has its origin at the middle of the cerebrum, in mm: x right, y anterior, z superior.
Sizes are those of adults: cerebrum about 136 x 168 x 72 mm above the commissures, calvarium 4 to
9 mm, scalp 4 to 8 mm.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from data_prep.phantom import shapes
from data_prep.phantom.fields import PeriodicNoise
from data_prep.phantom.shapes import FloatArray, Points

FACE_TOP_MM = 12.0
"""Nothing of the face reaches above this z in the head frame."""
SQUARENESS = 0.3
HEAD_RADIUS_MM = 78.0
"""Of a sphere along which distances on the bone are measured."""


@dataclasses.dataclass(frozen=True)
class Build:
    """One person's proportions."""

    half_width_mm: float
    half_length_mm: float
    half_height_mm: float
    bone_mm: float
    scalp_mm: float
    brow_mm: float
    has_frontal_sinus: bool


class Skull(NamedTuple):
    """Fields on one grid in mm: signed distances, and the thickness of the cavity's bony wall.

    `wound` is the distance along the bone to the edge of a wound, positive within it.
    """

    cavity: FloatArray
    bone_mm: FloatArray
    skin: FloatArray
    wound: FloatArray


class Face(NamedTuple):
    """Signed distances in mm of what only low slices show."""

    bone: FloatArray
    air: FloatArray
    mastoid: FloatArray
    orbit: FloatArray
    globe: FloatArray
    lens: FloatArray


def draw_build(rng: np.random.Generator) -> Build:
    """Draws a person's proportions."""
    return Build(
        half_width_mm=float(rng.normal(67.0, 2.5)),
        half_length_mm=float(rng.normal(83.0, 3.0)),
        half_height_mm=float(rng.normal(72.0, 2.5)),
        bone_mm=float(np.clip(rng.normal(6.2, 0.9), 4.5, 9.0)),
        scalp_mm=float(np.clip(rng.normal(5.5, 1.0), 3.5, 8.5)),
        brow_mm=float(rng.normal(0.0, 2.0)),
        has_frontal_sinus=bool(rng.random() < 0.8),
    )


def make_skull(rng: np.random.Generator, build: Build, points: Points) -> Skull:
    """The skull's fields at a grid's points (head frame)."""
    _, y, z = points
    unevenness = PeriodicNoise(rng, 90.0, 0.4).on_grid(points)
    # An egg: the width falls from the parietal eminences behind to the forehead.
    width = np.float32(build.half_width_mm) * (1.0 - np.float32(0.0011) * (y + np.float32(25.0)))
    vault = shapes.ellipsoid(
        points,
        (0.0, 0.0, 0.0),
        (width, build.half_length_mm, build.half_height_mm),
        squareness=SQUARENESS,
    )
    vault = vault + np.float32(1.2) * unevenness
    floor = z - _floor_height(points)
    posterior_fossa = shapes.ellipsoid(points, (0.0, -42.0, -40.0), (53.0, 40.0, 38.0))
    cavity = shapes.smooth_max(shapes.smooth_min(vault, floor, 8.0), posterior_fossa, 8.0)
    petrous = shapes.in_slab(points, (-65.0, -18.0), _petrous_bones)
    cavity = shapes.smooth_min(cavity, -petrous, 3.0)
    cavity = shapes.smooth_min(cavity, -shapes.in_slab(points, (-70.0, -18.0), _sella), 3.0)

    temple = np.exp(-(((y - 15.0) / 30.0) ** 2) - ((z + 10.0) / 25.0) ** 2)
    poles = np.exp(-(((np.abs(y) - 80.0) / 20.0) ** 2))
    bone_mm = np.float32(build.bone_mm) * (1.0 - np.float32(0.35) * temple)
    bone_mm = bone_mm + np.float32(0.25 * build.bone_mm) * poles + np.float32(0.4) * unevenness

    margin = np.float32(build.bone_mm + build.scalp_mm)
    height = np.where(z < 0.0, np.float32(150.0), np.float32(build.half_height_mm) + margin)
    outline = shapes.ellipsoid(
        points,
        (0.0, 0.0, 0.0),
        (width + margin, build.half_length_mm + float(margin), height),
        squareness=SQUARENESS,
    )
    features = shapes.in_slab(points, (-90.0, 0.0), _nose_and_ears)
    skin = shapes.smooth_max(outline + np.float32(1.2) * unevenness, features, 4.0)
    return Skull(cavity, bone_mm, skin, wound=np.full_like(skin, -shapes.FAR_MM))


def make_face(build: Build, points: Points) -> Face:
    """The face's fields at a grid's points (head frame)."""
    _, y, z = points
    both = points.mirrored()
    front = build.half_length_mm + build.brow_mm
    orbit = shapes.ellipsoid(both, (31.0, front - 26.0, -41.0), (19.0, 27.0, 17.0))
    globe = shapes.ellipsoid(both, (32.0, front - 12.0, -41.0), (12.2, 12.2, 12.2))
    lens = shapes.ellipsoid(both, (32.0, front - 2.5, -41.0), (4.8, 2.2, 4.8))
    ethmoid = shapes.ellipsoid(points, (0.0, front - 26.0, -42.0), (11.0, 24.0, 17.0))
    sphenoid_sinus = shapes.ellipsoid(points, (0.0, 14.0, -46.0), (11.0, 9.0, 9.0))
    antrum = shapes.ellipsoid(both, (29.0, front - 24.0, -76.0), (15.0, 17.0, 14.0))
    nasal_cavity = shapes.ellipsoid(points, (0.0, front - 20.0, -72.0), (13.0, 30.0, 18.0))
    hollows = [orbit, ethmoid, sphenoid_sinus, antrum, nasal_cavity]
    septa = np.float32(1.1) - np.abs((y + np.float32(0.3) * z) % 9.0 - np.float32(4.5))
    septa = np.maximum(septa, np.float32(0.9) - both.x)
    aerated = [
        np.minimum(ethmoid, -septa),
        sphenoid_sinus,
        antrum,
        np.minimum(nasal_cavity, both.x - np.float32(4.0)),
    ]
    if build.has_frontal_sinus:
        middle = (11.0, build.half_length_mm + 3.0, -14.0)
        frontal_sinus = shapes.ellipsoid(both, middle, (12.0, 3.5, 11.0))
        hollows.append(frontal_sinus)
        aerated.append(frontal_sinus)
    air = np.maximum.reduce(aerated)
    walls = [np.float32(1.3) - np.abs(hollow + np.float32(1.3)) for hollow in hollows]
    clivus = shapes.capsule(points, ((0.0, 2.0, -46.0), 9.0), ((0.0, -8.0, -78.0), 6.0))
    cheek = shapes.capsule(both, ((46.0, front - 20.0, -62.0), 4.5), ((66.0, 14.0, -62.0), 3.0))
    mastoid = shapes.ellipsoid(both, (57.0, -36.0, -52.0), (9.0, 13.0, 17.0))
    process = np.minimum(mastoid + np.float32(3.0), np.float32(6.0))
    bone = np.maximum.reduce(
        [*walls, np.minimum(septa, ethmoid), clivus, cheek, process, _petrous_bones(points)]
    )
    return Face(np.minimum(bone, -air), air, mastoid, orbit, globe, lens)


def _nose_and_ears(points: Points) -> FloatArray:
    nose = shapes.ellipsoid(points, (0.0, 91.0, -56.0), (10.0, 15.0, 20.0))
    ears = shapes.ellipsoid(points.mirrored(), (80.0, -14.0, -38.0), (5.0, 13.0, 22.0))
    return np.maximum(nose, ears)


def _sella(points: Points) -> FloatArray:
    return shapes.ellipsoid(points, (0.0, 6.0, -44.0), (13.0, 15.0, 15.0))


def _petrous_bones(points: Points) -> FloatArray:
    return shapes.capsule(
        points.mirrored(), ((60.0, -30.0, -42.0), 11.0), ((14.0, -4.0, -42.0), 6.0)
    )


def _floor_height(points: Points) -> FloatArray:
    """z of the floor: anterior fossa high, middle fossa low, behind it only the tentorium."""
    x, y, _ = points
    anterior = 1.0 / (1.0 + np.exp(-(y - np.float32(24.0)) / np.float32(3.0)))
    midline = np.exp(-((x / np.float32(16.0)) ** 2))
    middle = np.float32(-46.0) + np.float32(14.0) * midline
    return anterior * (np.float32(-22.0) - np.float32(4.0) * midline) + (1.0 - anterior) * middle
