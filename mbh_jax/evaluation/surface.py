"""How far the surfaces of two masks lie apart, in millimetres of the scan's affine.

Two surfaces of a mask are in use, and their numbers differ:

- **surface voxels**: the voxels of the mask that share a face with one outside it, as in
  MetricsReloaded and by default in MONAI. A voxel outside the array is outside the mask.
- **area elements**: the triangles between voxels, each with its area, as in surface-distance and
  in MONAI with `use_subvoxels` (`mbh_jax.evaluation.surface_elements`).

Distances are between the centres of surface voxels, or the corners at which area elements lie, in
the space of the affine: steps between slices need not be at right angles to them. A product of
spacings, as in a distance transform with `sampling`, is wrong for a tilted gantry.

If both masks are empty there is no distance and no surface Dice: NaN. If one is empty every
distance is infinite, and the surface Dice 0.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage, spatial

from mbh_jax.evaluation import surface_elements

HD95_PERCENTILE = 95.0

_ROUNDING_MM = 1e-5
"""Distances this far above a tolerance count as within: a NIfTI affine has single precision."""

_FACES = ndimage.generate_binary_structure(3, 1)


class SurfaceDistances(NamedTuple):
    """Distances from each element of one surface to the nearest of the other.

    Attributes:
        from_reference_mm: (R,) float64; infinite where the prediction is empty.
        from_prediction_mm: (P,) float64; infinite where the reference is empty.
        reference_weights: (R,) float64: 1 for a surface voxel, mm^2 for an area element.
        prediction_weights: (P,) float64, likewise.
    """

    from_reference_mm: np.ndarray
    from_prediction_mm: np.ndarray
    reference_weights: np.ndarray
    prediction_weights: np.ndarray


def voxel_distances(
    reference: np.ndarray, prediction: np.ndarray, affine: np.ndarray
) -> SurfaceDistances:
    """Distances between the surface voxels of two masks.

    Args:
        reference: (slices, rows, columns) bool.
        prediction: likewise, of the same shape.
        affine: (4, 4), voxel (column, row, slice) to mm.

    Raises:
        ValueError: the shapes differ or are not 3D, or the affine is not finite or is singular.
    """
    steps_mm = _steps_mm(affine)
    surfaces = [_surface_voxels(mask) for mask in crop_to_masks(reference, prediction)]
    return _distances(surfaces, [surface.astype(np.float64) for surface in surfaces], steps_mm)


def element_distances(
    reference: np.ndarray, prediction: np.ndarray, affine: np.ndarray
) -> SurfaceDistances:
    """Distances between the area elements of the surfaces of two masks.

    Arguments and errors are those of `voxel_distances`.
    """
    steps_mm = _steps_mm(affine)
    areas_mm2 = surface_elements.element_areas_mm2(steps_mm)
    codes = [
        surface_elements.neighbourhood_codes(mask) for mask in crop_to_masks(reference, prediction)
    ]
    surfaces = [(code > 0) & (code < surface_elements.FULL) for code in codes]
    return _distances(surfaces, [areas_mm2[code] for code in codes], steps_mm)


def hd95_mm(distances: SurfaceDistances) -> float:
    """The larger of the two directed 95th percentiles, interpolated linearly, in mm.

    Source: Huttenlocher et al., IEEE TPAMI 15 (1993) 850-863, for quantiles of directed distances;
    Maier-Hein et al., Nature Methods 21 (2024) 195-212 (Metrics Reloaded), for this one. It is
    meant for `voxel_distances`: weights are not used.

    Returns:
        NaN where both masks are empty, infinity where one is.
    """
    directed = [
        np.percentile(one, HD95_PERCENTILE) if np.isfinite(one).all() else np.inf
        for one in (distances.from_reference_mm, distances.from_prediction_mm)
        if len(one)
    ]
    return float(max(directed, default=np.nan))


def surface_dice(distances: SurfaceDistances, tolerance_mm: float) -> float:
    """The share of both surfaces that lies within a tolerance of the other one.

    Source: Nikolov et al., J Med Internet Res 23 (2021) e26151 (also called normalised surface
    distance). Of `voxel_distances` it counts voxels, of `element_distances` it adds areas.

    Returns:
        0 to 1; NaN where both masks are empty, 0 where one is.
    """
    distances_mm = np.concatenate([distances.from_reference_mm, distances.from_prediction_mm])
    weights = np.concatenate([distances.reference_weights, distances.prediction_weights])
    if not len(weights):
        return float("nan")
    return float(weights[distances_mm <= tolerance_mm + _ROUNDING_MM].sum() / weights.sum())


class DistanceSummary(NamedTuple):
    """Distances of a class over cases. None of the three numbers is to be shown alone.

    Attributes:
        median_mm: over the cases where reference or prediction has the class, infinite distances
            included; NaN without any.
        found_mean_mm: mean of the finite ones, over cases where both have the class; NaN without.
        num_cases: cases with a distance, which the median is over.
        num_found: cases where both have the class.
        num_missed: cases where the reference alone has it.
        num_false: cases where the prediction alone has it.
    """

    median_mm: float
    found_mean_mm: float
    num_cases: int
    num_found: int
    num_missed: int
    num_false: int


def summarize_distances(
    distances_mm: np.ndarray, in_reference: np.ndarray, in_prediction: np.ndarray
) -> DistanceSummary:
    """Median with infinite distances, mean over found cases, and the number missed.

    Args:
        distances_mm: (V,) float, a class's distance in each case.
        in_reference: (V,) bool, whether the reference has the class.
        in_prediction: (V,) bool, whether the prediction has it.
    """
    either, both = in_reference | in_prediction, in_reference & in_prediction
    return DistanceSummary(
        median_mm=float(np.median(distances_mm[either])) if either.any() else np.nan,
        found_mean_mm=float(distances_mm[both].mean()) if both.any() else np.nan,
        num_cases=int(either.sum()),
        num_found=int(both.sum()),
        num_missed=int((in_reference & ~in_prediction).sum()),
        num_false=int((in_prediction & ~in_reference).sum()),
    )


def crop_to_masks(*masks: np.ndarray) -> list[np.ndarray]:
    """Views of arrays (slices, rows, columns), cropped to `box_of_masks`."""
    box = box_of_masks(*masks)
    return [mask[box] for mask in masks]


def box_of_masks(*masks: np.ndarray) -> tuple[slice, slice, slice]:
    """The box that holds all non-zeros of arrays (slices, rows, columns); empty without any.

    Raises:
        ValueError: the shapes differ or are not 3D.
    """
    shapes = {mask.shape for mask in masks}
    if len(shapes) != 1 or masks[0].ndim != 3:
        raise ValueError(f"masks of one shape (slices, rows, columns) are needed, not {shapes}")
    box: list[slice] = []
    for axis in range(3):
        # The axes before this one are cropped already.
        others = tuple(other for other in range(3) if other != axis)
        used = np.zeros(masks[0].shape[axis], bool)
        for mask in masks:
            used |= mask[tuple(box)].any(axis=others)
        where = np.flatnonzero(used)
        box.append(slice(int(where[0]), int(where[-1]) + 1) if len(where) else slice(0, 0))
    return box[0], box[1], box[2]


def _steps_mm(affine: np.ndarray) -> np.ndarray:
    """(3, 3): row a is the step in mm along array axis a of (slice, row, column)."""
    steps_mm = np.asarray(affine, np.float64)[:3, :3].T[::-1]
    if not np.isfinite(steps_mm).all() or np.linalg.det(steps_mm) == 0:
        raise ValueError(f"distances need a finite affine that is not singular, not {affine}")
    return steps_mm


def _surface_voxels(mask: np.ndarray) -> np.ndarray:
    """The voxels of a mask that share a face with one outside it."""
    return mask & ~ndimage.binary_erosion(mask, _FACES)


def _distances(
    surfaces: list[np.ndarray], weights: list[np.ndarray], steps_mm: np.ndarray
) -> SurfaceDistances:
    reference, prediction = surfaces
    return SurfaceDistances(
        _nearest_mm(reference, prediction, steps_mm),
        _nearest_mm(prediction, reference, steps_mm),
        weights[0][reference],
        weights[1][prediction],
    )


def _nearest_mm(surface: np.ndarray, other: np.ndarray, steps_mm: np.ndarray) -> np.ndarray:
    """Distance of each element of a surface (bool array) to the nearest of another, in mm."""
    if not other.any():
        return np.full(np.count_nonzero(surface), np.inf)
    distances_mm = np.zeros(surface.shape)
    # Where both surfaces pass the distance is 0; the tree is for the rest.
    apart = np.argwhere(surface & ~other)
    if len(apart):
        others = np.argwhere(other)
        nearest = spatial.KDTree(others @ steps_mm).query(apart @ steps_mm)[1]
        # From whole steps, so that a distance does not depend on where in the scan it is.
        offsets_mm = (apart - others[nearest]) @ steps_mm
        distances_mm[tuple(apart.T)] = np.linalg.norm(offsets_mm, axis=1)
    return distances_mm[surface]
