"""The head around the brain: cranial cavity, bone, scalp, orbits, sinuses.

The head frame has its origin at the middle of the cerebrum, in mm: x right, y anterior, z superior.
Sizes are those of adults: cerebrum about 136 x 168 x 72 mm above the commissures, calvarium 4 to
9 mm, scalp 4 to 8 mm.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from data_prep.phantom import shapes
from data_prep.phantom.shapes import FloatArray


@dataclasses.dataclass(frozen=True)
class Build:
    """One person's proportions, in mm but for the last, drawn once a head."""

    half_width_mm: float
    half_length_mm: float
    half_height_mm: float
    bone_mm: float
    scalp_mm: float
    brow_mm: float
    has_frontal_sinus: bool


class Skull(NamedTuple):
    """Signed distances on one grid (mm, positive inside); `bone_mm` is the wall's thickness."""

    cavity: FloatArray
    bone_mm: FloatArray
    skin: FloatArray
    base_bone: FloatArray
    air: FloatArray
    mastoid: FloatArray
    orbit: FloatArray
    globe: FloatArray


def draw_build(rng: np.random.Generator) -> Build:
    """Draws a person's proportions."""
    return Build(
        half_width_mm=float(rng.normal(68.0, 2.5)),
        half_length_mm=float(rng.normal(84.0, 3.0)),
        half_height_mm=float(rng.normal(72.0, 2.5)),
        bone_mm=float(np.clip(rng.normal(6.2, 0.9), 4.5, 9.0)),
        scalp_mm=float(np.clip(rng.normal(5.5, 1.0), 3.5, 8.5)),
        brow_mm=float(rng.normal(0.0, 2.0)),
        has_frontal_sinus=bool(rng.random() < 0.8),
    )


def make_skull(
    rng: np.random.Generator, build: Build, x: FloatArray, y: FloatArray, z: FloatArray
) -> Skull:
    """The skull's fields at head-frame coordinates, three arrays of one shape (Z, Y, X)."""
    unevenness = shapes.PeriodicNoise(rng, 90.0, 0.4)(x, y, z)
    lateral = np.abs(x)
    # An egg: the width falls from the parietal eminences behind to the forehead.
    width = build.half_width_mm * (1.0 - 0.0016 * (y + 25.0) - 0.000012 * (y + 25.0) ** 2)
    width = width.clip(35.0, None).astype(np.float32)
    axes = (width, build.half_length_mm, build.half_height_mm)
    vault = shapes.ellipsoid(x, y, z, (0.0, 0.0, 0.0), axes) + 1.2 * unevenness
    floor = z - _floor_height(lateral, y)
    posterior_fossa = shapes.ellipsoid(x, y, z, (0.0, -42.0, -40.0), (53.0, 40.0, 38.0))
    cavity = shapes.smooth_max(shapes.smooth_min(vault, floor, 8.0), posterior_fossa, 8.0)
    petrous = shapes.capsule(lateral, y, z, (60.0, -30.0, -42.0), (14.0, -4.0, -42.0), 11.0, 6.0)
    sella = shapes.ellipsoid(x, y, z, (0.0, 6.0, -44.0), (13.0, 15.0, 15.0))
    cavity = shapes.smooth_min(cavity, -petrous, 3.0)
    cavity = shapes.smooth_min(cavity, -sella, 3.0)

    # Thin at the temples, thick at the forehead and the occiput.
    bone_mm = (
        build.bone_mm
        * (
            1.0
            - 0.35 * np.exp(-(((y - 15.0) / 30.0) ** 2) - ((z + 10.0) / 25.0) ** 2)
            + 0.25 * np.exp(-(((np.abs(y) - 80.0) / 20.0) ** 2))
        )
        + 0.4 * unevenness
    )
    margin = build.bone_mm + build.scalp_mm
    below = np.where(z < 0.0, 150.0, build.half_height_mm + margin).astype(np.float32)
    outer = shapes.ellipsoid(
        x, y, z, (0.0, 0.0, 0.0), (width + margin, build.half_length_mm + margin, below)
    )
    nose = shapes.ellipsoid(x, y, z, (0.0, 98.0, -52.0), (11.0, 16.0, 22.0))
    ears = shapes.ellipsoid(lateral, y, z, (80.0, -14.0, -38.0), (5.0, 13.0, 22.0))
    skin = shapes.smooth_max(shapes.smooth_max(outer + 1.2 * unevenness, nose, 6.0), ears, 3.0)

    base_bone, air, mastoid, orbit, globe = _face(build, x, y, z)
    return Skull(
        *(
            field.astype(np.float32)
            for field in (cavity, bone_mm, skin, np.maximum(base_bone, petrous), air, mastoid)
        ),
        orbit=orbit,
        globe=globe,
    )


def _floor_height(lateral: FloatArray, y: FloatArray) -> FloatArray:
    """z of the floor: anterior fossa high, middle fossa low, behind it only the tentorium."""
    anterior = 1.0 / (1.0 + np.exp(-(y - 24.0) / 3.0))
    midline = np.exp(-((lateral / 16.0) ** 2))
    middle = -46.0 + 14.0 * midline
    return (anterior * (-22.0 - 4.0 * midline) + (1.0 - anterior) * middle).astype(np.float32)


def _face(
    build: Build, x: FloatArray, y: FloatArray, z: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
    lateral = np.abs(x)
    front = build.half_length_mm + build.brow_mm
    orbit = shapes.ellipsoid(lateral, y, z, (31.0, front - 26.0, -41.0), (19.0, 27.0, 17.0))
    globe = shapes.ellipsoid(lateral, y, z, (32.0, front - 12.0, -41.0), (12.2, 12.2, 12.2))
    ethmoid = shapes.ellipsoid(x, y, z, (0.0, front - 26.0, -42.0), (11.0, 24.0, 17.0))
    sphenoid_sinus = shapes.ellipsoid(x, y, z, (0.0, 14.0, -46.0), (11.0, 9.0, 9.0))
    antrum = shapes.ellipsoid(lateral, y, z, (29.0, front - 24.0, -76.0), (15.0, 17.0, 14.0))
    nasal_cavity = shapes.ellipsoid(x, y, z, (0.0, front - 20.0, -72.0), (13.0, 30.0, 18.0))
    cheek = shapes.capsule(
        lateral, y, z, (46.0, front - 20.0, -62.0), (66.0, 14.0, -62.0), 4.5, 3.0
    )
    frontal_sinus = shapes.ellipsoid(
        lateral, y, z, (11.0, build.half_length_mm + 3.0, -14.0), (12.0, 3.5, 11.0)
    )
    if not build.has_frontal_sinus:
        frontal_sinus = np.full_like(x, -50.0)
    septa = 1.1 - np.abs((y + 0.3 * z) % 9.0 - 4.5)
    septa = np.maximum(septa, 0.9 - lateral)
    ethmoid_air = np.minimum(ethmoid, -septa)
    hollows = [orbit, ethmoid, sphenoid_sinus, antrum, nasal_cavity, frontal_sinus]
    walls = [np.float32(1.3) - np.abs(hollow + 1.3) for hollow in hollows]
    septa_bone = np.minimum(septa, ethmoid)
    clivus = shapes.capsule(x, y, z, (0.0, 2.0, -46.0), (0.0, -8.0, -78.0), 9.0, 6.0)
    base_bone = np.maximum.reduce([*walls, septa_bone, clivus, cheek])
    mouth_of_air = np.maximum.reduce(
        [ethmoid_air, sphenoid_sinus, antrum, np.minimum(nasal_cavity, lateral - 4.0)]
    )
    air = np.maximum(mouth_of_air, frontal_sinus)
    mastoid = shapes.ellipsoid(lateral, y, z, (57.0, -36.0, -52.0), (9.0, 13.0, 17.0))
    base_bone = np.where(air > 0.0, -air, np.maximum(base_bone, np.minimum(mastoid + 3.0, 6.0)))
    return tuple(  # type: ignore[return-value]
        np.asarray(field, np.float32) for field in (base_bone, air, mastoid, orbit, globe)
    )
