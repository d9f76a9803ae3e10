"""The packed cache: what the records hold, whole or absent, and refused where it is not theirs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tiny_ct import nifti_bytes, tiny_volume, write_case

from data_prep import build_tfrecords, pack_dataset, verify
from mbh_jax.data import pipeline
from mbh_jax.data.index import SPLIT_NAMES, SliceIndex
from mbh_jax.data.packed import PackedSlices, packed_dir
from mbh_jax.errors import UserError


@pytest.fixture(scope="module")
def packed_dataset(tiny_dataset_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed copy of the tiny dataset; do not change it."""
    copy = shutil.copytree(tiny_dataset_dir, tmp_path_factory.mktemp("packed") / "dataset")
    pack_dataset.main([f"--data_dir={copy}"])
    return copy


@pytest.fixture
def copy(packed_dataset: Path, tmp_path: Path) -> Path:
    """One to change."""
    return shutil.copytree(packed_dataset, tmp_path / "dataset")


def test_the_cache_holds_what_tensorflow_datasets_reads(packed_dataset: Path) -> None:
    splits = [tfds.load("head_ct", data_dir=packed_dataset, split=name) for name in SPLIT_NAMES]
    records = [record for split in splits for record in tfds.as_numpy(split)]
    folder = packed_dir(SliceIndex.load(packed_dataset))
    for kind, dtype in (("image", np.int16), ("label", np.uint8)):
        array = np.load(folder / f"{kind}_64x64.npy", mmap_mode="r")
        assert array.dtype == dtype
        np.testing.assert_array_equal(array, [record[kind] for record in records])
    names = {path.name for path in folder.iterdir()}
    assert names == {"image_64x64.npy", "label_64x64.npy", "packed.json"}
    assert not [path for path in folder.parent.iterdir() if path.name.startswith(".")]


def test_the_dataset_stays_fit_for_training(packed_dataset: Path) -> None:
    findings = verify.verify(SliceIndex.load(packed_dataset))
    assert not [finding for finding in findings if finding.fatal]


@pytest.mark.parametrize(("host", "num_hosts"), [(0, 1), (0, 4), (3, 4)])
def test_evaluation_batches_are_those_of_the_records(
    packed_dataset: Path, host: int, num_hosts: int
) -> None:
    index = SliceIndex.load(packed_dataset)
    examples = index.examples("test")[1:]
    which = {"global_batch": 4, "host": host, "num_hosts": num_hosts}
    ours = list(PackedSlices(index).eval_batches(examples, **which))
    theirs = list(pipeline.batches(index, examples, **which))
    assert len(ours) == len(theirs) > 1
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for name, values in one.items():
            assert values.dtype == other[name].dtype
            np.testing.assert_array_equal(values, other[name])


def test_slices_of_every_size_are_packed(tmp_path: Path, make_source) -> None:
    source = make_source(num_volumes=4)
    hu, label = tiny_volume(9, 5, size=96)
    write_case(source, "ID_00000009_ID_0000000009", nifti_bytes(hu), nifti_bytes(label))
    build_tfrecords.build(source, tmp_path / "output")
    index = SliceIndex.load(tmp_path / "output")
    pack_dataset.pack(index)
    packed = PackedSlices(index)
    everything = np.arange(len(index), dtype=np.int32)
    parts = index.by_in_plane_shape(everything)
    assert len(parts) == 2
    for part in parts:
        chosen = part[::2]
        (batch,) = pipeline.batches(index, chosen, global_batch=len(chosen))
        np.testing.assert_array_equal(packed.read("image", chosen), batch["image"][..., 0])
        np.testing.assert_array_equal(packed.read("label", chosen), batch["label"])


def test_a_cache_is_left_alone_while_it_is_up_to_date(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = packed_dir(SliceIndex.load(copy)) / "image_64x64.npy"
    before = image.stat().st_mtime_ns
    pack_dataset.main([f"--data_dir={copy}"])
    assert "is up to date" in capsys.readouterr().out
    assert image.stat().st_mtime_ns == before


def test_a_cache_of_other_data_is_refused_and_made_again(copy: Path) -> None:
    index = SliceIndex.load(copy)
    info = packed_dir(index) / "packed.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"fingerprint": "another"}))
    message = r"data\.resident: the cache in .*packed is of other data: make it again with "
    with pytest.raises(UserError, match=message):
        PackedSlices(index)
    pack_dataset.main([f"--data_dir={copy}"])
    PackedSlices(index)


@pytest.mark.parametrize("damage", ["cut", "gone", "empty", "other"])
def test_a_damaged_cache_is_refused_and_made_again(copy: Path, damage: str) -> None:
    index = SliceIndex.load(copy)
    path = packed_dir(index) / "label_64x64.npy"
    if damage == "gone":
        path.unlink()
    elif damage == "other":
        np.save(path, np.zeros((3, 64, 64), np.uint8))
    else:
        path.write_bytes(path.read_bytes()[: -1 if damage == "cut" else 0])
    with pytest.raises(
        UserError, match=r"data\.resident: damaged cache in .*: make it again with "
    ):
        PackedSlices(index)
    pack_dataset.main([f"--data_dir={copy}"])
    PackedSlices(index)


def test_what_breaks_off_leaves_no_cache(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = SliceIndex.load(copy)
    shutil.rmtree(packed_dir(index))

    def broken_off(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pipeline, "batches", broken_off)
        pack_dataset.pack(index)
    assert not [path for path in copy.rglob("*") if "packed" in path.name]
    with pytest.raises(UserError, match=r"data\.resident: no packed cache in .*/packed: "):
        PackedSlices(index)


def test_what_is_not_of_a_cache_is_not_removed(copy: Path) -> None:
    index = SliceIndex.load(copy)
    (packed_dir(index) / "packed.json").unlink()
    notes = packed_dir(index) / "notes.txt"
    notes.write_text("mine")
    with pytest.raises(UserError, match=r"holds notes\.txt, which was not written by this program"):
        pack_dataset.pack(index)
    assert notes.read_text() == "mine"


def test_a_dataset_that_is_not_there_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (str(tmp_path), "gs://bucket/data"):
        with pytest.raises(SystemExit) as ended:
            pack_dataset.main([f"--data_dir={folder}"])
        assert ended.value.code == 1
        said = capsys.readouterr().err
        assert said.startswith("error: ") and len(said.splitlines()) == 1
