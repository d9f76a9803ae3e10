"""A wound: the scalp is swollen, and the bone below it may have been opened by a surgeon."""

from typing import NamedTuple

import numpy as np

from data_prep.phantom.shapes import Points, Position, arc_mm
from data_prep.phantom.skull import Skull

SHARE = 0.35
"""Share of `varied` heads with a wound."""
OPENINGS = {"none": 0.4, "gap": 0.25, "removed": 0.35}
"""What has become of the bone, and how often: untouched, put back with a gap around, not there."""
GAP_MM = 3.0
COVER_MM = 4.0
"""Skin and fat over the swelling."""


class Wound(NamedTuple):
    """One wound.

    Attributes:
        entry: its middle on the bone, head frame, in mm.
        radius_mm: of the opening along the bone.
        opening: a key of `OPENINGS`.
        swelling_mm: how much thicker the scalp over it is.
        fluid_hu: density of what the scalp holds there: fluid, blood or both.
    """

    entry: Position
    radius_mm: float
    opening: str
    swelling_mm: float
    fluid_hu: float


def draw_wound(rng: np.random.Generator) -> Wound | None:
    """Draws a wound, or none."""
    is_wounded = rng.random() < SHARE
    side = float(rng.choice((-1.0, 1.0)))
    entry = (side * 58.0, float(rng.uniform(-25.0, 40.0)), float(rng.uniform(-5.0, 40.0)))
    wound = Wound(
        entry=entry,
        radius_mm=float(rng.uniform(18.0, 55.0)),
        opening=str(rng.choice(list(OPENINGS), p=list(OPENINGS.values()))),
        swelling_mm=float(rng.uniform(2.0, 13.0)),
        fluid_hu=float(rng.uniform(10.0, 65.0)),
    )
    return wound if is_wounded else None


def add_wound(skull: Skull, points: Points, wound: Wound) -> Skull:
    """The fields of a skull with a wound, on the same grid."""
    within = np.float32(wound.radius_mm) - arc_mm(points, np.asarray(wound.entry))
    bone_mm = skull.bone_mm
    if wound.opening != "none":
        gap = np.float32(0.5 * GAP_MM) - np.abs(within)
        opening = within if wound.opening == "removed" else gap
        # Below 0 there is no bone left.
        missing = (opening / np.float32(2.0)).clip(0.0, 1.0)
        bone_mm = bone_mm - missing * (bone_mm + np.float32(3.0))
    around = within + np.float32(0.3 * wound.radius_mm)
    bulge = (around / np.float32(0.5 * wound.radius_mm)).clip(0.0, 1.0)
    skin = (skull.skin + np.float32(wound.swelling_mm) * bulge).astype(np.float32)
    swollen = np.minimum(skin - np.float32(COVER_MM), around)
    return Skull(skull.cavity, bone_mm, skin, swollen)
