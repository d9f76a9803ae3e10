"""What the scanner adds: blur, noise, head-rest, the 12-bit range."""

import numpy as np
import numpy.typing as npt
import scipy.ndimage

from data_prep.phantom import hounsfield
from data_prep.phantom.scan import Scan
from data_prep.phantom.shapes import FloatArray, coverage

BLUR_MM = 0.42
"""Deviation of the in-plane point spread of a soft reconstruction kernel."""
GRAIN_MM = 6.5
"""Noise has next to no power at wavelengths longer than this."""


NOISE_HU = (3.0, 5.5)
"""Deviation of the noise."""
VARIED_BLUR_MM = (0.4, 0.9)
VARIED_NOISE_HU = (1.8, 4.5)
"""In 36 slices of 25 public scans, brought to pixels of 1 mm, it is 1.8 to 4.2, half below 2.5."""


def add_scanner(
    rng: np.random.Generator,
    scan: Scan,
    hu: FloatArray,
    *,
    varied: bool = False,
) -> npt.NDArray[np.int16]:
    """Blur, head-rest, noise and the 12-bit range: (k, row, col) float32 HU to int16 HU."""
    blur_px = (float(rng.uniform(*VARIED_BLUR_MM)) if varied else BLUR_MM) / scan.pixel_mm
    image = np.maximum(hu, _table(rng, scan))
    image = scipy.ndimage.gaussian_filter(image, (0.0, blur_px, blur_px), truncate=3.0)
    noise_hu = float(rng.uniform(*(VARIED_NOISE_HU if varied else NOISE_HU)))
    noise = rng.standard_normal(hu.shape, dtype=np.float32)
    # Filtered back-projection's noise has little power at low frequencies (ramp) and at the
    # highest (soft kernel): blurred noise less its local mean. Kijewski & Judy, Phys Med Biol
    # 1987;32:565-575.
    fine = scipy.ndimage.gaussian_filter(noise, (0.0, 1.1 * blur_px, 1.1 * blur_px), truncate=2.5)
    neighbours = max(3, round(GRAIN_MM / scan.pixel_mm))
    fine -= scipy.ndimage.uniform_filter(fine, (1, neighbours, neighbours))
    image += fine * np.float32(noise_hu / fine.std())
    return np.rint(image).clip(hounsfield.LOWEST_HU, hounsfield.HIGHEST_HU).astype(np.int16)


def _table(rng: np.random.Generator, scan: Scan) -> FloatArray:
    """The head-rest, the same in all slices: a shell of foam in an arc behind the head."""
    y, x = scan.y_mm[:, None], scan.x_mm[None, :]
    radius_mm = float(rng.uniform(115.0, 150.0))
    depth_mm = float(scan.offset_mm[1] - rng.uniform(106.0, 112.0))
    half_angle = float(rng.uniform(0.5, 0.9))
    from_middle = np.hypot(x - scan.offset_mm[0], y - (depth_mm + radius_mm))
    angle = np.abs(np.arctan2(x - scan.offset_mm[0], depth_mm + radius_mm - y))
    ends = np.float32(half_angle) - angle
    shell = np.minimum(1.2 - np.abs(from_middle - radius_mm), ends * radius_mm)
    foam = np.minimum(9.0 - np.abs(from_middle - radius_mm - 10.0), ends * radius_mm)
    hu = hounsfield.AIR_HU + coverage(foam.astype(np.float32), scan.pixel_mm) * (
        hounsfield.TABLE_FOAM_HU - hounsfield.AIR_HU
    )
    hu = hu + coverage(shell.astype(np.float32), scan.pixel_mm) * (hounsfield.TABLE_SHELL_HU - hu)
    return hu.astype(np.float32)
