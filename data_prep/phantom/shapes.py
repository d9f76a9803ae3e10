"""Signed distances: the geometry that the phantom is made of.

Distances are in mm, positive inside, arrays float32. They are first-order exact at the surface,
which is all that partial volume needs, and only monotonic far from it.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
Position = tuple[float, float, float]
Ball = tuple[Position, float]
"""A middle and a radius, in mm."""
FAR_MM = 1000.0


class Points(NamedTuple):
    """Coordinates in mm, three arrays of one shape: x right, y anterior, z superior."""

    x: FloatArray
    y: FloatArray
    z: FloatArray

    def mirrored(self) -> "Points":
        """The points with |x| for x: a shape given on one side then stands on both."""
        return Points(np.abs(self.x), self.y, self.z)

    def radius(self) -> FloatArray:
        """Distance from the origin, at least 1 mm."""
        return np.sqrt(self.x * self.x + self.y * self.y + self.z * self.z) + np.float32(1.0)

    def squared_distance(self, middle: npt.ArrayLike) -> FloatArray:
        """Squared distance from `middle`, (3,)."""
        mx, my, mz = np.asarray(middle, np.float32)
        dx, dy, dz = self.x - mx, self.y - my, self.z - mz
        return dx * dx + dy * dy + dz * dz


def ellipsoid(
    points: Points,
    middle: Position,
    semi_axes: tuple[FloatArray | float, FloatArray | float, FloatArray | float],
    squareness: float = 0.0,
) -> FloatArray:
    """Distance to an ellipsoid's surface: (1 - k) / |grad k|, k being the scaled radius.

    `squareness` above 0 fills the axial outline's corners: k^2 = u^2 + v^2 + w^2 - squareness u^2
    v^2, for points within twice the semi-axes.
    """
    u, v, w = (
        (p - np.float32(m)) / np.float32(a)
        for p, m, a in zip(points, middle, semi_axes, strict=True)
    )
    uu, vv, ww = u * u, v * v, w * w
    squared = uu + vv + ww + np.float32(1e-6)
    if squareness:
        squared = np.maximum(squared - np.float32(squareness) * uu * vv, np.float32(1e-6))
    k = np.sqrt(squared)
    ax, ay, az = (np.float32(1.0) / np.float32(a) ** 2 for a in semi_axes)
    slope: FloatArray = np.sqrt(uu * ax + vv * ay + ww * az + np.float32(1e-9))
    return (np.float32(1.0) - k) * k / slope


def capsule(points: Points, start: Ball, end: Ball) -> FloatArray:
    """Distance to the surface of a rod whose radius goes from one ball's to the other's."""
    (origin, r0), (target, r1) = start, end
    axis = np.subtract(target, origin).astype(np.float32)
    dx, dy, dz = (p - np.float32(o) for p, o in zip(points, origin, strict=True))
    t = ((dx * axis[0] + dy * axis[1] + dz * axis[2]) / (axis @ axis)).clip(0.0, 1.0)
    dx, dy, dz = dx - t * axis[0], dy - t * axis[1], dz - t * axis[2]
    return np.float32(r0) + np.float32(r1 - r0) * t - np.sqrt(dx * dx + dy * dy + dz * dz)


def in_slab(
    points: Points, z_range_mm: tuple[float, float], shape: Callable[[Points], FloatArray]
) -> FloatArray:
    """`shape` at a (Z, Y, X) grid's points, computed only where they come near its range of z.

    The rest, which must lie well outside the shape, is given a distance of `-FAR_MM`.
    """
    low_mm, high_mm = z_range_mm
    near = (points.z.max(axis=(1, 2)) > low_mm) & (points.z.min(axis=(1, 2)) < high_mm)
    distance = np.full_like(points.z, -FAR_MM)
    planes = np.flatnonzero(near)
    if planes.size:
        part = slice(planes[0], planes[-1] + 1)
        distance[part] = shape(Points(*(p[part] for p in points)))
    return distance


def chain(points: Points, balls: Sequence[Ball]) -> FloatArray:
    """Distance to the surface of rods that join ball to ball."""
    return np.maximum.reduce([capsule(points, a, b) for a, b in itertools.pairwise(balls)])


def smooth_max(a: FloatArray, b: FloatArray, radius_mm: float) -> FloatArray:
    """Union of two shapes with the joint filled to about `radius_mm`."""
    overlap = np.maximum(np.float32(radius_mm) - np.abs(a - b), 0.0)
    return np.maximum(a, b) + overlap * overlap / np.float32(4.0 * radius_mm)


def smooth_min(a: FloatArray, b: FloatArray, radius_mm: float) -> FloatArray:
    """Intersection of two shapes with the edge rounded to about `radius_mm`."""
    return -smooth_max(-a, -b, radius_mm)


def coverage(distance_mm: FloatArray, width_mm: float) -> FloatArray:
    """Share of a sample of `width_mm` that a surface at `distance_mm` leaves inside, 0..1."""
    return (distance_mm / np.float32(width_mm) + np.float32(0.5)).clip(0.0, 1.0)
