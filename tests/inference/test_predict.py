"""Scans in, masks and millilitres out: as evaluation predicts them, and back on the scan's grid."""

import csv
import json
from pathlib import Path

import jax
import nibabel
import numpy as np
import pytest
import run_commands
from etils import epath
from run_commands import predict_exit_code as run
from tiny_ct import nifti_bytes, tiny_volume

import mbh_jax
from mbh_jax.data.loader import Loader
from mbh_jax.errors import UserError
from mbh_jax.imageio.readers import find_scans
from mbh_jax.inference import split
from mbh_jax.runtime.parallel import compile_eval_step, create_parallel
from mbh_jax.training import network
from mbh_jax.training.initialize import initialize_workdir
from mbh_jax.training.steps import create_mask_step


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Three scans, one of them in a folder, and one that is damaged."""
    folder = tmp_path / "scans"
    (folder / "ward").mkdir(parents=True)
    for number, name in enumerate(("a.nii", "b.nii", "ward/c.nii")):
        (folder / name).write_bytes(nifti_bytes(tiny_volume(number, 5)[0]))
    (folder / "bad.nii.gz").write_bytes(b"no NIfTI")
    return folder


def test_masks_are_those_that_evaluation_scores(workdir: Path, tiny_dataset_dir: Path) -> None:
    loader = Loader(network.read_config(epath.Path(workdir)).data)
    parallel = create_parallel("jit")
    trained = network.restore_network(epath.Path(workdir), parallel)
    step = compile_eval_step(create_mask_step(trained.network), parallel)
    batches = loader.eval_batches(loader.index.examples("train"), global_batch=4)
    _, rows = next(split.predict_volumes(step, trained.variables, batches, parallel))
    from data_prep.dataset import read_volume

    number = int(loader.index.volume[rows["example"][0]])
    found = mbh_jax.load(workdir, batch_size=3).predict(read_volume(loader.index, number).volume)
    assert len(np.unique(found.mask)) > 1
    np.testing.assert_array_equal(found.mask, rows["mask"])


def test_a_folder_is_predicted_once_and_bad_scans_are_named(
    workdir: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert run(workdir, scans, output) == 1
    said = capsys.readouterr()
    assert "3 of 4 scans" in said.out and "not a medical device" in said.out
    assert said.err.splitlines()[-1].startswith(f"error: {scans / 'bad.nii.gz'}: ")
    names = {path.name for path in output.iterdir()}
    results = {
        f"{name}.{end}" for name in ("a", "b", "ward_c") for end in ("json", "nii.gz", "png")
    }
    assert names == {*results, "report.json", "volumes.csv"}
    with (output / "volumes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["scan"] for row in rows] == ["a", "b", "ward_c"]

    image, mask = nibabel.load(scans / "a.nii"), nibabel.load(output / "a.nii.gz")
    assert mask.shape == image.shape and mask.get_data_dtype() == np.uint8
    np.testing.assert_allclose(mask.affine, image.affine, atol=1e-4)
    voxel_ml = abs(np.linalg.det(image.affine[:3, :3])) / 1000
    counts = np.bincount(np.asarray(mask.dataobj).ravel(), minlength=6) * voxel_ml
    report = json.loads((output / "a.json").read_text())
    for value, name in enumerate(("EDH", "IPH", "IVH", "SAH", "SDH"), 1):
        assert float(rows[0][f"{name}_ml"]) == pytest.approx(counts[value])
        assert report["classes"][name]["ml"] == pytest.approx(counts[value])

    # A second run does what is missing, and nothing else.
    (output / "b.json").unlink()
    kept = (output / "a.nii.gz").stat().st_mtime_ns
    (scans / "bad.nii.gz").unlink()
    assert run(workdir, scans, output) == 0
    assert (output / "a.nii.gz").stat().st_mtime_ns == kept
    assert (output / "b.json").is_file()
    # Results of other settings are not mixed with them.
    assert run(workdir, scans, output, "--tta=mirror") == 1
    assert "made with other models or settings" in capsys.readouterr().err
    assert run(workdir, scans, output, "--tta=mirror", "--overwrite") == 0


def test_mirrored_prediction_of_a_mirrored_scan_is_mirrored(workdir: Path) -> None:
    hu = np.ascontiguousarray(tiny_volume(0, 4)[0].transpose(2, 1, 0))
    predictor = mbh_jax.load(workdir, mirror=True)
    mask = predictor.predict_mask(hu)
    mirrored = predictor.predict_mask(hu[:, :, ::-1])[:, :, ::-1]
    assert (mask == mirrored).mean() > 0.999  # Ties are decided by rounding.
    plain = mbh_jax.load(workdir).predict_mask(hu)
    assert (mask != plain).any()


def test_two_networks_decide_by_their_mean_probabilities(
    workdir: Path, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    config = run_commands.tiny_config(tiny_dataset_dir, model__norm="none")
    config.seed = 3
    parallel = create_parallel("jit")
    other = tmp_path / "other"
    variables = network.create_network(config).init()
    initialize_workdir(config, epath.Path(other), variables, parallel)
    hu = np.ascontiguousarray(tiny_volume(1, 3)[0].transpose(2, 1, 0))
    mask = mbh_jax.load(workdir, other, batch_size=3).predict_mask(hu)

    total = np.zeros((*hu.shape, 6))
    for path in (workdir, other):
        trained = network.restore_network(epath.Path(path), parallel)
        logits = np.asarray(trained.network.logits(trained.variables, hu[..., None]), np.float64)
        exponentials = np.exp(logits - logits.max(-1, keepdims=True))
        probabilities = exponentials / exponentials.sum(-1, keepdims=True)
        total += jax.image.resize(probabilities, total.shape, "linear")
    assert (mask == total.argmax(-1)).mean() > 0.999
    assert len(np.unique(mask)) > 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "nothing", "no such file or folder"),
        (lambda folder: folder, "holds no scan"),
        (lambda folder: _file(folder / "notes.txt"), "not a scan: give .nii.gz, .nii"),
        (
            lambda folder: [_file(folder / n) for n in ("a.nii", "a.nii.gz")] and folder,
            "are both called a",
        ),
    ],
)
def test_what_is_no_scan_is_one_line(tmp_path: Path, make, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_scans(make(tmp_path))


def _file(path: Path) -> Path:
    path.write_text("")
    return path


def test_a_model_that_is_none_is_one_line(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "none", scans, tmp_path / "out") == 1
    assert "holds no run (no config.json)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
