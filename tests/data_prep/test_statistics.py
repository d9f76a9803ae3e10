import csv
import json

import nibabel
import numpy as np
import pytest
from PIL import Image
from tiny_ct import LAS_AFFINE, nifti_bytes, write_case

from data_prep import build_tfrecords, export_png, measurements, statistics, statistics_plots
from mbh_jax.data.index import SPLIT_NAMES, SliceIndex

BLOOD = ("EDH", "IPH", "IVH", "SAH", "SDH")
PICTURES = ("classes.png", "hu.png", "heights.png", "montage.png")
PICTURES_OF_MILLIMETRES = ("blood_ml.png", "geometry.png")


@pytest.fixture(scope="module")
def index(tiny_dataset_dir):
    return SliceIndex.load(tiny_dataset_dir)


@pytest.fixture(scope="module")
def arrays(tiny_source_dir):
    """(HU, label) of each source file as nibabel reads it, by volume id."""

    def read(path):
        return np.asarray(nibabel.Nifti1Image.from_filename(path).dataobj)

    return {
        path.name.removesuffix(".nii.gz"): (
            read(path),
            read(tiny_source_dir / "ground truths" / path.name).astype(int),
        )
        for path in (tiny_source_dir / "images").iterdir()
    }


def test_millilitres_use_true_geometry(index, arrays):
    for row in measurements.volume_rows(index):
        _, label = arrays[row["volume_id"]]
        for value, name in enumerate(BLOOD, start=1):
            assert row[f"ml_{name}"] == pytest.approx((label == value).sum() * 0.5 * 0.5 * 5e-3)
        assert row["ml_blood"] == pytest.approx((label > 0).sum() * 1.25e-3)
        assert row["voxel_ul"] == pytest.approx(1.25)
        assert row["tilt_deg"] == pytest.approx(15, abs=1e-3)
        assert row["coverage_mm"] == pytest.approx(5 * label.shape[2], rel=1e-5)
        assert [row["slices"], row["rows"], row["columns"]] == [label.shape[2], 64, 64]


def test_sheared_slices_hold_less_than_the_product_of_spacings(tmp_path):
    """A tilted gantry's stack: slices 5 mm apart along the table, 5 cos 25 at right angles."""
    angle = np.deg2rad(25)
    affine = LAS_AFFINE.copy()
    affine[:3, 1] = [0, 0.5 * np.cos(angle), 0.5 * np.sin(angle)]
    affine[:3, 2] = [0, 0, 5]
    voxels = []
    for number in range(3):
        rng = np.random.default_rng(number)
        hu = rng.integers(-1000, 100, (64, 64, 5)).astype(np.int16)
        label = (rng.random(hu.shape) < 0.1).astype(np.uint8)
        image = nibabel.Nifti1Image(hu, affine)
        mask = nibabel.Nifti1Image(label, affine)
        for volume in (image, mask):
            volume.set_qform(None, code=0)
            volume.set_sform(affine, code=1)
        write_case(tmp_path / "source", f"v{number}", image.to_bytes(), mask.to_bytes())
        voxels.append(int(label.sum()))
    build_tfrecords.build(tmp_path / "source", tmp_path / "dataset")
    rows = measurements.volume_rows(SliceIndex.load(tmp_path / "dataset"))
    for row, held in zip(sorted(rows, key=lambda row: row["volume_id"]), voxels, strict=True):
        assert row["ml_EDH"] == pytest.approx(held * 1.25e-3 * np.cos(angle))
        assert row["spacing_slice_mm"] == pytest.approx(5)
        assert row["voxel_ul"] == pytest.approx(0.5 * 0.5 * 5 * np.cos(angle))
        assert row["coverage_mm"] == pytest.approx(25 * np.cos(angle))
        assert row["tilt_deg"] == pytest.approx(25, abs=1e-3)


def test_counts_by_split_are_the_sources(index, arrays):
    counts = measurements.split_counts(index)
    assert tuple(counts) == SPLIT_NAMES
    for split, of_split in counts.items():
        ids = [info.volume_id for info in index.volumes if info.split == split]
        labels = [arrays[volume_id][1] for volume_id in ids]
        assert of_split["volumes"] == len(ids)
        assert of_split["patients"] == len({volume_id[:11] for volume_id in ids})
        assert of_split["slices"] == sum(label.shape[2] for label in labels)
        bleeding = [label.any(axis=(0, 1)) for label in labels]
        assert of_split["slices_with_blood"] == sum(int(slices.sum()) for slices in bleeding)
        for value, name in enumerate(BLOOD, start=1):
            held = [(label == value).any(axis=(0, 1)) for label in labels]
            assert of_split["slices_with"][name] == sum(int(slices.sum()) for slices in held)
            assert of_split["volumes_with"][name] == sum(slices.any() for slices in held)


def test_hu_histograms_are_those_of_the_voxels(index, arrays):
    histograms = measurements.hu_histograms(index)
    assert tuple(histograms) == ("brain", *BLOOD)
    for value, name in enumerate(BLOOD, start=1):
        hu = np.concatenate([image[label == value] for image, label in arrays.values()])
        counted = np.repeat(measurements.HU_BINS, histograms[name])
        np.testing.assert_array_equal(counted, np.sort(hu))
    brain = np.repeat(measurements.HU_BINS, histograms["brain"])
    # The tiny heads' brain is 35 HU, with offsets of up to 4 and noise of up to 3.
    assert len(brain) > 10_000
    assert brain.min() >= 28
    assert brain.max() <= 42


def test_histogram_summary_agrees_with_numpy():
    values = np.random.default_rng(0).normal(45, 12, 10_001).round().astype(int)
    histogram = np.bincount(values + 1024, minlength=len(measurements.HU_BINS))
    summary = measurements.histogram_summary(histogram)
    assert summary["voxels"] == 10_001
    assert summary["mean"] == pytest.approx(values.mean())
    assert summary["sd"] == pytest.approx(values.std())
    for percent in (5, 25, 50, 75, 95):
        assert summary[f"p{percent}"] == np.percentile(values, percent, method="inverted_cdf")
    assert measurements.histogram_summary(np.zeros_like(histogram)) == {"voxels": 0}


def test_summary_leaves_out_what_is_not_known():
    values = [1.0, np.nan, 3.0, 8.0]
    summary = measurements.summary(values)
    assert summary["n"] == 3
    assert (summary["mean"], summary["p50"]) == (4.0, 3.0)
    assert (summary["min"], summary["max"]) == (1.0, 8.0)
    assert measurements.summary([np.nan]) == {"n": 0}


def test_inside_skull_is_what_bone_encloses():
    rows, columns = np.indices((128, 128)) - 64
    radius = np.hypot(rows, columns)
    hu = np.select([radius < 40, radius < 46, radius < 55], [35, 900, 30], -1000)
    inside = measurements.inside_skull(hu)
    assert inside[radius < 33].all()
    assert not inside[radius > 37].any()
    hu[60:68, 100:112] = 30  # A gap of 8 pixels, as of a suture or a burr hole.
    gap = measurements.inside_skull(hu)
    assert gap[radius < 30].all()
    assert not gap[radius > 40].any()
    hu[:, 64:] = 30
    assert not measurements.inside_skull(hu).any()


def test_height_shares(index, arrays):
    """Every volume of the tiny source has every class in all slices but the first and last."""
    shares = measurements.height_shares(index)
    assert shares.shape == (5, measurements.NUM_HEIGHTS)
    for row in shares:
        np.testing.assert_array_equal(row, shares[0])
    heights = {
        int((k + 0.5) / label.shape[2] * 20): float(0 < k < label.shape[2] - 1)
        for _, label in arrays.values()
        for k in range(label.shape[2])
    }
    for height, share in enumerate(shares[0]):
        if height in heights:
            assert share == heights[height]
        else:
            assert np.isnan(share)


def test_command_writes_numbers_and_pictures(tiny_dataset_dir, tmp_path, capsys):
    statistics.main([str(tiny_dataset_dir), "--output", str(tmp_path / "out")])
    out = capsys.readouterr().out
    assert "EDH: in 8 volumes, median 0.2 mL" in out
    names = {"statistics.json", "volumes.csv", *PICTURES, *PICTURES_OF_MILLIMETRES}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    content = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert content["fingerprint"] == SliceIndex.load(tiny_dataset_dir).fingerprint
    assert content["blood_ml_where_present"]["blood"]["n"] == 8
    assert content["spacing_slice_mm"]["p50"] == pytest.approx(5)
    with (tmp_path / "out" / "volumes.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 8
    for name in (*PICTURES, *PICTURES_OF_MILLIMETRES):
        pixels = np.asarray(Image.open(tmp_path / "out" / name).convert("RGB"))
        assert min(pixels.shape[:2]) > 300
        assert pixels.std() > 10


def test_a_remote_dataset_needs_an_output(capsys):
    with pytest.raises(SystemExit):
        statistics.main(["gs://bucket/bhsd"])
    assert "gs://bucket/bhsd: is remote: give --output" in capsys.readouterr().err


def test_pictures_have_no_millimetres(index, tmp_path):
    export_png.export(index, tmp_path / "png", slices="all")
    build_tfrecords.build(tmp_path / "png", tmp_path / "dataset")
    statistics.main([str(tmp_path / "dataset")])
    folder = tmp_path / "dataset" / "statistics"
    assert {path.name for path in folder.glob("*.png")} == set(PICTURES)
    content = json.loads((folder / "statistics.json").read_text())
    assert content["blood_ml_where_present"]["blood"] == {"n": 0}
    assert content["spacing_slice_mm"] == {"n": 0}


def test_excerpts_of_heads_without_blood(tmp_path):
    rng = np.random.default_rng(0)
    label = np.zeros((32, 32, 4), np.uint8)
    for number in range(3):
        hu = rng.integers(-1000, 1000, label.shape).astype(np.int16)
        write_case(tmp_path / "source", f"v{number}", nifti_bytes(hu), nifti_bytes(label))
    build_tfrecords.build(tmp_path / "source", tmp_path / "dataset")
    (tmp_path / "dataset" / "statistics").mkdir()
    (tmp_path / "dataset" / "statistics" / "montage.png").write_bytes(b"of an earlier dataset")
    statistics.main([str(tmp_path / "dataset")])
    content = json.loads((tmp_path / "dataset" / "statistics" / "statistics.json").read_text())
    assert content["hu"]["EDH"] == {"voxels": 0}
    assert content["counts"]["train"]["slices_with_blood"] == 0
    names = {path.name for path in (tmp_path / "dataset" / "statistics").glob("*.png")}
    # Excerpts of 4 slices do not say where in a head they were.
    assert names == {*PICTURES, *PICTURES_OF_MILLIMETRES} - {"montage.png", "heights.png"}
    assert set(content["share_of_slices_by_height"]["EDH"]) == {None}


def test_montage_shows_the_largest_slice_of_scans_from_large_to_small(index, arrays):
    for value in range(1, 6):
        examples = statistics_plots.montage_examples(index, value, 4)
        sizes = [
            int((arrays[index.volumes[index.volume[example]].volume_id][1] == value).sum())
            for example in examples
        ]
        assert len(examples) == 4
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[0] == max(int((label == value).sum()) for _, label in arrays.values())
        assert sizes[-1] == min(int((label == value).sum()) for _, label in arrays.values())
