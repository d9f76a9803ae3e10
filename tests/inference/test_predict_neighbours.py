"""Networks that see neighbouring slices: scans are predicted as evaluation and exports do it."""

import json
import zipfile
from pathlib import Path

import jax
import jax.export
import numpy as np
import pytest
import run_commands
from etils import epath

import mbh_jax
from data_prep.dataset import read_volume
from mbh_jax import cli, export
from mbh_jax.data.loader import Loader
from mbh_jax.errors import UserError
from mbh_jax.imageio.volume import Volume
from mbh_jax.inference import split
from mbh_jax.interop import keras_import
from mbh_jax.runtime.parallel import compile_eval_step, create_parallel
from mbh_jax.training import network
from mbh_jax.training.initialize import initialize_workdir
from mbh_jax.training.steps import create_mask_step


@pytest.fixture(scope="module")
def with_neighbours(tiny_dataset_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was initialized and sees a slice 7 mm, here one or two slices, on each side."""
    config = run_commands.tiny_config(
        tiny_dataset_dir,
        model__norm="none",
        model__base_filters=2,
        model__slice_fusion="convolution",
        data__neighbours=1,
        data__neighbour_mm=7.0,
    )
    path = tmp_path_factory.mktemp("beside") / "run"
    variables = jax.tree.map(lambda leaf: leaf + 0.05, network.create_network(config).init())
    initialize_workdir(config, epath.Path(path), variables, create_parallel("jit"))
    return path


def restore(path: Path) -> network.TrainedNetwork:
    return network.restore_network(epath.Path(path), create_parallel("jit"))


def sheared(volume: Volume) -> Volume:
    """The volume with slices 5 mm apart that are shifted by 2 rows each, as under a tilt."""
    affine = np.diag([-0.5, -0.5, 5.0, 1.0])
    affine[1, 2] = 1.0
    return Volume(volume.hu, affine, volume.stored_axcodes)


def test_scans_are_predicted_as_evaluation_predicts_them(
    with_neighbours: Path, workdir: Path
) -> None:
    trained = restore(with_neighbours)
    loader = Loader(trained.network.config.data)
    parallel = create_parallel("jit")
    step = compile_eval_step(create_mask_step(trained.network), parallel)
    batches = loader.eval_batches(loader.index.examples("test"), global_batch=4)
    found = dict(split.predict_volumes(step, trained.variables, batches, parallel))
    predictor = mbh_jax.load(with_neighbours, batch_size=4)
    volumes = [read_volume(loader.index, number).volume for number in found]
    for volume, rows in zip(volumes, found.values(), strict=True):
        np.testing.assert_array_equal(predictor.predict(volume).mask, rows["mask"])
        assert (predictor.predict_mask(volume.hu[::-1])[::-1] != rows["mask"]).any()
    # Two scans in one call: a neighbour is of the same scan.
    both = predictor.predict_volumes([volumes[0], sheared(volumes[0])])
    np.testing.assert_array_equal(both[0][0], found[min(found)]["mask"])
    np.testing.assert_array_equal(both[1][0], predictor.predict(sheared(volumes[0])).mask)
    assert (both[0][0] != both[1][0]).any()

    # Beside a network that sees single slices, whose probabilities are averaged with its own.
    scan = sheared(volumes[0])
    number = np.arange(len(scan.hu))
    last = number[-1]
    # 7 mm are nearer to one slice of 5 mm than to two; of a slice above, the pixel on a line
    # along the normal is 2 rows further down.
    below, above = scan.hu[np.maximum(number - 1, 0)], scan.hu[np.minimum(number + 1, last)]
    rows = np.arange(scan.hu.shape[1])
    shifts = [below[:, np.maximum(rows - 2, 0)], above[:, np.minimum(rows + 2, rows[-1])]]
    shifts[0][0], shifts[1][-1] = scan.hu[0], scan.hu[-1]
    images = {
        with_neighbours: np.stack([shifts[0], scan.hu, shifts[1]], axis=-1),
        workdir: scan.hu[..., np.newaxis],
    }
    logits = {}
    for path, image in images.items():
        one = restore(path)
        found_logits = jax.jit(one.network.logits)(one.variables, image)
        logits[path] = jax.image.resize(found_logits, (*scan.hu.shape, 6), "linear")
    np.testing.assert_array_equal(both[1][0], logits[with_neighbours].argmax(-1))
    mask = mbh_jax.load(with_neighbours, workdir).predict(scan).mask
    mean = sum(jax.nn.softmax(one) for one in logits.values())
    # Probabilities are resized, not logits.
    assert (mask == np.asarray(mean).argmax(-1)).mean() > 0.98
    assert (mask != np.asarray(logits[workdir]).argmax(-1)).mean() > 0.02


def test_exports_take_the_slices_as_channels(with_neighbours: Path, tmp_path: Path) -> None:
    trained = restore(with_neighbours)
    hu = np.random.default_rng(0).integers(-20, 100, (2, 40, 40, 3)).astype(np.int16)
    expected = np.asarray(trained.network.predict(trained.variables, hu))
    assert len(np.unique(expected)) > 1
    export.export(with_neighbours, tmp_path / "net.zip")
    copy = restore(tmp_path / "net.zip")
    np.testing.assert_array_equal(copy.network.predict(copy.variables, hu), expected)
    export.export(with_neighbours, tmp_path / "hlo.zip", form="stablehlo")
    with zipfile.ZipFile(tmp_path / "hlo.zip") as file:
        program = jax.export.deserialize(bytearray(file.read("program.jax_export")))
        weights = {n: np.load(file.open(n)) for n in file.namelist() if n.endswith(".npy")}
        readme, card = (file.read(n).decode() for n in ("README.md", "MODEL_CARD.md"))
    np.testing.assert_array_equal(program.call(weights, hu), expected)
    assert "(b, H, W, 3)" in readme and "3 channels, slices 7 mm apart" in readme
    assert "sees 3 slices at once, 1 on each side" in card and "one by one" not in card
    assert "| `data.neighbour_mm` | `7.0` |" in card


def test_other_neighbours_are_another_network(
    with_neighbours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = network.read_config(epath.Path(with_neighbours))
    config.data.neighbour_mm = 5.0
    with pytest.raises(UserError, match=r"data\.neighbour_mm: 7\.0 -> 5\.0"):
        network.check_same_network(config, epath.Path(with_neighbours))
    # A run of before there were such keys saw single slices.
    saved = json.loads((with_neighbours / "config.json").read_text())
    for section, key in (
        ("data", "neighbours"),
        ("data", "neighbour_mm"),
        ("model", "slice_fusion"),
    ):
        del saved[section][key]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    assert network.create_network(network.read_config(epath.Path(tmp_path))).num_slices == 1
    command = cli.Command(config, epath.Path(tmp_path / "imported"), ["best_model.h5"])
    with pytest.raises(UserError, match=r"data\.neighbours=1: a Keras FlexUNet sees single slices"):
        keras_import.main(command)
