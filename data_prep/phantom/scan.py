"""How a head is scanned: sampling grid, spacing, gantry tilt and where the head lies in the gantry.

The scan frame has its origin at the middle of the field of view, in mm: x to the patient's right,
y to anterior, z to superior along the slice normal. Arrays here are (k, row, col): slices from
inferior to superior, rows from anterior to posterior, columns from the patient's right to left.
"""

import dataclasses
import math

import numpy as np
import numpy.typing as npt

from data_prep.phantom.shapes import FloatArray, Points

# In-plane spacing at 512 x 512 in BHSD is 0.37 to 0.68 mm, most often 0.488 mm (250 mm field).
FIELDS_OF_VIEW_MM = (250.0, 250.0, 250.0, 253.3, 230.0, 220.0, 240.0, 265.0)
SLICE_STEPS_MM = (5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 4.5, 4.0, 5.5, 6.0)
TILTED_SHARE = 121 / 192
COARSE_PIXEL_MM = 2.5
"""From this pixel on, the grid of the head's fields is 3 mm instead of 2."""
SLAB_MM = 5.0
"""Slices are averages over at most this thickness, however far apart they lie."""


@dataclasses.dataclass(frozen=True)
class Scan:
    """One acquisition.

    Attributes:
        size: rows and columns.
        pixel_mm: in-plane spacing.
        spacing_mm: distance between slice centres.
        num_slices: number of slices.
        first_z_mm: z of the first slice's centre.
        tilt_rad: gantry tilt about the patient's left-right axis.
        table_z_mm: position of the first slice along the table, for the header only.
        rotation: (3, 3), head frame to scan frame.
        offset_mm: (3,), the head's centre in the scan frame.
    """

    size: int
    pixel_mm: float
    spacing_mm: float
    num_slices: int
    first_z_mm: float
    tilt_rad: float
    table_z_mm: float
    rotation: npt.NDArray[np.float64]
    offset_mm: npt.NDArray[np.float64]

    @property
    def x_mm(self) -> FloatArray:
        """(size,) x of each column; the patient's right (positive) comes first."""
        return ((self.size - 1) / 2 - np.arange(self.size, dtype=np.float32)) * self.pixel_mm

    @property
    def y_mm(self) -> FloatArray:
        """(size,) y of each row; anterior (positive) comes first."""
        return self.x_mm

    @property
    def z_mm(self) -> FloatArray:
        """(num_slices,) z of each slice, ascending."""
        return self.first_z_mm + np.arange(self.num_slices, dtype=np.float32) * self.spacing_mm

    def to_head(self, points: Points) -> Points:
        """Head-frame coordinates of scan-frame ones."""
        px, py, pz = (p - np.float32(o) for p, o in zip(points, self.offset_mm, strict=True))
        turn = self.rotation.T.astype(np.float32)
        return Points(*(row[0] * px + row[1] * py + row[2] * pz for row in turn))


@dataclasses.dataclass(frozen=True)
class Grid:
    """The coarse, even grid in the scan frame on which a head's smooth fields are computed.

    Attributes:
        spacing_mm: the same on all axes.
        axes_mm: (z, y, x); z ascends, y and x descend as rows and columns do.
        points: head-frame coordinates, each (Z, Y, X).
        scan_y: (Z, Y, X) y in the scan frame; a supine patient's lowest point has the least.
    """

    spacing_mm: float
    axes_mm: tuple[FloatArray, FloatArray, FloatArray]
    points: Points
    scan_y: FloatArray

    @property
    def cell_ml(self) -> float:
        """Volume of a grid cell."""
        return self.spacing_mm**3 / 1000.0


def make_grid(scan: Scan) -> Grid:
    """The grid that covers all of the head that a scan can see."""
    spacing_mm = 2.0 if scan.pixel_mm < COARSE_PIXEL_MM else 3.0
    half_mm = 0.5 * scan.size * scan.pixel_mm

    def axis(low_mm: float, high_mm: float) -> FloatArray:
        return np.arange(low_mm, high_mm + spacing_mm, spacing_mm, dtype=np.float32)

    x_mm, y_mm, _ = scan.offset_mm
    z = axis(scan.z_mm[0] - SLAB_MM, scan.z_mm[-1] + SLAB_MM)
    y = axis(max(y_mm - 112.0, -half_mm), min(y_mm + 124.0, half_mm))[::-1].copy()
    x = axis(max(x_mm - 94.0, -half_mm), min(x_mm + 94.0, half_mm))[::-1].copy()
    scan_z, scan_y, scan_x = np.meshgrid(z, y, x, indexing="ij")
    points = scan.to_head(Points(scan_x, scan_y, scan_z))
    return Grid(spacing_mm, (z, y, x), points, scan_y)


def draw_scan(
    rng: np.random.Generator, size: int, max_slices: int | None, *, varied: bool = False
) -> Scan:
    """Draws an acquisition that covers the head from the skull base to above the vertex.

    Args:
        rng: the study's own generator.
        size: rows and columns of a slice.
        max_slices: None for BHSD's slice counts; else no more slices than this, further apart.
        varied: whether heads lie as askew as those of the injured may.
    """
    field_mm = float(rng.choice(FIELDS_OF_VIEW_MM))
    tilted = rng.random() < TILTED_SHARE
    tilt_rad = math.radians(rng.uniform(3.0, 24.0)) if tilted else 0.0
    # BHSD's headers hold the table step divided by cos(tilt): 5 mm at 19 degrees is 5.288.
    spacing_mm = float(rng.choice(SLICE_STEPS_MM)) / math.cos(tilt_rad)
    first_z_mm = float(rng.uniform(-72.0, -62.0))
    last_z_mm = float(rng.uniform(84.0, 92.0))
    num_slices = int(np.clip(round((last_z_mm - first_z_mm) / spacing_mm) + 1, 24, 60))
    if max_slices is not None and num_slices > max_slices:
        spacing_mm *= num_slices / max_slices
        first_z_mm += (spacing_mm - spacing_mm * max_slices / num_slices) / 2
        num_slices = max_slices
    askew = 2.5 if varied else 1.0
    turns = askew * rng.normal(0.0, [5.0, 4.0, 3.0]).clip(-12.0, 12.0)
    yaw, pitch, roll = np.radians(turns)
    offset_mm = np.asarray([*rng.normal(0.0, [5.0, 7.0]).clip(-14.0, 14.0), 0.0])
    return Scan(
        size=size,
        pixel_mm=field_mm / size,
        spacing_mm=spacing_mm,
        num_slices=num_slices,
        first_z_mm=first_z_mm,
        tilt_rad=tilt_rad,
        table_z_mm=float(rng.uniform(-150.0, 150.0)),
        rotation=_rotation(yaw, pitch, roll),
        offset_mm=offset_mm,
    )


def _rotation(yaw: float, pitch: float, roll: float) -> npt.NDArray[np.float64]:
    cz, sz = math.cos(yaw), math.sin(yaw)
    cx, sx = math.cos(pitch), math.sin(pitch)
    cy, sy = math.cos(roll), math.sin(roll)
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    return about_z @ about_x @ about_y
