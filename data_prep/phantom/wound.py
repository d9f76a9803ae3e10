"""A wound: the scalp is swollen, and the bone below it may have been opened by a surgeon."""

from typing import NamedTuple

import numpy as np

from data_prep.phantom.shapes import FAR_MM, FloatArray, Points, Position
from data_prep.phantom.skull import HEAD_RADIUS_MM, Skull

SHARE = 0.35
"""Share of `varied` heads with a wound."""
OPENINGS = {"none": 0.4, "gap": 0.25, "removed": 0.35}
"""What has become of the bone, and how often: untouched, put back with a gap around, not there."""
GAP_MM = 4.0
COVER_MM = 4.0
"""Skin and fat over the swelling."""
AROUND = 0.3
"""How far the scalp is swollen beyond the opening, as a share of its radius."""
SCALP_MM = 8.0
"""Thickness of a scalp that is not swollen."""


class Wound(NamedTuple):
    """One wound.

    Attributes:
        entry: its middle on the bone, head frame, in mm.
        radius_mm: of the opening, along the bone.
        opening_kind: a key of `OPENINGS`.
        swelling_mm: how much thicker the scalp over it is.
        fluid_hu: density of what the scalp holds there: fluid, blood or both.
    """

    entry: Position
    radius_mm: float
    opening_kind: str
    swelling_mm: float
    fluid_hu: float

    def opening(self, skull: Skull) -> FloatArray:
        """Signed distance in mm to where bone is missing."""
        if self.opening_kind == "none":
            return np.full_like(skull.wound, -FAR_MM)
        if self.opening_kind == "removed":
            return skull.wound
        return np.float32(0.5 * GAP_MM) - np.abs(skull.wound)

    def swollen(self, skull: Skull) -> FloatArray:
        """Signed distance in mm to what the scalp holds, outside the bone and below the skin."""
        bone = np.minimum(skull.cavity + skull.bone_mm, -self.opening(skull))
        outside_bone = -np.maximum(skull.cavity, bone)
        # As far from the skin as the bone's inner side, not deeper, as below the skull's base.
        deepest = np.float32(SCALP_MM + self.swelling_mm) + skull.bone_mm - skull.skin
        around = skull.wound + np.float32(AROUND * self.radius_mm)
        return np.minimum.reduce([skull.skin - np.float32(COVER_MM), outside_bone, deepest, around])


def draw_wound(rng: np.random.Generator) -> Wound | None:
    """Draws a wound, or none; the same number of draws in either case, for what is drawn later."""
    is_wounded = rng.random() < SHARE
    side = float(rng.choice((-1.0, 1.0)))
    entry = (side * 58.0, float(rng.uniform(-25.0, 40.0)), float(rng.uniform(-5.0, 40.0)))
    wound = Wound(
        entry=entry,
        radius_mm=float(rng.uniform(18.0, 55.0)),
        opening_kind=str(rng.choice(list(OPENINGS), p=list(OPENINGS.values()))),
        swelling_mm=float(rng.uniform(2.0, 10.0)),
        fluid_hu=float(rng.uniform(10.0, 65.0)),
    )
    return wound if is_wounded else None


def add_wound(skull: Skull, points: Points, wound: Wound) -> Skull:
    """The fields of a skull with a wound, on the same grid."""
    towards = (np.asarray(wound.entry) / np.linalg.norm(wound.entry)).astype(np.float32)
    along = sum(p * t for p, t in zip(points, towards, strict=True))
    away = np.sqrt(np.maximum(points.squared_distance((0.0, 0.0, 0.0)), np.float32(1.0)))
    arc_mm = np.float32(HEAD_RADIUS_MM) * np.arccos((along / away).clip(-1.0, 1.0))
    within = np.float32(wound.radius_mm) - arc_mm
    around = within + np.float32(AROUND * wound.radius_mm)
    bulge = (around / np.float32(0.5 * wound.radius_mm)).clip(0.0, 1.0)
    skin = skull.skin + np.float32(wound.swelling_mm) * bulge
    return skull._replace(skin=skin, wound=within)
