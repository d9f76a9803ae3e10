import json

import nibabel
import numpy as np
import pytest
from tiny_ct import nifti_bytes, tiny_volume, write_case, write_tiny_source

from data_prep import build_tfrecords, dataset, export_nnunet
from mbh_jax.data.index import SliceIndex
from mbh_jax.errors import UserError


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Tiny volumes, one of them stored in another orientation."""
    source = write_tiny_source(tmp_path_factory.mktemp("nnunet") / "source", num_volumes=6)
    hu, label = tiny_volume(50, 7)
    sagittal = np.array([[0.0, 0, 5, 1], [0.7, 0, 0, 2], [0, -0.6, 0, 3], [0, 0, 0, 1]])
    write_case(source, "sagittal", nifti_bytes(hu, sagittal), nifti_bytes(label, sagittal))
    return source


@pytest.fixture(scope="module")
def index(source, tmp_path_factory):
    output = tmp_path_factory.mktemp("dataset")
    build_tfrecords.build(source, output)
    return SliceIndex.load(output)


@pytest.fixture(scope="module")
def exported(index, tmp_path_factory):
    return export_nnunet.export(index, tmp_path_factory.mktemp("raw"), number=7, name="HeadCT")


def test_files_are_laid_out_as_nnunet_reads_them(index, exported):
    assert exported.name == "Dataset007_HeadCT"
    for volume in index.volumes:
        side = "Ts" if volume.split == "test" else "Tr"
        assert (exported / f"images{side}" / f"{volume.volume_id}_0000.nii.gz").is_file()
        assert (exported / f"labels{side}" / f"{volume.volume_id}.nii.gz").is_file()
    assert len(list(exported.rglob("*.nii.gz"))) == 2 * len(index.volumes)
    content = json.loads((exported / "dataset.json").read_text())
    assert content["channel_names"] == {"0": "CT"}
    assert content["labels"] == {
        "background": 0,
        "EDH": 1,
        "IPH": 2,
        "IVH": 3,
        "SAH": 4,
        "SDH": 5,
    }
    assert content["file_ending"] == ".nii.gz"
    assert content["numTraining"] == len(list((exported / "imagesTr").iterdir()))


def test_our_split_is_fold_0(index, exported):
    (fold,) = json.loads((exported / "splits_final.json").read_text())
    training = {path.name.removesuffix(".nii.gz") for path in (exported / "labelsTr").iterdir()}
    assert set(fold) == {"train", "val"}
    assert set(fold["train"]) | set(fold["val"]) == training
    split_of = {volume.volume_id: volume.split for volume in index.volumes}
    assert {split_of[name] for name in fold["train"]} == {"train"}
    assert {split_of[name] for name in fold["val"]} == {"validation"}


def test_voxels_and_geometry_are_the_sources(source, index, exported):
    for volume in index.volumes:
        side = "Ts" if volume.split == "test" else "Tr"
        for ours, theirs in (
            (f"images{side}/{volume.volume_id}_0000", f"images/{volume.volume_id}"),
            (f"labels{side}/{volume.volume_id}", f"ground truths/{volume.volume_id}"),
        ):
            written = nibabel.Nifti1Image.from_filename(exported / f"{ours}.nii.gz")
            original = nibabel.Nifti1Image.from_filename(source / f"{theirs}.nii.gz")
            np.testing.assert_array_equal(np.asarray(written.dataobj), np.asarray(original.dataobj))
            np.testing.assert_allclose(written.affine, original.affine, atol=1e-4)
    assert {volume.stored_axcodes for volume in index.volumes} == {"LAS", "AIR"}


def test_the_way_back_gives_the_same_dataset(index, exported, tmp_path):
    build_tfrecords.build(exported, tmp_path, split=str(exported / "split.json"))
    back = SliceIndex.load(tmp_path)
    number_of = {volume.volume_id: number for number, volume in enumerate(back.volumes)}
    assert len(number_of) == len(index.volumes)
    for number, labelled in dataset.read_volumes(index, "compared"):
        info = index.volumes[number]
        other = back.volumes[number_of[info.volume_id]]
        assert (info.split, info.patient_id) == (other.split, other.patient_id)
        assert info.stored_axcodes == other.stored_axcodes
        assert info.sha256 == other.sha256
        again = dataset.read_volume(back, number_of[info.volume_id])
        np.testing.assert_array_equal(again.label, labelled.label)
        np.testing.assert_array_equal(again.hu, labelled.hu)
        np.testing.assert_allclose(again.affine, labelled.affine, atol=1e-4)


def test_an_export_stays_until_the_new_one_is_whole(index, tmp_path, monkeypatch):
    folder = export_nnunet.export(index, tmp_path, number=1, name="a")
    with pytest.raises(UserError, match="Dataset001_a: exists: give --overwrite"):
        export_nnunet.export(index, tmp_path, number=1, name="a")

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(export_nnunet, "dataset_json", stop)
        export_nnunet.export(index, tmp_path, number=1, name="a", overwrite=True)
    assert list(tmp_path.iterdir()) == [folder]
    assert (folder / "dataset.json").exists()
    export_nnunet.export(index, tmp_path, number=1, name="a", overwrite=True)
    (folder / "my notes.txt").write_text("")
    with pytest.raises(UserError, match=r"holds my notes\.txt, which was not"):
        export_nnunet.export(index, tmp_path, number=1, name="a", overwrite=True)


@pytest.mark.parametrize(
    ("number", "name", "message"),
    [(0, "a", "--number 0: give 1 to 999"), (1, "../a", "--name '../a': give letters")],
)
def test_wrong_names_are_reported(index, tmp_path, number, name, message):
    with pytest.raises(UserError, match=message):
        export_nnunet.export(index, tmp_path, number=number, name=name)


def test_scans_without_labels_go_to_the_test_images(tmp_path, capsys):
    labelled = write_tiny_source(tmp_path / "labelled", num_volumes=6)
    folder = tmp_path / "unlabelled" / "nobleed"
    folder.mkdir(parents=True)
    for path in (labelled / "images").iterdir():
        path.rename(folder / path.name)
    output = tmp_path / "dataset"
    build_tfrecords.build(tmp_path / "unlabelled", output)
    export_nnunet.main(["--dataset", str(output), "--output", str(tmp_path / "raw")])
    assert "0 volumes for training and validation and 6 for test" in capsys.readouterr().out
    exported = tmp_path / "raw" / "Dataset501_HeadCT"
    assert len(list((exported / "imagesTs").iterdir())) == 6
    assert len(list(exported.rglob("*.nii.gz"))) == 6
    assert json.loads((exported / "splits_final.json").read_text()) == [{"train": [], "val": []}]
