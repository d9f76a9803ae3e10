import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from tiny_ct import nifti_bytes, tiny_volume, write_case

from data_prep import build_tfrecords
from mbh_jax.data import order, pipeline
from mbh_jax.data.index import SPLIT_NAMES, SliceIndex
from mbh_jax.errors import UserError


@pytest.fixture(scope="module")
def index(tiny_dataset_dir):
    return SliceIndex.load(tiny_dataset_dir)


@pytest.fixture(scope="module")
def slices(tiny_dataset_dir):
    """All records in stored order as tensorflow-datasets reads them."""
    splits = [tfds.load("head_ct", data_dir=tiny_dataset_dir, split=name) for name in SPLIT_NAMES]
    return [record for split in splits for record in tfds.as_numpy(split)]


def join(batches):
    batches = list(batches)
    return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}


def test_batches_hold_what_the_records_hold(index, slices):
    examples = index.examples("train")
    batches = list(pipeline.batches(index, examples[::-1], global_batch=8))
    shapes = {key: (value.shape, value.dtype.name) for key, value in batches[0].items()}
    assert shapes == {
        "image": ((8, 64, 64, 1), "int16"),
        "label": ((8, 64, 64), "uint8"),
        "weight": ((8,), "float32"),
        "example": ((8,), "int32"),
        "volume": ((8,), "int32"),
        "slice_index": ((8,), "int32"),
    }
    joined = join(batches)
    for row, example in enumerate(joined["example"]):
        if example >= 0:
            record = slices[example]
            np.testing.assert_array_equal(joined["image"][row, ..., 0], record["image"])
            np.testing.assert_array_equal(joined["label"][row], record["label"])
            assert joined["slice_index"][row] == record["slice_index"]
            volume = index.volumes[joined["volume"][row]]
            assert volume.volume_id == record["volume_id"].decode()


@pytest.mark.parametrize("num_hosts", [1, 2, 4])
@pytest.mark.parametrize("start_batch", [0, 2, 4])
def test_hosts_share_the_batches_of_an_order_from_any_batch_on(index, num_hosts, start_batch):
    examples = index.examples("train")
    global_batch = 8
    expected = examples[np.random.default_rng([5, 7]).permutation(len(examples))]
    hosts = [
        list(
            pipeline.batches(
                index,
                expected,
                global_batch=global_batch,
                start_batch=start_batch,
                host=host,
                num_hosts=num_hosts,
            )
        )
        for host in range(num_hosts)
    ]
    num_batches = order.num_batches(len(examples), global_batch)
    assert {len(batches) for batches in hosts} == {max(num_batches - start_batch, 0)}
    for number, parts in enumerate(zip(*hosts, strict=True), start=start_batch):
        batch = join(parts)
        part = expected[number * global_batch : (number + 1) * global_batch]
        np.testing.assert_array_equal(batch["example"][: len(part)], part)
        assert (batch["example"][len(part) :] == -1).all()
        np.testing.assert_array_equal(batch["weight"], np.arange(global_batch) < len(part))
        assert not batch["image"][len(part) :].any()
        assert len(batch["image"]) == global_batch


@pytest.mark.parametrize("num_hosts", [1, 2, 8])
def test_evaluation_sees_every_example_once(index, num_hosts):
    examples = index.examples("test")
    assert len(examples) % 8
    hosts = [
        list(pipeline.batches(index, examples, global_batch=8, host=host, num_hosts=num_hosts))
        for host in range(num_hosts)
    ]
    assert len({len(batches) for batches in hosts}) == 1
    joined = [join(parts) for parts in zip(*hosts, strict=True)]
    seen = np.concatenate([batch["example"][batch["weight"] > 0] for batch in joined])
    np.testing.assert_array_equal(seen, examples)
    for batch in joined:
        padding = batch["weight"] == 0
        for key in ("example", "volume", "slice_index"):
            assert (batch[key][padding] == -1).all()


@pytest.mark.parametrize(("num_examples", "batch", "steps"), [(1, 8, 1), (8, 8, 1), (9, 8, 2)])
def test_num_batches(num_examples, batch, steps):
    assert order.num_batches(num_examples, batch) == steps


def test_hosts_must_divide_the_batch(index):
    with pytest.raises(ValueError, match="batch 8 over 3 hosts"):
        pipeline.batches(index, index.examples("test"), global_batch=8, num_hosts=3)


def test_resizing_equals_jax(index, slices):
    examples = index.examples("validation")
    batch = join(pipeline.batches(index, examples, global_batch=4, resize_to=(32, 48)))
    for row, example in enumerate(batch["example"][: len(examples)]):
        record = slices[example]
        image = jax.image.resize(record["image"].astype(np.float32), (32, 48), "linear")
        np.testing.assert_allclose(batch["image"][row, ..., 0], image, atol=0.51)
        label = jax.image.resize(record["label"], (32, 48), "nearest")
        np.testing.assert_array_equal(batch["label"][row], label)


def test_slices_of_several_sizes_need_resizing(make_source, tmp_path):
    source = make_source(num_volumes=4)
    hu, label = tiny_volume(9, 5, size=96)
    write_case(source, "ID_00000009_ID_0000000009", nifti_bytes(hu), nifti_bytes(label))
    build_tfrecords.build(source, tmp_path / "output")
    index = SliceIndex.load(tmp_path / "output")
    everything = np.arange(len(index), dtype=np.int32)
    with pytest.raises(UserError, match=r"several sizes \(64x64, 96x96\)"):
        pipeline.batches(index, everything, global_batch=4)
    batch = join(pipeline.batches(index, everything, global_batch=4, resize_to=(64, 64)))
    assert batch["image"].shape[1:] == (64, 64, 1)
    assert batch["weight"].sum() == len(index)


@pytest.mark.parametrize("place", [0.0, 0.3, 0.5, 0.8])
def test_a_damaged_record_is_named(tiny_dataset_dir, tmp_path, place):
    index = SliceIndex.load(shutil.copytree(tiny_dataset_dir, tmp_path / "copy"))
    example = int(index.examples("train")[5])
    path = index.paths[index.file[example]]
    length = int(index.length[example])
    start = int(index.offset[example]) + int(place * length)
    with Path(path).open("r+b") as stream:
        stream.seek(start)
        stream.write(b"\xff" * 16)
    message = rf"{path}: damaged record of example {example} \({index.describe(example)}\)"
    with pytest.raises(UserError, match=message) as caught:
        list(pipeline.batches(index, index.examples("train"), global_batch=4))
    assert "\n" not in str(caught.value)
    validation = index.examples("validation")
    assert list(pipeline.batches(index, validation, global_batch=4))


def test_accelerators_are_hidden():
    import tensorflow as tf

    pipeline.hide_accelerators_from_tensorflow()
    assert tf.config.get_visible_devices("GPU") == []
    assert tf.config.get_visible_devices("TPU") == []
