"""Import: each layout recognised from its files, its volumes compared with what was put in."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats
from tiny_ct import nifti_bytes, tiny_volume, write_tiny_source

from data_prep import build_tfrecords, sources
from data_prep.sources import pictures
from data_prep.sources.cases import majority
from mbh_jax.data import pipeline
from mbh_jax.data.index import SliceIndex
from mbh_jax.errors import UserError
from mbh_jax.labels import LABELS

SAMPLE = Path(__file__).parents[2].parent / "shared" / "bhsd_sample"
PALETTE = np.array([label.rgb for label in LABELS], np.uint8)


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def put_png(path, array, palette=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(array)
    if palette:
        picture.putpalette(palette)
    picture.save(path)


def in_program(stored):
    """BHSD's (R->L, P->A, I->S) as (slice, row, column), by NumPy alone."""
    return np.rot90(stored).transpose(2, 0, 1)


def grey_and_label(seed):
    hu, label = tiny_volume(seed, 3, 32)
    return np.clip(in_program(hu), 0, 255).astype(np.uint8), in_program(label).astype(np.uint8)


def read_all(path, **options):
    found = sources.open_source(path, **options)
    assert not found.bad_cases
    return found, {case.volume_id: sources.read_case(case) for case in found.cases}


def test_unlabelled_scans_have_a_case_label_and_stay_out_of_training(tmp_path, capsys):
    scans = {"anybleed": ["ID_1_ID_1", "ID_1_ID_2"], "nobleed": ["ID_3_ID_3", "ID_4_ID_4"]}
    for number, (folder, names) in enumerate(scans.items()):
        for name in names:
            hu, _ = tiny_volume(number, 4)
            put(tmp_path / "source" / folder / f"{name}.nii", nifti_bytes(hu))
    build_tfrecords.build(tmp_path / "source", tmp_path / "output")
    assert "4 volumes have no voxel labels" in capsys.readouterr().out
    index = SliceIndex.load(tmp_path / "output")
    for volume in index.volumes:
        assert not volume.has_label
        assert volume.spacing_known
        assert volume.volume_id in scans[volume.case_label]
    assert not index.pixels_per_class.any()
    with pytest.raises(UserError, match="no slices with voxel labels in split train"):
        index.examples("train")
    assert index.num_examples("train") == 0
    asked = np.concatenate([index.examples(s, unlabelled=True) for s in index.split_names])
    np.testing.assert_array_equal(np.sort(asked), np.arange(16))
    (batch,) = pipeline.batches(index, asked, global_batch=16)
    assert not batch["label"].any()


@pytest.mark.parametrize("indexed", ["colour", "grey", "palette"])
def test_png_folders(tmp_path, indexed):
    grey, label = grey_and_label(0)
    for number in range(3):
        name = f"{100_000 + 1000 * 103 + 5 + number}.png"
        put_png(tmp_path / "images" / name, np.dstack([grey[number]] * 3))
        if indexed == "colour":
            put_png(tmp_path / "masks" / name, PALETTE[label[number]])
        elif indexed == "grey":
            put_png(tmp_path / "masks" / name, label[number])
        else:
            put_png(tmp_path / "masks" / name, label[number], palette=PALETTE.ravel().tolist())
    put_png(tmp_path / "images" / "other.png", grey[0])
    put_png(tmp_path / "masks" / "other.png", label[0])
    found, volumes = read_all(tmp_path)
    assert found.layout == "png"
    assert list(volumes) == ["other", "volume_103"]
    volume = volumes["volume_103"]
    np.testing.assert_array_equal(volume.hu, grey)
    assert volume.hu.dtype == np.int16
    np.testing.assert_array_equal(volume.label, label)
    assert not volume.spacing_known
    assert volume.spacing_mm.tolist() == [1, 1, 1]
    (case,) = [case for case in found.cases if case.volume_id == "volume_103"]
    assert sources.read_facts(case).notes == ("holds slices 5, 6, 7 of the original volume",)


def test_png_pictures_can_be_upside_down_and_of_other_colours(tmp_path):
    grey, label = grey_and_label(1)
    label[label > 2] = 0
    colours = np.array([[9, 9, 9], [255, 255, 255], [1, 2, 3]], np.uint8)
    put_png(tmp_path / "images" / "a_slice_0.png", grey[1][::-1])
    put_png(tmp_path / "masks" / "a_slice_0.png", colours[label[1][::-1]])
    rgb_map = pictures.parse_rgb_map("{9: 0, (255,255,255): 1, (1,2,3): 2}")
    options = sources.Options(rgb_map=rgb_map, flip_rows=True)
    _, volumes = read_all(tmp_path, options=options)
    np.testing.assert_array_equal(volumes["a"].hu[0], grey[1])
    np.testing.assert_array_equal(volumes["a"].label[0], label[1])
    assert volumes["a"].label.max() == 2


@pytest.mark.parametrize(
    ("name", "volume", "number"),
    [
        ("162015", "volume_062", 15),
        ("203015", "volume_103", 15),
        ("292059", "volume_192", 59),
        ("100015", "100015", 0),
        ("312015", "312015", 0),
        ("ID_a_ID_b_slice_007", "ID_a_ID_b", 7),
        ("head_7", "head_7", 0),
    ],
)
def test_volume_and_slice_of_a_picture_name(name, volume, number):
    assert pictures.volume_and_slice(name) == (volume, number)


def test_folders_of_other_split_names_are_recognised(tmp_path):
    for folder in ("train", "Val", "testing"):
        put_png(tmp_path / folder / "images" / "a.png", np.arange(64, dtype=np.uint8).reshape(8, 8))
        put_png(tmp_path / folder / "masks" / "a.png", np.zeros((8, 8), np.uint8))
    found = sources.open_source(tmp_path)
    assert [(case.volume_id, case.given_split) for case in found.cases] == [
        ("a_test", "test"),
        ("a_train", "train"),
        ("a_validation", "validation"),
    ]


def test_png_splits_are_kept_and_shared_patients_are_reported(tmp_path, capsys):
    names = {"train": ["101000", "101001"], "valid": ["102000"], "test": ["101002", "103000"]}
    for split, stems in names.items():
        for stem in stems:
            grey, label = grey_and_label(int(stem))
            put_png(tmp_path / "source" / split / "images" / f"{stem}.png", grey[1])
            put_png(tmp_path / "source" / split / "masks" / f"{stem}.png", PALETTE[label[1]])
    build_tfrecords.build(tmp_path / "source", tmp_path / "output")
    printed = capsys.readouterr().out
    assert "split: given" in printed
    assert "warning: 1 of 3 patients are in several splits" in printed
    assert printed.count("PNG has no spacing") == printed.count("give --flip_rows") == 1
    index = SliceIndex.load(tmp_path / "output")
    assert index.split_method["method"] == "given"
    assert [(v.volume_id, v.patient_id, v.split, v.num_slices) for v in index.volumes] == [
        ("volume_001_train", "volume_001", "train", 2),
        ("volume_002_validation", "volume_002", "validation", 1),
        ("volume_001_test", "volume_001", "test", 1),
        ("volume_003_test", "volume_003", "test", 1),
    ]
    assert not any(volume.spacing_known for volume in index.volumes)


def write_nnunet(root, labels, named):
    for number, case_id in enumerate(["case_1", "case_2"]):
        hu, _ = tiny_volume(number, 4)
        put(root / "imagesTr" / f"{case_id}_0000.nii", nifti_bytes(hu))
        put(root / "labelsTr" / f"{case_id}.nii", nifti_bytes(labels[number]))
    put(root / "imagesTs" / "case_3_0000.nii", nifti_bytes(tiny_volume(2, 4)[0]))
    description = {"channel_names": {"0": "CT"}, "labels": named, "file_ending": ".nii"}
    (root / "dataset.json").write_text(json.dumps(description))


def test_nnunet_raw_by_the_names_of_its_labels(tmp_path):
    truth = [tiny_volume(number, 4)[1] for number in range(2)]
    # Another project's order of the classes, and long names.
    order = [0, 5, 1, 2, 4, 3]
    names = ["background", "SDH", "edh", "Intraparenchymal haemorrhage", "SAH", "IVH"]
    theirs = [np.argsort(order)[label].astype(np.uint16) for label in truth]
    root = tmp_path / "Dataset007_Heads"
    write_nnunet(root, theirs, {name: value for value, name in enumerate(names)})
    found, volumes = read_all(tmp_path)
    assert found.layout == "nnunet"
    assert list(volumes) == ["case_1", "case_2", "case_3"]
    for number, name in enumerate(["case_1", "case_2"]):
        np.testing.assert_array_equal(volumes[name].label, in_program(truth[number]))
        np.testing.assert_array_equal(volumes[name].hu, in_program(tiny_volume(number, 4)[0]))
    assert [volume.has_label for volume in volumes.values()] == [True, True, False]
    assert [case.given_split for case in found.cases] == ["train", "train", "test"]


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"background": 0, "blood": 1}, "label 'blood' is none of background, EDH"),
        ({"background": 0, "EDH": 2}, "number them from 0"),
        ({"background": 0, "EDH": [1, 2]}, 'no readable "labels"'),
        ({"background": 0, "EDH": 1}, "label value 5 is not in dataset.json"),
    ],
)
def test_nnunet_labels_must_be_ours(tmp_path, named, message):
    write_nnunet(tmp_path, [tiny_volume(number, 4)[1] for number in range(2)], named)
    with pytest.raises(UserError, match=message):
        read_all(tmp_path)


@pytest.fixture(scope="module")
def mbhseg25(tmp_path_factory):
    """The zip, and each annotator's label of the two cases."""
    root = tmp_path_factory.mktemp("mbhseg25")
    labels = {}
    with zipfile.ZipFile(root / "MBH_Train_2025_voxel-label.zip", "w") as archive:
        for number, annotators in enumerate([(1, 2, 5), (1, 5)]):
            case_id = f"ID_{number}_ID_{number}"
            hu, label = tiny_volume(number, 4)
            folder = f"MBH_Train_2025_voxel-label/{case_id}"
            archive.writestr(f"{folder}/image.nii", nifti_bytes(hu))
            for annotator in annotators:
                label = np.roll(label, 2, axis=0)
                labels[case_id, annotator] = label
                archive.writestr(f"{folder}/label_annot_{annotator}.nii", nifti_bytes(label))
    return root / "MBH_Train_2025_voxel-label.zip", labels


def test_mbhseg25_majority_is_the_smallest_of_the_most_given(mbhseg25):
    path, labels = mbhseg25
    found, volumes = read_all(path)
    assert found.layout == "mbhseg25"
    for case_id in ("ID_0_ID_0", "ID_1_ID_1"):
        given = [in_program(label) for (name, _), label in labels.items() if name == case_id]
        np.testing.assert_array_equal(volumes[case_id].label, stats.mode(given)[0])


def test_majority_of_random_labels():
    labels = list(np.random.default_rng(0).integers(0, 6, (4, 10, 20), dtype=np.uint8))
    np.testing.assert_array_equal(majority(labels), stats.mode(labels)[0])


def test_mbhseg25_annotators(mbhseg25):
    path, labels = mbhseg25
    found, volumes = read_all(path, options=sources.Options(annotator="all"))
    assert len(volumes) == 5
    assert {case.patient_id for case in found.cases} == {"ID_0", "ID_1"}
    for (case_id, annotator), label in labels.items():
        volume = volumes[f"{case_id}_annot_{annotator}"]
        np.testing.assert_array_equal(volume.label, in_program(label))
    found, volumes = read_all(path, options=sources.Options(annotator="2"))
    assert list(volumes) == ["ID_0_ID_0"]
    note = "1 cases are left out, which annotator 2 has not labelled, such as ID_1_ID_1"
    assert found.notes[0] == note
    np.testing.assert_array_equal(volumes["ID_0_ID_0"].label, in_program(labels["ID_0_ID_0", 2]))
    with pytest.raises(UserError, match="--annotator 3: give majority, all or one of 1, 2, 5"):
        read_all(path, options=sources.Options(annotator="3"))


def test_layout_is_forced_where_there_are_several(tmp_path):
    write_tiny_source(tmp_path / "a", num_volumes=1)
    shutil.copytree(tmp_path / "a" / "images", tmp_path / "b" / "nobleed")
    with pytest.raises(UserError, match=r"several data sets \(bhsd in a, unlabelled in b\)"):
        sources.open_source(tmp_path)
    assert [len(read_all(tmp_path, layout=name)[1]) for name in ("bhsd", "unlabelled")] == [1, 1]
    with pytest.raises(UserError, match="no data set found: give imagesTr/, labelsTr/ and"):
        sources.open_source(tmp_path, "nnunet")


@pytest.mark.skipif(not (SAMPLE / "png").exists(), reason="the real sample is not available")
def test_pictures_of_the_real_sample_equal_its_volumes():
    _, grey_scans = read_all(SAMPLE / "png", options=sources.Options(flip_rows=True))
    _, volumes = read_all(SAMPLE / "label_sample.zip")
    assert len(grey_scans) == len(volumes) == 25
    for volume in volumes.values():
        number = int(volume.patient_id.removeprefix("ID_a"), 16)
        picture = grey_scans[f"volume_{number:03d}"]
        np.testing.assert_array_equal(picture.hu, volume.hu)
        np.testing.assert_array_equal(picture.label, volume.label)
