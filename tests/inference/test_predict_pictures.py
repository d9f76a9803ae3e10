"""Pictures in; coloured masks of their size, overlays and counts of pixels out."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import run_commands
from etils import epath
from PIL import Image
from run_commands import predict_exit_code as run
from scipy import ndimage
from tiny_ct import tiny_volume

import mbh_jax
from mbh_jax import evaluate
from mbh_jax.imageio.readers import find_scans
from mbh_jax.inference.read_ahead import first_shape, in_groups, read_ahead
from mbh_jax.labels import CLASS_NAMES, LABELS
from mbh_jax.runtime.parallel import create_parallel
from mbh_jax.training import network
from mbh_jax.training.initialize import initialize_workdir

SEED = 7
"""With it the network, which is not trained, finds four classes and background."""
COLOURS = np.array([label.rgb for label in LABELS], np.uint8)


def _grey(seed: int, rows: int = 64, columns: int = 64) -> np.ndarray:
    hu = tiny_volume(seed, 3)[0].transpose(2, 1, 0)[1]
    return hu.clip(0, 255).astype(np.uint8)[:rows, :columns]


@pytest.fixture(scope="module")
def workdir(tiny_dataset_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network, not trained, that is shown what pictures hold."""
    return _model(tiny_dataset_dir, tmp_path_factory.mktemp("model") / "run", "hu_0_255")


def _model(dataset: Path, path: Path, window: str) -> Path:
    config = run_commands.tiny_config(dataset, model__norm="none", data__window=window)
    config.seed = SEED
    variables = network.create_network(config).init()
    initialize_workdir(config, epath.Path(path), variables, create_parallel("jit"))
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Six pictures of four sizes, one of them in a folder, and one that is damaged."""
    folder = tmp_path / "pictures"
    (folder / "ward").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.tif", "c.png", "ward/d.jpg")):
        Image.fromarray(_grey(number)).save(folder / name)
    Image.fromarray(_grey(4, 40, 56)).save(folder / "e.png")
    Image.fromarray(np.full((1, 1), 40, np.uint8)).save(folder / "f.png")
    (folder / "bad.png").write_bytes(b"no picture")
    return folder


def _labels(path: Path) -> np.ndarray:
    """Label values of a mask, by the colours of the class table."""
    rgb = np.asarray(Image.open(path).convert("RGB"))
    matches = (rgb[..., None, :] == COLOURS).all(-1)
    assert (matches.sum(-1) == 1).all()
    return matches.argmax(-1)


def test_a_folder_of_pictures(
    workdir: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert run(workdir, pictures, output, "--html") == 1
    said = capsys.readouterr()
    assert "6 of 7 scans" in said.out and "not a medical device" in said.out
    assert said.err.splitlines()[-1].startswith(f"error: {pictures / 'bad.png'}: not a PNG")
    assert f"no pages of pictures; {output / 'overlays'} shows them" in said.err
    names = ["a", "b", "c", "e", "f", "ward_d"]
    written = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}
    results = {f"{folder}{name}.png" for name in names for folder in ("", "overlays/")}
    tables = {f"{name}.json" for name in [*names, "report"]} | {"volumes.csv"}
    assert written == results | tables

    predictor = mbh_jax.load(workdir)
    with (output / "volumes.csv").open() as file:
        rows = {row["scan"]: row for row in csv.DictReader(file)}
    found_classes = set()
    paths = ("a.png", "b.tif", "c.png", "e.png", "f.png", "ward/d.jpg")
    for name, path in zip(names, paths, strict=True):
        labels = _labels(output / f"{name}.png")
        found = predictor.predict(pictures / path)
        assert labels.shape == Image.open(pictures / path).size[::-1]
        # Those of a group are predicted together: rounding may decide ties otherwise.
        assert (labels == found.mask[0]).mean() > 0.999
        counts = np.bincount(labels.ravel(), minlength=6)
        found_classes |= set(np.flatnonzero(counts))
        report = json.loads((output / f"{name}.json").read_text())
        assert report["spacing_mm"] is None
        assert (report["rows"], report["columns"]) == labels.shape
        for value in range(1, 6):
            one = report["classes"][CLASS_NAMES[value]]
            assert (
                one["num_pixels"]
                == counts[value]
                == int(rows[name][f"{CLASS_NAMES[value]}_pixels"])
            )
            lesions, number = ndimage.label(labels == value, np.ones((3, 3)))
            assert one["num_lesions"] == number
            largest = np.bincount(lesions.ravel())[1:].max() if number else 0
            assert one["largest_lesion_pixels"] == largest
            assert one["ml"] is one["largest_lesion_ml"] is one["abc2_ml"] is None
            assert rows[name][f"{CLASS_NAMES[value]}_ml"] == ""
        assert int(rows[name]["any_pixels"]) == counts[1:].sum()
        assert rows[name]["any_ml"] == rows[name]["largest_lesion_abc2_ml"] == ""
        assert "covers" not in rows[name]["warnings"] and "mm" not in rows[name]["warnings"]
        assert np.isnan(found.ml["any"]) and found.pixels["any"] == (found.mask > 0).sum()
    assert found_classes == {0, 1, 2, 4, 5}

    # Grey outside the mask stays as it was; outlines have the colour of the class.
    overlay = np.asarray(Image.open(output / "overlays" / "a.png"))
    labels, grey = _labels(output / "a.png"), _grey(0)
    np.testing.assert_array_equal(overlay[labels == 0], grey[labels == 0, None].repeat(3, -1))
    assert (overlay[labels > 0] != grey[labels > 0, None]).any(-1).mean() > 0.9


def test_pictures_that_are_upside_down(
    workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their masks are those of the upright ones, upside down."""
    folder, output = tmp_path / "pictures", tmp_path / "out"
    folder.mkdir()
    upright = tmp_path / "upright.png"
    Image.fromarray(_grey(0)).save(upright)
    Image.fromarray(_grey(0)[::-1]).save(folder / "a.png")
    assert run(workdir, folder, output, "--flip_rows", "--save_probabilities") == 0
    found = mbh_jax.load(workdir, keep_probabilities=True).predict(upright)
    labels = _labels(output / "a.png")
    np.testing.assert_array_equal(labels[::-1], found.mask[0])
    overlay = np.asarray(Image.open(output / "overlays" / "a.png"))
    np.testing.assert_array_equal(overlay[labels == 0, 0], _grey(0)[::-1][labels == 0])
    probabilities = np.load(output / "a.npz")["probabilities"]
    assert (labels == probabilities[:, 0].argmax(0)).mean() > 0.99
    assert run(workdir, folder, output) == 1
    said = capsys.readouterr().err
    assert "taken to show the face above" in said
    assert "made with other models or settings" in said
    scan = tmp_path / "scan.nii.gz"
    scan.write_bytes(b"")
    assert run(workdir, scan, output, "--flip_rows") == 1
    assert "scan.nii.gz: --flip_rows is for pictures: leave it out" in capsys.readouterr().err


def test_a_second_run_does_what_is_missing(
    workdir: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    (pictures / "bad.png").unlink()
    assert run(workdir, pictures, output) == 0
    (output / "c.json").unlink()
    kept = (output / "a.png").stat().st_mtime_ns
    assert run(workdir, pictures, output) == 0
    assert (output / "a.png").stat().st_mtime_ns == kept and (output / "c.json").is_file()
    assert run(workdir, pictures, output, "--tta=mirror") == 1
    assert "made with other models or settings" in capsys.readouterr().err
    assert run(workdir, pictures, output, "--min_lesion_ml=1", "--overwrite") == 1
    assert "lesions cannot be measured in mL" in capsys.readouterr().err


def test_a_picture_is_predicted_as_its_slice(workdir: Path, pictures: Path) -> None:
    """Grey is HU clipped to 0 to 255, which is all that this network sees of a scan."""
    hu = np.ascontiguousarray(tiny_volume(0, 3)[0].transpose(2, 1, 0)[1:2])
    assert hu.min() < -900 and hu.max() > 900
    predictor = mbh_jax.load(workdir)
    found = predictor.predict(pictures / "a.png")
    np.testing.assert_array_equal(found.mask, predictor.predict_mask(hu))
    assert len(np.unique(found.mask)) > 3 and not found.warnings[1:]


def test_pictures_of_one_size_are_grouped(pictures: Path) -> None:
    (pictures / "ward" / "g.png").write_bytes((pictures / "a.png").read_bytes())
    scans = find_scans(pictures)
    groups = in_groups(read_ahead(scans, lambda volume: None), 2)
    names = [[scan.name for scan, _ in group] for group in groups]
    assert names == [["a", "b"], ["bad"], ["c"], ["e"], ["f"], ["ward_d", "ward_g"]]
    assert first_shape(scans) == (2, 64, 64)
    assert first_shape([scans[3], scans[4]]) == (1, 64, 64)
    assert first_shape(scans[-1:]) == (1, 64, 64)


def test_options_and_shards(workdir: Path, pictures: Path, tmp_path: Path) -> None:
    (pictures / "bad.png").unlink()
    output = tmp_path / "out"
    options = ("--tta=mirror", "--resolution=tiles", "--save_probabilities")
    for number in (1, 2):
        assert run(workdir, pictures, output, *options, f"--shard={number}/2") == 0
    assert run(workdir, pictures, output, *options) == 0
    with np.load(output / "e.npz") as archive:
        probabilities = archive["probabilities"]
    assert probabilities.shape == (6, 1, 40, 56)
    labels = _labels(output / "e.png")
    chosen = np.take_along_axis(probabilities[:, 0], labels[np.newaxis], axis=0)[0]
    np.testing.assert_array_equal(chosen, probabilities[:, 0].max(0))
    options = {"mirror": True, "use_tiles": True}
    found = mbh_jax.load(workdir, **options).predict(pictures / "e.png")
    np.testing.assert_array_equal(found.mask[0], labels)


def test_coloured_masks_are_scored_as_they_were_predicted(
    workdir: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dice by class of the written masks, against counts in NumPy."""
    (pictures / "bad.png").unlink()
    output, references, scores = tmp_path / "out", tmp_path / "masks", tmp_path / "scores"
    assert run(workdir, pictures, output) == 0
    references.mkdir()
    rng = np.random.default_rng(0)
    truth = {}
    for name in "abc":
        truth[name] = np.roll(_labels(output / f"{name}.png"), rng.integers(1, 9, 2), (0, 1))
        Image.fromarray(COLOURS[truth[name]]).save(references / f"{name}.png")
    given = [f"--predictions={output}", f"--references={references}", f"--output={scores}"]
    evaluate.main(given)
    with (scores / "per_case.csv").open() as file:
        rows = list(csv.DictReader(file))
    dice = {(row["case"], row["class"]): row["dice"] for row in rows}
    checked = 0
    for name in "abc":
        labels = _labels(output / f"{name}.png")
        for value in range(1, 6):
            one, other = labels == value, truth[name] == value
            if one.any():
                expected = 2 * (one & other).sum() / (one.sum() + other.sum())
                assert float(dice[name, CLASS_NAMES[value]]) == pytest.approx(expected)
                checked += 1
    assert checked > 3


def test_a_network_that_sees_more_than_pictures_hold_is_warned_of(
    tiny_dataset_dir: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = _model(tiny_dataset_dir, tmp_path / "wide", "brain_subdural_bone")
    output = tmp_path / "out"
    assert run(wide, pictures / "a.png", output) == 0
    said = "clipped to 0 to 255 HU, and the network sees -800 to 2000 HU"
    assert said in json.loads((output / "a.json").read_text())["warnings"][0]
    assert capsys.readouterr().err.count(said) == 1
