"""Mass effect: where tissue came from before a bleed took its room."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_prep.phantom.extra_axial import ExtraAxial
from data_prep.phantom.shapes import FloatArray, Points


class Site(NamedTuple):
    """Middle (head frame, mm) and volume of one parenchymal bleed."""

    middle: npt.NDArray[np.float64]
    volume_ml: float


def displace(
    walls: list[ExtraAxial], sites: list[Site], points: Points, cavity: FloatArray
) -> tuple[Points, FloatArray]:
    """Moves tissue out of the way of bleeds.

    Below an extra-axial bleed the surface yields by the bleed's thickness and the midline by about
    a quarter of it. A parenchymal bleed of radius a moves the tissue at distance r outwards by
    a^3 / (6 r^2), half of what would keep the tissue's volume: the rest of it is destroyed.

    Args:
        walls: extra-axial bleeds.
        sites: parenchymal bleeds.
        points: head-frame coordinates.
        cavity: distance below the inner table in mm.

    Returns:
        Brain coordinates of each point, and its distance below the inner table in them.
    """
    depth = cavity
    moved = [np.zeros_like(cavity) for _ in range(3)]
    for bleed in walls:
        if not bleed.pushes:
            continue
        thickness = np.float32(bleed.thickness_mm) * bleed.profile
        below = np.maximum(cavity - thickness, 0.0)
        near = thickness * np.exp(-below / np.float32(35.0))
        depth = depth - near
        deep_share = (below / np.float32(30.0)).clip(0.0, 1.0)
        away = points.squared_distance(bleed.entry)
        deep = np.float32(0.5 * bleed.thickness_mm) * np.exp(-away / np.float32(80.0**2))
        # At the surface towards the middle of the head, deep down away from the entry.
        towards_middle = (1.0 - deep_share) * near / points.radius()
        from_entry = deep_share * deep
        inwards = -bleed.entry / np.linalg.norm(bleed.entry)
        for axis, p in enumerate(points):
            moved[axis] += np.float32(inwards[axis]) * from_entry - towards_middle * p
    for middle, volume_ml in sites:
        cubed_mm3 = 1000.0 * volume_ml * 3.0 / (4.0 * np.pi)
        distance = np.sqrt(points.squared_distance(middle))
        outside = np.maximum(distance, np.float32(np.cbrt(cubed_mm3)))
        push = np.float32(cubed_mm3 / 6.0) / outside**3 * (cavity / np.float32(15.0)).clip(0.0, 1.0)
        for axis, p in enumerate(points):
            moved[axis] += push * (p - np.float32(middle[axis]))
    return Points(*(p - m for p, m in zip(points, moved, strict=True))), depth
