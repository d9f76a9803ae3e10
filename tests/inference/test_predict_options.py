"""Tiles, smallest lesions, probabilities, and networks of different image sizes."""

import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import nibabel
import numpy as np
import pytest
import run_commands
from etils import epath
from jax import monitoring
from run_commands import predict_exit_code as run
from scipy import ndimage
from tiny_ct import LAS_AFFINE, nifti_bytes, tiny_volume

import mbh_jax
from mbh_jax.errors import UserError
from mbh_jax.imageio.volume import Volume
from mbh_jax.inference import measure, tiles
from mbh_jax.inference.steps import create_prediction_step
from mbh_jax.runtime.parallel import create_parallel
from mbh_jax.training import network
from mbh_jax.training.initialize import initialize_workdir


def _hu(seed: int, num_slices: int, size: int = 64) -> np.ndarray:
    return np.ascontiguousarray(tiny_volume(seed, num_slices, size)[0].transpose(2, 1, 0))


@pytest.mark.parametrize(("length", "number"), [(16, 1), (17, 2), (24, 2), (25, 3), (61, 7)])
def test_weights_of_tiles_add_up_to_one(length: int, number: int) -> None:
    starts, weights = tiles.axis_tiles(length, 16)
    assert len(starts) == number and starts[0] == 0 and starts[-1] == length - 16
    assert (np.diff(starts) <= 8).all()
    total = np.zeros(length)
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + 16] += weight
    np.testing.assert_allclose(total, 1, rtol=1e-6)


def test_weights_of_tiles_are_those_of_a_gaussian_filter() -> None:
    """scipy's filter of a single one in the middle, whose standard deviation is an eighth."""
    starts, weights = tiles.axis_tiles(24, 16)
    middle = np.zeros(16)
    middle[7:9] = 0.5
    positions = np.arange(16) - 7.5
    assert starts.tolist() == [0, 8]
    ratio = weights[0, 8:] / weights[1, :8]  # In the overlap the sum cancels.
    expected = np.exp(-(positions[8:] ** 2 - positions[:8] ** 2) / (2 * 2.0**2))
    np.testing.assert_allclose(ratio, expected, rtol=1e-5)


def _pointwise(hu: jax.Array) -> jax.Array:
    return jnp.sin(hu.astype(jnp.float32) * jnp.arange(1, 7) / 40)


@pytest.mark.parametrize("shape", [(40, 56), (32, 33), (90, 20)])
def test_tiles_of_a_pointwise_network_are_the_whole(shape: tuple[int, int]) -> None:
    hu = np.random.default_rng(0).integers(-100, 100, (2, *shape, 1), np.int16)
    found = jax.jit(lambda hu: tiles.tiled_logits(_pointwise, hu, 32, 6))(hu)
    assert found.shape == (2, *shape, 6)
    np.testing.assert_allclose(found, _pointwise(hu), atol=2e-6)


def test_each_tile_is_predicted_alone_and_weighted(workdir: Path) -> None:
    """Against a loop in NumPy over tiles that the network predicts one by one."""
    trained = network.restore_network(epath.Path(workdir), create_parallel("jit"))
    hu = _hu(0, 2)[:, :48, :40]
    predict = jax.jit(lambda tile: trained.network.logits(trained.variables, tile))
    total, weight = np.zeros((2, 48, 40, 6)), np.zeros((48, 40, 1))
    side = np.exp(-0.5 * ((np.arange(32) - 15.5) / 4) ** 2)
    gaussian = np.outer(side, side)[..., None]
    for row in (0, 16):
        for column in (0, 8):
            part = (slice(row, row + 32), slice(column, column + 32))
            total[:, *part] += gaussian * np.asarray(predict(hu[:, *part, None]))
            weight[part] += gaussian
    mask = mbh_jax.load(workdir, use_tiles=True).predict_mask(hu)
    assert len(np.unique(mask)) > 1
    assert (mask == (total / weight).argmax(-1)).mean() > 0.999  # Ties are decided by rounding.
    assert (mask != mbh_jax.load(workdir).predict_mask(hu)).any()


def test_a_slice_of_the_networks_size_is_no_tile(workdir: Path) -> None:
    hu = _hu(1, 3)[:, 16:48, 16:48]
    options = {"keep_probabilities": True, "mirror": True}
    whole = mbh_jax.load(workdir, **options).predict_slices(hu)
    tiled = mbh_jax.load(workdir, use_tiles=True, **options).predict_slices(hu)
    for one, other in zip(whole, tiled, strict=True):
        np.testing.assert_array_equal(one, other)


def test_networks_of_different_sizes_and_windows_are_averaged_on_the_scans_grid(
    workdir: Path, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    parallel = create_parallel("jit")
    config = run_commands.tiny_config(
        tiny_dataset_dir,
        model__norm="none",
        data__image_size=16,
        data__window="brain_subdural_bone",
    )
    config.seed = 3
    other = tmp_path / "other"
    variables = network.create_network(config).init()
    initialize_workdir(config, epath.Path(other), variables, parallel)
    hu = _hu(1, 3)
    predictor = mbh_jax.load(workdir, other, batch_size=2, keep_probabilities=True)
    mask, found = predictor.predict_slices(hu)
    expected = np.zeros((3, 64, 64, 6))
    for path, size in ((workdir, 32), (other, 16)):
        trained = network.restore_network(epath.Path(path), parallel)
        logits = np.asarray(trained.network.logits(trained.variables, hu[..., None]), np.float64)
        assert logits.shape == (3, size, size, 6)
        exponentials = np.exp(logits - logits.max(-1, keepdims=True))
        probabilities = exponentials / exponentials.sum(-1, keepdims=True)
        # Linear interpolation between the centres of pixels, with constant borders.
        factor = 64 // size
        at = (np.arange(64) + 0.5) / factor - 0.5
        grid = np.meshgrid(np.arange(3), at, at, np.arange(6), indexing="ij")
        expected += ndimage.map_coordinates(probabilities, grid, order=1, mode="nearest") / 2
    np.testing.assert_allclose(found, expected.transpose(3, 0, 1, 2), atol=1e-3)
    assert (mask == expected.argmax(-1)).mean() > 0.999


def test_small_lesions_are_removed_by_class() -> None:
    """Against scipy's labels counted one by one; touching lesions of two classes stay two."""
    rng = np.random.default_rng(0)
    mask = (rng.random((6, 24, 24)) < 0.12) * rng.integers(1, 6, (6, 24, 24)).astype(np.uint8)
    mask[1:4, 4:8, 4:8] = 2
    mask[1:4, 4:8, 8:11] = 5
    slice_mm = np.array([5, 5, 4, 4, 2, 2.0])
    affine = np.diag([-0.5, -0.5, 5, 1])
    expected = mask.copy()
    for value in range(1, 6):
        lesions, number = ndimage.label(mask == value, np.ones((3, 3, 3)))
        for lesion in range(1, number + 1):
            where = lesions == lesion
            if (where.sum(axis=(1, 2)) * slice_mm).sum() * 0.25 / 1000 < 0.02:
                expected[where] = 0
    found = mask.copy()
    measure.remove_small_lesions(found, 0.02, affine, slice_mm)
    np.testing.assert_array_equal(found, expected)
    assert {2, 5} <= set(np.unique(found)) and (found != mask).any()


def test_a_lesion_of_exactly_the_least_volume_stays() -> None:
    mask = np.zeros((3, 8, 8), np.uint8)
    mask[1, 2:5, 2] = 4
    affine = np.diag([-0.7, -0.7, 3, 1])
    for min_ml, stays in ((3 * 0.49 * 3 / 1000, True), (0.0045, False)):
        found = mask.copy()
        measure.remove_small_lesions(found, min_ml, affine)
        assert found.any() == stays


def test_small_lesions_where_nothing_can_be_measured(workdir: Path) -> None:
    predictor = mbh_jax.load(workdir, min_lesion_ml=0.1)
    volume = Volume(_hu(0, 2), np.eye(4), "LPS", spacing_known=False)
    with pytest.raises(UserError, match="leave out --min_lesion_ml"):
        predictor.predict(volume)
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match=r"--min_lesion_ml=.*: give 0 or more"):
            mbh_jax.load(workdir, min_lesion_ml=wrong)


def test_options_on_the_command_line(
    workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scans, output = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    (scans / "a.nii").write_bytes(nifti_bytes(tiny_volume(0, 4)[0]))
    options = ("--resolution=tiles", "--min_lesion_ml=0.01")
    assert run(workdir, scans, output, *options) == 0
    assert "64 x 64 are predicted in tiles of 32 x 32" in capsys.readouterr().err
    report = json.loads((output / "a.json").read_text())
    assert report["made_by"]["resolution"] == "tiles"
    assert report["made_by"]["min_lesion_ml"] == 0.01
    mask = np.asarray(nibabel.load(output / "a.nii.gz").dataobj)
    voxel_ml = abs(np.linalg.det(LAS_AFFINE[:3, :3])) / 1000
    for value in np.unique(mask)[1:]:
        lesions, number = ndimage.label(mask == value, np.ones((3, 3, 3)))
        assert number and np.bincount(lesions.ravel())[1:].min() * voxel_ml >= 0.01
    assert run(workdir, scans, output) == 1
    assert "made with other models or settings" in capsys.readouterr().err

    # Probabilities are added to results that lack them, and lie on the grid of the file.
    assert not list(output.glob("*.npz"))
    assert run(workdir, scans, output, *options, "--save_probabilities") == 0
    with np.load(output / "a.npz") as archive:
        probabilities = archive["probabilities"]
    assert probabilities.dtype == np.float16 and probabilities.shape == (6, 4, 64, 64)
    np.testing.assert_allclose(probabilities.sum(0, dtype=np.float64), 1, atol=2e-3)
    with_all = mbh_jax.load(workdir, use_tiles=True).predict(scans / "a.nii").mask
    stored = np.asarray(nibabel.load(output / "a.nii.gz").dataobj).transpose(2, 1, 0)
    kept = stored > 0
    best = probabilities.argmax(0)
    assert (best[kept] == stored[kept]).mean() > 0.99  # Rounded to 16 bits.
    assert (np.bincount(best.ravel()) - np.bincount(with_all.ravel())).max() < 40
    # Results of another call do not stand beside old probabilities.
    assert run(workdir, scans, output, "--overwrite") == 0
    assert not list(output.glob("*.npz"))


def test_the_program_resizes_nothing_that_fits() -> None:
    """The most probable class is taken of logits that are on the scan's grid already."""
    config = SimpleNamespace(data=SimpleNamespace(image_size=32))
    net = SimpleNamespace(
        config=config, logits=lambda variables, hu: _pointwise(hu[:, :32, :32]) * variables
    )
    step = create_prediction_step([net])

    def operations(size: int) -> str:
        image = jax.ShapeDtypeStruct((2, size, size, 1), jnp.int16)
        return jax.jit(step).lower([1.0], {"image": image}).as_text()

    assert "dot_general" not in operations(32)
    assert "dot_general" in operations(64)  # How JAX resizes linearly.


def test_a_first_scan_that_cannot_be_read_is_no_error_of_the_network(workdir: Path) -> None:
    def damaged() -> tuple[int, int, int]:
        raise UserError("damaged")

    assert mbh_jax.load(workdir, first_shape=damaged).predict_mask(_hu(0, 1)).shape == (1, 64, 64)
    with pytest.raises(UserError, match="holds no run"):
        mbh_jax.load(workdir / "away", first_shape=damaged)


def test_one_program_for_each_image_size_which_is_kept_for_the_next_start(workdir: Path) -> None:
    events: list[str] = []

    def listen(name: str, **details: object) -> None:
        events.append(name)

    least = "jax_persistent_cache_min_compile_time_secs"
    before_s = jax.config.values[least]
    jax.config.update(least, 0)
    monitoring.register_event_listener(listen)
    try:
        predictor = mbh_jax.load(workdir, batch_size=2)
        events.clear()
        for seed, num_slices in enumerate((3, 5, 2, 1)):
            assert predictor.predict_mask(_hu(seed, num_slices)).shape == (num_slices, 64, 64)
        requests = "/jax/compilation_cache/compile_requests_use_cache"
        assert events.count(requests) == 1
        predictor.predict_mask(_hu(0, 3, size=48))
        assert events.count(requests) == 2
        # It is compiled while the weights are read where a scan says the size; of a picture alone.
        for num_slices in (3, 1):
            hu = _hu(2, num_slices, size=40)
            predictor = mbh_jax.load(workdir, batch_size=2, first_shape=lambda hu=hu: hu.shape)
            events.clear()
            mask = predictor.predict_mask(hu)
            assert requests not in events
            np.testing.assert_array_equal(mask, mbh_jax.load(workdir).predict_mask(hu))
        # A new start finds both programs.
        jax.clear_caches()
        predictor = mbh_jax.load(workdir, batch_size=2)
        events.clear()
        predictor.predict_mask(_hu(0, 3))
        predictor.predict_mask(_hu(0, 3, size=48))
        assert events.count("/jax/compilation_cache/cache_hits") == 2
        assert events.count("/jax/compilation_cache/cache_misses") == 0
    finally:
        monitoring.unregister_event_listener(listen)
        jax.config.update(least, before_s)
