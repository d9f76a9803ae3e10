"""Distances of masks whose answers are known: by hand, by brute force and from other tools.

The values of other tools are those of their own tests, or were computed with them once:
MetricsReloaded (cb38dfc), MONAI (June 2025) and surface-distance (1f805ce).
"""

import numpy as np
import pytest
from scipy.spatial import distance

from mbh_jax.evaluation import surface, surface_elements

TILTED = np.array(
    [[-0.5, 0.0, 0.0, 7.0], [0.0, -0.5, 1.0, -3.0], [0.0, 0.0, 5.0, 2.0], [0, 0, 0, 1]]
)
"""Each slice of 5 mm lies 1 mm further to the front, which is two rows."""


def _affine(slice_mm: float, row_mm: float, column_mm: float) -> np.ndarray:
    return np.diag([column_mm, row_mm, slice_mm, 1.0])


def _mask(shape: tuple[int, ...], *where: tuple) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for index in where:
        mask[index] = True
    return mask


def _ball(center: tuple[float, ...], radius: float, spacing: tuple[float, ...]) -> np.ndarray:
    axes = [np.arange(99) * mm - c for c, mm in zip(center, spacing, strict=True)]
    slices, rows, columns = np.meshgrid(*axes, indexing="ij")
    return slices**2 + rows**2 + columns**2 <= radius**2


def _hausdorff_mm(found: surface.SurfaceDistances) -> float:
    return max(found.from_reference_mm.max(), found.from_prediction_mm.max())


def _averages_mm(found: surface.SurfaceDistances) -> tuple[float, float]:
    """Weighted means of both directions."""
    return (
        np.average(found.from_reference_mm, weights=found.reference_weights),
        np.average(found.from_prediction_mm, weights=found.prediction_weights),
    )


def _assd_mm(found: surface.SurfaceDistances) -> float:
    return np.concatenate([found.from_reference_mm, found.from_prediction_mm]).mean()


def test_two_pixels_two_mm_apart() -> None:
    """T1; the area elements are those of surface-distance's test of two voxels in 3D."""
    pixels = _mask((1, 100, 100), (0, 50, 70)), _mask((1, 100, 100), (0, 50, 72))
    found = surface.voxel_distances(*pixels, _affine(3, 2, 1))
    assert (_hausdorff_mm(found), surface.hd95_mm(found), _assd_mm(found)) == (2, 2, 2)
    assert (surface.surface_dice(found, 1), surface.surface_dice(found, 2)) == (0, 1)
    elements = surface.element_distances(*pixels, _affine(3, 2, 1))
    assert _averages_mm(elements) == (1.5, 1.5)
    assert surface.surface_dice(elements, 1) == pytest.approx(0.5)


def test_percentile_is_interpolated_and_of_each_direction_alone() -> None:
    """T2: pooled over both directions it would be 0, and by the nearest rank 10."""
    row = _mask((1, 30, 40), (0, 5, slice(5, 25)))
    found = surface.voxel_distances(row, row | _mask(row.shape, (0, 15, [8, 16])), np.eye(4))
    assert _hausdorff_mm(found) == 10
    assert surface.hd95_mm(found) == pytest.approx(9.5)
    assert _assd_mm(found) == pytest.approx(20 / 42)
    assert np.mean(_averages_mm(found)) == pytest.approx(5 / 11)
    assert surface.surface_dice(found, 2) == pytest.approx(40 / 42)


def test_one_slice_too_many() -> None:
    """T3: a wrong slice of 5 mm fails both tolerances."""
    box = (slice(10, 20), slice(10, 20))
    reference = _mask((12, 40, 40), (slice(3, 6), *box))
    prediction = _mask((12, 40, 40), (slice(3, 7), *box))
    found = surface.voxel_distances(reference, prediction, _affine(5, 0.5, 0.5))
    assert (_hausdorff_mm(found), surface.hd95_mm(found)) == (5, 5)
    assert _assd_mm(found) == pytest.approx(1.102362, abs=1e-6)
    assert np.mean(_averages_mm(found)) == pytest.approx(1.046236, abs=1e-6)
    shares = [surface.surface_dice(found, tolerance) for tolerance in (1, 2, 5)]
    assert shares == pytest.approx([0.771654, 0.803150, 1], abs=1e-6)
    elements = surface.element_distances(reference, prediction, _affine(5, 0.5, 0.5))
    assert surface.surface_dice(elements, 2) == pytest.approx(0.910522, abs=1e-6)


def test_a_voxel_and_its_neighbour_in_the_next_slice() -> None:
    """T4."""
    voxels = _mask((12, 40, 40), (3, 9, 9)), _mask((12, 40, 40), (4, 9, 9))
    found = surface.voxel_distances(*voxels, _affine(5, 0.5, 0.5))
    assert (surface.hd95_mm(found), surface.surface_dice(found, 2)) == (5, 0)
    elements = surface.element_distances(*voxels, _affine(5, 0.5, 0.5))
    assert surface.surface_dice(elements, 2) == pytest.approx(0.5)
    assert _averages_mm(elements) == pytest.approx((2.5, 2.5))


def test_a_tilted_gantry() -> None:
    """T5: from the spacings alone it would be the root of 27."""
    voxels = _mask((12, 40, 40), (3, 9, 9)), _mask((12, 40, 40), (4, 11, 9))
    assert surface.hd95_mm(surface.voxel_distances(*voxels, TILTED)) == pytest.approx(5, abs=1e-12)


def test_slabs_by_area() -> None:
    """T15, surface-distance's own test."""
    reference = _mask((100, 100, 100), slice(0, 50))
    prediction = _mask((100, 100, 100), slice(0, 51))
    found = surface.element_distances(reference, prediction, _affine(2, 1, 1))
    assert _averages_mm(found) == pytest.approx((0.322, 0.339), abs=1e-3)
    assert _hausdorff_mm(found) == 2
    assert surface.surface_dice(found, 1) == pytest.approx(0.836, abs=1e-3)


def test_balls_of_two_sizes() -> None:
    """T16, MONAI's own test."""
    balls = [_ball((20, 33, 22), radius, (1, 1, 1)) for radius in (20, 40)]
    found = surface.voxel_distances(balls[0], balls[1], np.eye(4))
    assert _hausdorff_mm(found) == pytest.approx(20.223748, abs=1e-6)
    assert surface.hd95_mm(found) == pytest.approx(20.099751, abs=1e-6)
    directed = [np.percentile(one, 95) for one in (found[0], found[1])]
    assert sorted(directed) == pytest.approx([19.924859, 20.099751], abs=1e-6)


def test_balls_on_an_uneven_grid() -> None:
    """T17, MONAI's own test."""
    spacing = (0.85, 1.2, 0.9)
    balls = [_ball((center,) * 3, 20, spacing) for center in (20, 19)]
    found = surface.voxel_distances(balls[0], balls[1], _affine(*spacing))
    assert _hausdorff_mm(found) == pytest.approx(2.267157, abs=1e-6)
    one_way = {round(float(one.max()), 6) for one in (found[0], found[1])}
    assert 2.080865 in one_way


def _brute_surface(mask: np.ndarray) -> np.ndarray:
    """(N, 3) surface voxels, by looking at the six neighbours of each voxel."""
    steps = [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]
    inside = {tuple(voxel) for voxel in np.argwhere(mask).tolist()}
    return np.array(
        [
            v
            for v in sorted(inside)
            if any(tuple(np.add(v, s).tolist()) not in inside for s in steps)
        ]
    )


@pytest.mark.parametrize("seed", range(5))
def test_random_masks_under_a_tilt_equal_all_pairs_of_surface_voxels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference, prediction = rng.random((2, 4, 7, 8)) < 0.6
    points = [
        (TILTED[:3, :3] @ _brute_surface(mask)[:, ::-1].T).T for mask in (reference, prediction)
    ]
    pairs = distance.cdist(*points)
    found = surface.voxel_distances(reference, prediction, TILTED)
    np.testing.assert_allclose(found.from_reference_mm, pairs.min(1), atol=1e-12)
    np.testing.assert_allclose(found.from_prediction_mm, pairs.min(0), atol=1e-12)
    within = np.concatenate([pairs.min(1), pairs.min(0)]) <= 1
    assert surface.surface_dice(found, 1) == pytest.approx(within.mean())


def test_areas_of_a_box() -> None:
    """Its faces, but for edges and corners, which the triangles cut off."""
    box = np.ones((4, 20, 30), bool)
    found = surface.element_distances(box, box, _affine(5, 0.5, 0.25))
    faces = 2 * (20 * 0.5 * 30 * 0.25 + 4 * 5 * 30 * 0.25 + 4 * 5 * 20 * 0.5)
    edges = [(4, 5, 0.5, 0.25), (20, 0.5, 5, 0.25), (30, 0.25, 5, 0.5)]
    # Along an edge a strip half a voxel wide on both faces becomes its hypotenuse; the ends of an
    # edge, half a voxel long, belong to the corners.
    for voxels, length, height, width in edges:
        cut = (height + width) / 2 - np.hypot(height, width) / 2
        faces -= 4 * (voxels - 1) * length * cut
    # A corner's three squares of half a voxel become one triangle.
    squares = (5 * 0.5 + 5 * 0.25 + 0.5 * 0.25) / 4
    triangle = np.linalg.norm([5 * 0.5, 5 * 0.25, 0.5 * 0.25]) / 8
    assert found.reference_weights.sum() == pytest.approx(faces - 8 * (squares - triangle))


def test_areas_follow_the_affine() -> None:
    """A rotation changes no area; a tilt none within slices, and makes the front larger."""
    turn = np.eye(4)
    turn[:3, :3] = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    reference, prediction = np.random.default_rng(1).random((2, 5, 6, 7)) < 0.5
    plain = surface.element_distances(reference, prediction, _affine(5, 0.5, 0.4))
    turned = surface.element_distances(reference, prediction, turn @ _affine(5, 0.5, 0.4))
    for one, other in zip(plain, turned, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)
    areas = surface_elements.element_areas_mm2(TILTED[:3, :3].T[::-1])
    within_slice, across_rows, across_columns = 0b11110000, 0b11001100, 0b10101010
    assert areas[within_slice] == pytest.approx(0.25)
    assert areas[across_rows] == pytest.approx(0.5 * np.hypot(1, 5))
    assert areas[across_columns] == pytest.approx(0.5 * 5)


@pytest.mark.parametrize("distances", [surface.voxel_distances, surface.element_distances])
def test_the_place_in_the_scan_does_not_matter(distances) -> None:
    """Masks at the border, and in a corner of a larger scan: the box around them is what counts."""
    reference, prediction = np.random.default_rng(2).random((2, 3, 5, 6)) < 0.5
    at_border = distances(reference, prediction, TILTED)
    inside = distances(
        *(np.pad(mask, ((4, 1), (20, 3), (9, 30))) for mask in (reference, prediction)), TILTED
    )
    for one, other in zip(at_border, inside, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_distance_equal_to_the_tolerance_is_within_it_in_single_precision() -> None:
    voxels = _mask((1, 9, 99), (0, 4, 81)), _mask((1, 9, 99), (0, 4, 86))
    affine = _affine(5, 0.4, 0.4).astype(np.float32)
    found = surface.voxel_distances(*voxels, affine)
    assert found.from_reference_mm[0] > 2
    assert surface.surface_dice(found, 2) == 1


def test_summary_keeps_infinite_distances_and_counts_what_was_missed() -> None:
    found = surface.summarize_distances(
        np.array([1.0, 3.0, np.inf, np.inf, np.nan, 2.0]),
        in_reference=np.array([True, True, True, False, False, True]),
        in_prediction=np.array([True, True, False, True, False, True]),
    )
    assert found == (3.0, 2.0, 5, 3, 1, 1)
    more_missed = surface.summarize_distances(
        np.array([1.0, np.inf, np.inf]), np.ones(3, bool), np.array([True, False, False])
    )
    assert more_missed == (np.inf, 1.0, 3, 1, 2, 0)
    nothing = surface.summarize_distances(np.array([np.nan]), *np.zeros((2, 1), bool))
    assert np.isnan(nothing[:2]).all()
    assert nothing[2:] == (0, 0, 0, 0)


def test_masks_or_affines_that_do_not_fit_are_refused() -> None:
    mask = np.ones((2, 3, 4), bool)
    with pytest.raises(ValueError, match="one shape"):
        surface.voxel_distances(mask, mask[:1], np.eye(4))
    with pytest.raises(ValueError, match="one shape"):
        surface.element_distances(mask[0], mask[0], np.eye(4))
    for affine in (np.diag([1, 1, 0, 1.0]), np.full((4, 4), np.nan)):
        with pytest.raises(ValueError, match="finite affine"):
            surface.voxel_distances(mask, mask, affine)
