from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_ct import nifti_bytes, tiny_volume, write_case

from data_prep import build_tfrecords, dataset, export_png
from mbh_jax.data.index import SliceIndex
from mbh_jax.errors import UserError
from mbh_jax.labels import LABELS

SHARED = Path(__file__).parents[2].parent / "shared"
SAMPLE = SHARED / "bhsd_sample"


@pytest.fixture(scope="module")
def index(tiny_dataset_dir):
    return SliceIndex.load(tiny_dataset_dir)


@pytest.fixture(scope="module")
def exported(index, tmp_path_factory):
    output = tmp_path_factory.mktemp("png") / "all"
    export_png.export(index, output, slices="all")
    return output


def decoded(path):
    """Labels of a coloured mask, by a table of its own."""
    rgb = np.asarray(Image.open(path))
    label = np.full(rgb.shape[:2], 255, np.uint8)
    for value, entry in enumerate(LABELS):
        label[(rgb == entry.rgb).all(axis=-1)] = value
    return label


def test_every_slice_is_where_it_belongs(index, exported):
    for number, labelled in dataset.read_volumes(index, "compared"):
        info = index.volumes[number]
        place = exported / {"train": "train", "validation": "valid", "test": "test"}[info.split]
        for k in range(info.num_slices):
            name = f"{info.volume_id}_slice_{k:03d}.png"
            image = np.asarray(Image.open(place / "images" / name))
            assert image.dtype == np.uint8
            np.testing.assert_array_equal(image, labelled.hu[k].clip(0, 255))
            np.testing.assert_array_equal(decoded(place / "masks" / name), labelled.label[k])
    assert len(list(exported.rglob("*.png"))) == 2 * len(index)


def test_only_slices_with_blood_unless_asked(index, tmp_path, capsys):
    directory = str(index.directory)
    export_png.main(["--dataset", directory, "--output", str(tmp_path / "png")])
    counts = {split: index.num_examples(split, "blood") for split in index.split_names}
    assert capsys.readouterr().out == (
        f"{sum(counts.values())} slices ({counts['train']} train, {counts['validation']} valid, "
        f"{counts['test']} test) written to {tmp_path}/png\n"
    )
    for mask in (tmp_path / "png").glob("*/masks/*.png"):
        assert decoded(mask).any()
        assert (mask.parents[1] / "images" / mask.name).exists()


def test_turned_a_quarter_counter_clockwise_from_bhsds_arrays(tmp_path):
    hu, label = tiny_volume(0, 5)
    for number in range(3):
        volume_id = f"v{number}"
        write_case(tmp_path / "source", volume_id, nifti_bytes(hu), nifti_bytes(label))
    build_tfrecords.build(tmp_path / "source", tmp_path / "dataset")
    export_png.export(SliceIndex.load(tmp_path / "dataset"), tmp_path / "png", slices="all")
    for number in range(3):
        (path,) = (tmp_path / "png").glob(f"*/masks/v{number}_slice_002.png")
        np.testing.assert_array_equal(decoded(path), np.rot90(label[:, :, 2]))


def test_the_way_back_gives_the_same_labels(index, exported, tmp_path):
    build_tfrecords.build(exported, tmp_path)
    back = SliceIndex.load(tmp_path)
    assert back.split_method["method"] == "given"
    volumes: dict[str, list] = {
        labelled.patient_id: [] for _, labelled in dataset.read_volumes(index, "ours")
    }
    for source in (index, back):
        for number, labelled in dataset.read_volumes(source, "compared"):
            volumes[labelled.patient_id].append(
                (source.volumes[number].split, labelled.volume_id, labelled)
            )
    for pairs in volumes.values():
        half = len(pairs) // 2
        ours, theirs = (
            sorted(part, key=lambda row: row[1]) for part in (pairs[:half], pairs[half:])
        )
        for (split, _, one), (other_split, _, other) in zip(ours, theirs, strict=True):
            assert split == other_split
            np.testing.assert_array_equal(one.label, other.label)
            np.testing.assert_array_equal(one.hu.clip(0, 255), other.hu)
            assert not other.spacing_known


def test_an_export_that_is_there_stays(index, exported, tmp_path):
    with pytest.raises(UserError, match="all: exists: give --overwrite"):
        export_png.export(index, exported, slices="blood")
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match=r"holds thesis\.tex, which was not written"):
        export_png.export(index, tmp_path, slices="blood", overwrite=True)
    with pytest.raises(UserError, match="is a file"):
        export_png.export(index, tmp_path / "thesis.tex", slices="blood", overwrite=True)
    export_png.export(index, exported.parent / "again", slices="all")
    export_png.export(index, exported.parent / "again", slices="blood", overwrite=True)
    masks = list((exported.parent / "again").glob("*/masks/*.png"))
    assert len(masks) == sum(index.num_examples(split, "blood") for split in index.split_names)


@pytest.mark.skipif(
    not (SAMPLE / "label_sample.zip").exists(), reason="the real sample is not available"
)
def test_real_sample_equals_its_pictures_upside_down(tmp_path):
    """Those are upside down against the derivative whose orientation ours is."""
    build_tfrecords.build(SAMPLE / "label_sample.zip", tmp_path / "dataset")
    export_png.export(SliceIndex.load(tmp_path / "dataset"), tmp_path / "png", slices="all")
    theirs: dict[int, list[Path]] = {}
    for path in sorted((SAMPLE / "png" / "images").iterdir()):
        theirs.setdefault(int(path.stem) // 1000 - 100, []).append(path)
    ours = sorted((tmp_path / "png").glob("*/images/*.png"), key=lambda path: path.name)
    assert len(ours) == 36
    for path in ours:
        patient, slice_name = path.stem.split("_ID_")[0], path.stem.rsplit("_", 1)[1]
        other = theirs[int(patient.removeprefix("ID_a"), 16)][int(slice_name)]
        for kind in ("images", "masks"):
            our_pixels = Image.open(path.parents[1] / kind / path.name)
            their_pixels = Image.open(other.parents[1] / kind / other.name)
            np.testing.assert_array_equal(
                np.asarray(our_pixels.convert("RGB")), np.asarray(their_pixels.convert("RGB"))[::-1]
            )
