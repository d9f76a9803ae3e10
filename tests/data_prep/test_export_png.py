import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_ct import nifti_bytes, tiny_volume, write_case

from data_prep import build_tfrecords, dataset, export_nnunet, export_png, sources
from data_prep.sources import pictures
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


def test_masks_in_other_colours_and_patients_come_back(make_source, tmp_path):
    """Names say three patients of two volumes; each export says the same."""
    build_tfrecords.build(
        make_source(num_volumes=6),
        tmp_path / "dataset",
        options=sources.Options(patients=r"_ID_0*([0-9])$"),
    )
    metadata = tmp_path / "dataset" / "head_ct" / "1.0.0" / "metadata.json"
    content = json.loads(metadata.read_text())
    for row in content["volumes"]:
        row["patient_id"] = f"p{int(row['patient_id']) // 2}"
    metadata.write_text(json.dumps(content))
    index = SliceIndex.load(tmp_path / "dataset")
    patients = {volume.volume_id: volume.patient_id for volume in index.volumes}
    assert set(patients.values()) == {"p0", "p1", "p2"}

    text = "{(9,0,0): 0, (0,0,0): 2, (1,1,1): 1, (3,3,3): 3, (4,4,4): 4, (255,255,255): 5}"
    arguments = ["--dataset", str(tmp_path / "dataset"), "--output", str(tmp_path / "png")]
    export_png.main([*arguments, "--rgb_map", text])
    with pytest.raises(SystemExit):
        export_png.main([*arguments, "--rgb_map", "{(0,0,0): 0}", "--overwrite"])
    folder = export_nnunet.export(index, tmp_path, number=1, name="x")
    options = sources.Options(rgb_map=pictures.parse_rgb_map(text))
    labels = {
        info.volume_id: volume.label
        for info, (_, volume) in zip(
            index.volumes, dataset.read_volumes(index, "compared"), strict=True
        )
    }
    for path, chosen in ((tmp_path / "png", options), (folder, None)):
        found = sources.open_source(path, options=chosen)
        assert found.notes == ("patients by patients.csv (6 volumes of 3 patients)",)
        for case in found.cases:
            (volume_id,) = [name for name in patients if case.volume_id.startswith(name)]
            assert case.patient_id == patients[volume_id]
            label = sources.read_case(case).label
            with_blood = labels[volume_id].any(axis=(1, 2)) | (path == folder)
            np.testing.assert_array_equal(label, labels[volume_id][with_blood])


def test_only_slices_with_blood_unless_asked(index, tmp_path, capsys):
    directory = str(index.directory)
    export_png.main(["--dataset", directory, "--output", str(tmp_path / "png")])
    counts = {split: index.num_examples(split, "blood") for split in index.split_names}
    assert capsys.readouterr().out == (
        f"{sum(counts.values())} slices ({counts['train']} train, {counts['validation']} valid, "
        f"{counts['test']} test) written to {tmp_path}/png\n"
        "colours, as the TensorFlow FlexUNet's configuration has them: rgb_map = {(0,0,0):0,"
        "(255,0,0):1,(0,0,255):2,(255,255,0):3,(0,255,255):4,(0,255,0):5}\n"
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
