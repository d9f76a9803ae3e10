"""Smooth noise, and interpolation between the coarse grid and the slices' pixels."""

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.ndimage

from data_prep.phantom.shapes import FloatArray, Points


class PeriodicNoise:
    """Gaussian noise of mean 0 and deviation 1, periodic in a cube of 192 mm, around a wavelength.

    Args:
        rng: source of the noise.
        wavelength_mm: the middle of the pass band.
        bandwidth: relative width of the pass band; small makes stripes of even width, 0.25 is the
            folding pattern of the cortex, 0.6 is cloudy.
    """

    PERIOD_MM = 192.0
    CELLS = 64

    def __init__(self, rng: np.random.Generator, wavelength_mm: float, bandwidth: float) -> None:
        white = rng.standard_normal((self.CELLS,) * 3, dtype=np.float32)
        whole = scipy.fft.fftfreq(self.CELLS, self.PERIOD_MM / self.CELLS)
        half = scipy.fft.rfftfreq(self.CELLS, self.PERIOD_MM / self.CELLS)
        k = np.sqrt(whole[:, None, None] ** 2 + whole[None, :, None] ** 2 + half**2)
        gain = np.exp(-0.5 * ((k * wavelength_mm - 1.0) / bandwidth) ** 2).astype(np.float32)
        field = scipy.fft.irfftn(scipy.fft.rfftn(white) * gain, s=white.shape)
        self._field = (field / field.std()).astype(np.float32)

    def at(self, points: Points) -> FloatArray:
        """The noise at any points, linearly interpolated."""
        scale = np.float32(self.CELLS / self.PERIOD_MM)
        where = np.stack([points.z, points.y, points.x]) * scale
        return scipy.ndimage.map_coordinates(
            self._field, where, order=1, mode="grid-wrap", output=np.float32
        )

    def on_grid(self, points: Points) -> FloatArray:
        """The noise at a (Z, Y, X) grid's points, read at every third and interpolated between.

        Good for wavelengths from about eight grid spacings up, and for points that vary smoothly.
        """
        stride = 3
        field = self.at(Points(*(p[::stride, ::stride, ::stride] for p in points)))
        for axis, length in enumerate(points.x.shape):
            field = _stretch(
                field, axis, np.linspace(0.0, (length - 1) / stride, length, dtype=np.float32)
            )
        return field


class Resampler:
    """Trilinear interpolation of stacked fields from an even grid to one plane of another.

    Args:
        grid_axes_mm: (z, y, x) coordinates of the grid; each is evenly spaced.
        y_mm: (R,) rows of the plane wanted.
        x_mm: (C,) columns of the plane wanted.
    """

    def __init__(
        self,
        grid_axes_mm: tuple[FloatArray, FloatArray, FloatArray],
        y_mm: FloatArray,
        x_mm: FloatArray,
    ) -> None:
        self._z_mm = grid_axes_mm[0]
        self._rows = _grid_position(grid_axes_mm[1], y_mm)
        self._cols = _grid_position(grid_axes_mm[2], x_mm)

    def __call__(self, fields: FloatArray, z_mm: float) -> FloatArray:
        """The plane at `z_mm`: (F, Z, Y, X) -> (F, R, C)."""
        plane = _stretch(fields, 1, _grid_position(self._z_mm, np.asarray([z_mm], np.float32)))
        return _stretch(_stretch(plane[:, 0], 2, self._cols), 1, self._rows)


def _grid_position(grid_mm: FloatArray, wanted_mm: FloatArray) -> FloatArray:
    """Where coordinates lie on an even grid, in cells from its first point."""
    step = (grid_mm[-1] - grid_mm[0]) / np.float32(len(grid_mm) - 1)
    return (wanted_mm - grid_mm[0]) / step


def _stretch(field: npt.NDArray[np.float32], axis: int, position: FloatArray) -> FloatArray:
    """Linear interpolation along one axis; the ends are held."""
    last = field.shape[axis] - 1
    position = position.clip(0.0, last)
    low = position.astype(np.intp)
    weight = (position - low).astype(np.float32)
    weight = weight.reshape([-1 if a == axis else 1 for a in range(field.ndim)])
    below = field.take(low, axis=axis, mode="clip")
    above = field.take(low + 1, axis=axis, mode="clip")
    above -= below
    above *= weight
    above += below
    return above
