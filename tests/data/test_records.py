import nibabel
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from data_prep import sources
from mbh_jax.data import records
from mbh_jax.data.compression import compress
from mbh_jax.data.index import SPLIT_NAMES, SliceIndex
from mbh_jax.data.schema import LabelledVolume
from mbh_jax.imageio.nifti import write_label, write_volume
from mbh_jax.imageio.volume import Volume


@pytest.fixture(scope="module")
def records_of(tiny_dataset_dir):
    """Decoded records by volume id, as tensorflow-datasets reads them."""
    volumes: dict[str, list] = {}
    for split in SPLIT_NAMES:
        for record in tfds.as_numpy(tfds.load("head_ct", data_dir=tiny_dataset_dir, split=split)):
            volumes.setdefault(record["volume_id"].decode(), []).append(record)
    return volumes


def test_volumes_come_back_voxel_for_voxel(records_of, tiny_source_dir, tmp_path):
    cases = sources.open_source(tiny_source_dir).cases
    assert {case.volume_id for case in cases} == records_of.keys()
    for case in cases:
        labelled = records.volume_of(reversed(records_of[case.volume_id]))
        assert labelled.patient_id == case.patient_id
        write_volume(tmp_path / "image.nii.gz", labelled.volume)
        write_label(tmp_path / "label.nii.gz", labelled.label, labelled.volume)
        for written, original in (("image", case.image), ("label", case.label)):
            again = nibabel.Nifti1Image.from_filename(tmp_path / f"{written}.nii.gz")
            assert isinstance(original, sources.SourceFile)
            source = nibabel.Nifti1Image.from_filename(original.path)
            np.testing.assert_array_equal(np.asarray(again.dataobj), np.asarray(source.dataobj))
            np.testing.assert_allclose(again.affine, source.affine, atol=1e-5)


def test_records_agree_with_the_index(records_of, tiny_dataset_dir):
    index = SliceIndex.load(tiny_dataset_dir)
    for volume in index.volumes:
        for record in records_of[volume.volume_id]:
            assert record["num_slices"] == volume.num_slices
            np.testing.assert_array_equal(record["affine"], volume.affine)
            np.testing.assert_array_equal(record["spacing_mm"], volume.spacing_mm)
            assert record["stored_axcodes"].decode() == volume.stored_axcodes
            counts = [(record["label"] == value).sum() for value in range(6)]
            np.testing.assert_array_equal(record["pixels_per_class"], counts)


@pytest.mark.parametrize("has_label", [True, False])
def test_records_are_what_tensorflow_datasets_makes_of_the_features(has_label):
    rng = np.random.default_rng(0)
    features = records.features()
    volume = Volume(
        rng.integers(-32768, 32767, (2, 5, 7), np.int16), np.diag([0.4, 0.5, 5, 1]), "RAS"
    )
    label = rng.integers(0, 6, (2, 5, 7), np.uint8) * has_label
    labelled = LabelledVolume.of(
        volume,
        label,
        volume_id="volume",
        patient_id="patient",
        has_label=has_label,
        case_label="" if has_label else "nobleed",
        spacing_known=not has_label,
    )
    for number, serialised in enumerate(records.examples_of(compress(labelled))):
        counts = [(label[number] == value).sum() * has_label for value in range(6)]
        record = {
            "image": volume.hu[number],
            "label": label[number],
            "volume_id": "volume",
            "patient_id": "patient",
            "slice_index": np.int32(number),
            "num_slices": np.int32(2),
            "spacing_mm": np.array([0.4, 0.5, 5.0]),
            "affine": volume.affine,
            "stored_axcodes": "RAS",
            "pixels_per_class": np.array(counts, np.int64),
            "has_label": has_label,
            "case_label": "" if has_label else "nobleed",
            "spacing_known": not has_label,
        }
        theirs = features.deserialize_example_np(features.serialize_example(record))
        ours = features.deserialize_example_np(serialised)
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert np.asarray(ours[name]).dtype == np.asarray(value).dtype
            np.testing.assert_array_equal(ours[name], value)
        image, mask = records.decode_pixels(tf.constant(serialised))
        np.testing.assert_array_equal(image, volume.hu[number])
        np.testing.assert_array_equal(mask, label[number])


def test_volumes_without_labels_come_back_so():
    volume = Volume(np.ones((2, 3, 4), np.int16), np.eye(4), "LPS")
    labelled = LabelledVolume.of(
        volume,
        np.zeros((2, 3, 4), np.uint8),
        volume_id="v",
        patient_id="p",
        has_label=False,
        case_label="anybleed",
        spacing_known=False,
    )
    features = records.features()
    decoded = map(features.deserialize_example_np, records.examples_of(compress(labelled)))
    again = records.volume_of(decoded)
    assert (again.has_label, again.case_label, again.spacing_known) == (False, "anybleed", False)
    assert not again.pixels_per_class.any()


def test_incomplete_and_mixed_volumes_are_refused(records_of):
    first, second = list(records_of.values())[:2]
    for wrong, message in (
        ([], "no records"),
        (first[1:], "are not those of"),
        ([*first, first[0]], "are not those of"),
        ([second[0], *first[1:]], "are not those of|several volumes"),
    ):
        with pytest.raises(ValueError, match=message):
            records.volume_of(wrong)
