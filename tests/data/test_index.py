import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_prep import build_tfrecords
from mbh_jax.data import pipeline
from mbh_jax.data.index import SPLIT_NAMES, SliceIndex, resolve_dataset_dir
from mbh_jax.data.schema import VolumeInfo, fingerprint
from mbh_jax.errors import UserError


@pytest.fixture(scope="module")
def index(tiny_dataset_dir):
    return SliceIndex.load(tiny_dataset_dir)


@pytest.fixture
def dataset_copy(tiny_dataset_dir, tmp_path):
    return shutil.copytree(tiny_dataset_dir, tmp_path / "copy") / "head_ct" / "1.0.0"


def test_opens_and_locates_every_record_as_tensorflow_reads_it(index):
    import tensorflow as tf

    payloads = [
        record
        for path in index.paths
        for record in tf.data.TFRecordDataset(path).as_numpy_iterator()
    ]
    assert len(payloads) == len(index) == sum(volume.num_slices for volume in index.volumes)
    for example, payload in enumerate(payloads):
        with Path(index.paths[index.file[example]]).open("rb") as stream:
            stream.seek(index.offset[example])
            assert stream.read(index.length[example]) == payload
        record = tf.train.Example.FromString(payload).features.feature
        volume = index.volumes[index.volume[example]]
        assert record["volume_id"].bytes_list.value[0].decode() == volume.volume_id
        assert record["slice_index"].int64_list.value[0] == index.slice_index[example]
        assert [*record["pixels_per_class"].int64_list.value] == [*index.pixels_per_class[example]]


@pytest.mark.parametrize("name", ["out[1]", "[!a]", "a*", "a?", "a\\b", "a b"])
def test_no_character_of_a_path_is_a_pattern(tiny_dataset_dir, tmp_path, name):
    shutil.copytree(tiny_dataset_dir, tmp_path / "abc")
    with pytest.raises(UserError, match="no dataset there"):
        SliceIndex.load(tmp_path / name)
    shutil.copytree(tiny_dataset_dir, tmp_path / name)
    index = SliceIndex.load(tmp_path / name)
    assert Path(index.directory) == tmp_path / name / "head_ct" / "1.0.0"
    assert all(Path(path).is_file() for path in index.paths)


def test_volumes_are_contiguous_and_slices_ascend(index):
    assert (np.diff(index.volume) >= 0).all()
    for number, volume in enumerate(index.volumes):
        in_volume = index.volume == number
        np.testing.assert_array_equal(index.slice_index[in_volume], np.arange(volume.num_slices))
        assert {SPLIT_NAMES[split] for split in index.split[in_volume]} == {volume.split}
        assert volume.patient_id == volume.volume_id[:11]
        assert volume.stored_axcodes == "LAS"
        np.testing.assert_allclose(volume.spacing_mm, [0.5, 0.5, 5.0], rtol=1e-6)


def test_examples_of_a_split(index):
    everything = np.concatenate([index.examples(split) for split in SPLIT_NAMES])
    np.testing.assert_array_equal(np.sort(everything), np.arange(len(index)))
    for split in SPLIT_NAMES:
        blood = index.examples(split, "blood")
        assert blood.dtype == np.int32
        assert set(blood) < set(index.examples(split))
        # The tiny volumes have blood in all slices but the first and last.
        volumes = [volume for volume in index.volumes if volume.split == split]
        assert len(blood) == sum(volume.num_slices - 2 for volume in volumes)
        assert (index.pixels_per_class[blood, 1:] > 0).all()
    assert index.in_plane_shapes() == {(64, 64)}
    assert (index.pixels_per_class.sum(axis=1) == 64 * 64).all()


def test_describe(index):
    example = int(np.flatnonzero(index.volume == 2)[3])
    assert index.describe(example) == f"{index.volumes[2].volume_id} slice 3"


def test_unknown_split_and_split_without_blood(index, dataset_copy):
    with pytest.raises(UserError, match="split 'dev': give one of train, validation, test"):
        index.examples("dev")
    metadata = json.loads((dataset_copy / "metadata.json").read_text())
    for volume in metadata["volumes"]:
        volume["pixels_per_class"] = [[4096, 0, 0, 0, 0, 0]] * volume["shape"][0]
    (dataset_copy / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(UserError, match="no slices with blood in split train"):
        SliceIndex.load(dataset_copy).examples("train", "blood")


def test_fingerprint_is_of_the_pixels_and_splits(index, tiny_dataset_dir):
    metadata = json.loads((resolve_dataset_dir(tiny_dataset_dir) / "metadata.json").read_text())
    volumes = metadata["volumes"]
    assert [VolumeInfo.from_row(row).to_row() for row in volumes] == volumes
    assert fingerprint(volumes) == index.fingerprint
    assert len(index.fingerprint) == hashlib.sha256().digest_size * 2
    for key, value in (("sha256", "0" * 64), ("split", "test"), ("affine", np.eye(4).tolist())):
        changed = [{**volumes[0], key: value}, *volumes[1:]]
        assert fingerprint(changed) != index.fingerprint
    assert fingerprint([{**volumes[0], "notes": ["other"]}, *volumes[1:]]) == index.fingerprint


def test_resolve_finds_the_one_dataset(tiny_dataset_dir, tmp_path):
    version = tiny_dataset_dir / "head_ct" / "1.0.0"
    for path in (version, version.parent, tiny_dataset_dir):
        assert str(resolve_dataset_dir(path)) == str(version)
    with pytest.raises(UserError, match="no dataset there: make one with python -m data_prep"):
        resolve_dataset_dir(tmp_path / "absent")
    unfinished = tmp_path / "head_ct" / "incomplete.ABCDEF_1.0.0"
    unfinished.mkdir(parents=True)
    (unfinished / "dataset_info.json").write_text("{}")
    with pytest.raises(UserError, match="no dataset there"):
        resolve_dataset_dir(tmp_path)
    for name in ("1.0.0", "2.0.0"):
        shutil.copytree(version, tmp_path / "head_ct" / name)
    with pytest.raises(UserError, match=r"several datasets .*: name one"):
        resolve_dataset_dir(tmp_path)


def test_damage_is_reported(dataset_copy):
    shard = dataset_copy / "head_ct-train.tfrecord-00000-of-00001"
    whole = shard.read_bytes()
    for content in (whole[:-1], whole[: len(whole) // 2], whole + b"\0\0\0", b""):
        shard.write_bytes(content)
        with pytest.raises(UserError, match=f"{shard.name}: damaged"):
            SliceIndex.load(dataset_copy)
    shard.unlink()
    with pytest.raises(UserError, match=f"{shard.name}: missing"):
        SliceIndex.load(dataset_copy)
    metadata = dataset_copy / "metadata.json"
    whole_text = metadata.read_text()
    for misspelt in ('"notes"', '"volumes"', '"train"', '"shape"'):
        metadata.write_text(whole_text.replace(misspelt, '"other"', 1))
        with pytest.raises(UserError, match=r"metadata\.json: damaged"):
            SliceIndex.load(dataset_copy)
    metadata.write_text(whole_text[:100])
    with pytest.raises(UserError, match=r"metadata\.json: damaged"):
        SliceIndex.load(dataset_copy)
    metadata.write_text(json.dumps({"format": 0}))
    with pytest.raises(UserError, match="written by another version"):
        SliceIndex.load(dataset_copy)
    metadata.unlink()
    with pytest.raises(UserError, match=r"metadata\.json: missing"):
        SliceIndex.load(dataset_copy)


def test_needs_no_tensorflow(tiny_dataset_dir):
    program = (
        "import sys; sys.modules['tensorflow'] = sys.modules['tensorflow_datasets'] = None\n"
        "import data_prep.splits, mbh_jax.imageio.nifti, mbh_jax.imageio.png\n"
        "from mbh_jax.data.index import SliceIndex\n"
        f"print(len(SliceIndex.load({str(tiny_dataset_dir)!r})))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert int(run.stdout) == len(SliceIndex.load(tiny_dataset_dir))


def test_training_slices_of_another_dataset_are_read_from_there(
    tiny_dataset_dir, make_source, tmp_path
):
    build_tfrecords.build(make_source(num_volumes=4), tmp_path / "other", split="patient")
    own, other = (SliceIndex.load(path) for path in (tiny_dataset_dir, tmp_path / "other"))
    joined = own.with_extra(other)
    assert len(joined) == len(own) + len(other)
    for split in ("validation", "test"):
        np.testing.assert_array_equal(joined.examples(split), own.examples(split))
    extra = joined.examples("train")[own.num_examples("train") :]
    np.testing.assert_array_equal(extra - len(own), other.examples("train"))
    assert joined.is_extra[extra].all()
    assert joined.fingerprints == {"dataset": own.fingerprint, "extra_dataset": other.fingerprint}
    (ours,) = pipeline.batches(joined, extra[-3:], global_batch=3)
    (theirs,) = pipeline.batches(other, extra[-3:] - len(own), global_batch=3)
    np.testing.assert_array_equal(ours["image"], theirs["image"])
    np.testing.assert_array_equal(ours["label"], theirs["label"])
    assert joined.describe(int(extra[-1])) == other.describe(int(extra[-1]) - len(own))
