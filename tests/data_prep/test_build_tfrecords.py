import errno
import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tiny_ct import nifti_bytes, tiny_volume, write_case, write_tiny_source

from data_prep import build_tfrecords, builder, sources, splits
from mbh_jax.data import pipeline
from mbh_jax.data.index import SPLIT_NAMES, SliceIndex
from mbh_jax.errors import UserError
from mbh_jax.labels import LABELS

SAMPLE = Path(__file__).parents[2].parent / "shared" / "bhsd_sample"
needs_sample = pytest.mark.skipif(
    not (SAMPLE / "label_sample.zip").exists(), reason="the real sample is not available"
)


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_writes_a_tensorflow_dataset(tiny_dataset_dir):
    for reader in (
        tfds.builder("head_ct", data_dir=tiny_dataset_dir),
        tfds.builder_from_directory(tiny_dataset_dir / "head_ct" / "1.0.0"),
    ):
        assert tuple(reader.info.splits) == SPLIT_NAMES
        records = list(tfds.as_numpy(reader.as_dataset(split="train")))
        assert len(records) == reader.info.splits["train"].num_examples
        place = [(record["volume_id"], int(record["slice_index"])) for record in records]
        assert place == sorted(place)
        assert records[0]["image"].dtype == np.int16
        assert records[0]["label"].dtype == np.uint8
    assert sorted(path.name for path in tiny_dataset_dir.rglob("*") if path.is_dir()) == [
        "1.0.0",
        "head_ct",
    ]


def test_command_says_what_it_wrote(tiny_source_dir, tmp_path, capsys):
    arguments = ["--source", str(tiny_source_dir), "--output", str(tmp_path / "new" / "output")]
    build_tfrecords.main([*arguments, "--seed", "3", "--split", "patient:0.5,0.25,0.25"])
    printed = capsys.readouterr().out
    assert "split: patient:0.5,0.25,0.25, seed 3" in printed
    assert f"written to {tmp_path}/new/output/head_ct/1.0.0" in printed
    index = SliceIndex.load(tmp_path / "new" / "output")
    assert index.split_method == {
        "method": "patient",
        "seed": 3,
        "fractions": [0.5, 0.25, 0.25],
    }
    rows = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line.strip()}
    for split in SPLIT_NAMES:
        volumes = [volume for volume in index.volumes if volume.split == split]
        slices, blood = len(index.examples(split)), len(index.examples(split, "blood"))
        counts = [len({volume.patient_id for volume in volumes}), len(volumes), slices, blood]
        assert rows[split] == [*map(str, counts), *[f"{blood}/{len(volumes)}"] * 5]


def test_same_input_same_bytes_in_another_process_and_place(tiny_source_dir, tmp_path):
    build_tfrecords.build(tiny_source_dir, tmp_path / "here")
    copy = shutil.copytree(tiny_source_dir, tmp_path / "elsewhere" / tiny_source_dir.name)
    for file in copy.rglob("*.gz"):
        os.utime(file, (0, 0))
    command = "from data_prep.build_tfrecords import main; main()"
    arguments = ["--source", str(copy), "--output", str(tmp_path / "there")]
    subprocess.run([sys.executable, "-c", command, *arguments], check=True, capture_output=True)
    assert files_of(tmp_path / "here") == files_of(tmp_path / "there")
    for content in files_of(tmp_path / "here").values():
        assert str(tmp_path).encode() not in content


def test_an_existing_dataset_stays_until_the_new_one_is_whole(make_source, tmp_path):
    output = tmp_path / "output"
    build_tfrecords.build(make_source(num_volumes=4), output)
    (output / "notes.txt").write_text("not of the dataset")
    before = files_of(output)
    with pytest.raises(UserError, match="head_ct: exists: give --overwrite"):
        build_tfrecords.build(tmp_path / "source", output)

    damaged = shutil.copytree(tmp_path / "source", tmp_path / "damaged")
    last = sorted((damaged / "images").iterdir())[-1]
    last.write_bytes(last.read_bytes()[:-30])
    with pytest.raises(UserError, match=f"{last}: truncated"):
        build_tfrecords.build(damaged, output, overwrite=True)
    assert files_of(output) == before

    more = write_tiny_source(tmp_path / "more", num_volumes=5)
    build_tfrecords.build(more, output, overwrite=True)
    assert len(SliceIndex.load(output).volumes) == 5
    assert (output / "notes.txt").exists()
    assert sorted(path.name for path in output.iterdir()) == ["head_ct", "notes.txt"]


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), OSError(errno.EIO, "I/O error")])
def test_the_old_dataset_is_put_back_if_the_new_one_cannot_take_its_place(
    make_source, tmp_path, monkeypatch, raised
):
    output = tmp_path / "output"
    build_tfrecords.build(make_source(num_volumes=4), output)
    before = files_of(output)
    rename = Path.rename

    def break_off(path, target):
        if "new" in path.parts:
            raise raised
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", break_off)
    with pytest.raises(type(raised)):
        build_tfrecords.build(tmp_path / "source", output, seed=1, overwrite=True)
    assert files_of(output) == before


def test_many_files_keep_the_order(tiny_source_dir, tiny_dataset_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "SHARD_SLICES", 10)  # Volumes have 5 or 6 slices.
    build_tfrecords.build(tiny_source_dir, tmp_path)
    one, more = SliceIndex.load(tiny_dataset_dir), SliceIndex.load(tmp_path)
    assert (len(one.files), len(more.files)) == (3, 5)
    assert max(np.bincount(more.file)) <= 12
    assert one.fingerprint == more.fingerprint
    everything = np.arange(len(one), dtype=np.int32)
    for first, second in zip(
        pipeline.batches(one, everything, global_batch=8),
        pipeline.batches(more, everything, global_batch=8),
        strict=True,
    ):
        for key, value in first.items():
            np.testing.assert_array_equal(value, second[key])


def test_bhsd_names_take_the_official_split(tmp_path, capsys):
    sides = {side: sorted(ids)[:5] for side, ids in splits.official_sides().items()}
    hu, label = tiny_volume(0, 5)
    for volume_id in [*sides["train"], *sides["test"]]:
        write_case(tmp_path / "source", volume_id, nifti_bytes(hu), nifti_bytes(label))
    build_tfrecords.build(tmp_path / "source", tmp_path / "output")
    assert "split: official (by default), seed 0" in capsys.readouterr().out
    for volume in SliceIndex.load(tmp_path / "output").volumes:
        assert (volume.split == "test") == (volume.volume_id in sides["test"])


def test_split_by_slice_keeps_each_slices_place(
    tiny_source_dir, tiny_dataset_dir, tmp_path, capsys
):
    build_tfrecords.build(tiny_source_dir, tmp_path, split="slice")
    assert "neighbouring slices of one bleed are trained on and tested" in capsys.readouterr().out
    whole, cut = SliceIndex.load(tiny_dataset_dir), SliceIndex.load(tmp_path)
    assert len(whole) == len(cut) == len(cut.volumes)
    number_of = {volume.volume_id: number for number, volume in enumerate(whole.volumes)}
    everything = np.arange(len(whole), dtype=np.int32)
    (all_whole,) = pipeline.batches(whole, everything, global_batch=len(whole))
    (all_cut,) = pipeline.batches(cut, everything, global_batch=len(cut))
    for row, volume in enumerate(cut.volumes):
        volume_id, slice_index = volume.volume_id.split("_slice_")
        number = number_of[volume_id]
        other = np.flatnonzero(whole.volume == number)[int(slice_index)]
        np.testing.assert_array_equal(all_cut["image"][row], all_whole["image"][other])
        np.testing.assert_array_equal(all_cut["label"][row], all_whole["label"][other])
        np.testing.assert_allclose(
            volume.affine @ [3, 4, 0, 1],
            whole.volumes[number].affine @ [3, 4, int(slice_index), 1],
        )
        assert volume.patient_id == whole.volumes[number].patient_id


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(errno.ENOSPC, "No space left on device"), UserError),
    ],
)
def test_an_interrupted_run_leaves_nothing(make_source, tmp_path, monkeypatch, raised, seen):
    read = sources.read_case

    def break_off(case):
        if case.volume_id.endswith("3"):
            raise raised
        return read(case)

    monkeypatch.setattr(sources, "read_case", break_off)
    with pytest.raises(seen, match="No space left" if seen is UserError else None):
        build_tfrecords.build(make_source(num_volumes=4), tmp_path / "output")
    assert not (tmp_path / "output").exists()


def test_what_a_killed_run_left_is_removed(make_source, tmp_path):
    left = tmp_path / "output" / ".incomplete-abc" / "new" / "head_ct"
    left.mkdir(parents=True)
    (left / "half.tfrecord").write_bytes(b"half")
    build_tfrecords.build(make_source(num_volumes=4), tmp_path / "output")
    assert [path.name for path in (tmp_path / "output").iterdir()] == ["head_ct"]


def spoil_shape(source):
    hu, label = tiny_volume(0, 5)
    write_case(source, "ID_00000009_ID_9", nifti_bytes(hu), nifti_bytes(label[:, :, :4]))


def spoil_label(source):
    hu, label = tiny_volume(0, 5)
    write_case(source, "ID_00000009_ID_9", nifti_bytes(hu), nifti_bytes(label + np.uint16(1)))


def spoil_dimensions(source):
    four = np.zeros((8, 8, 3, 2), np.int16)
    write_case(source, "ID_00000009_ID_9", nifti_bytes(four), nifti_bytes(four))


def spoil_format(source):
    (source / "images" / "ID_00000009_ID_9.nii").write_bytes(b"no NIfTI" * 99)
    (source / "ground truths" / "ID_00000009_ID_9.nii").write_bytes(b"no NIfTI" * 99)


def spoil_partner(source):
    (source / "images" / "ID_00000009_ID_9.nii").write_bytes(b"")


def spoil_voxels(source):
    hu, label = tiny_volume(0, 5)
    image = nifti_bytes(np.where(hu > 500, np.nan, hu).astype(np.float32))
    write_case(source, "ID_00000009_ID_9", image, nifti_bytes(label))


def spoil_compression(source):
    hu, label = tiny_volume(0, 5)
    write_case(source, "ID_00000009_ID_9", nifti_bytes(hu), nifti_bytes(label))
    path = source / "images" / "ID_00000009_ID_9.nii.gz"
    path.write_bytes(gzip.compress(nifti_bytes(hu))[:-9])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_shape, "label of shape"),
        (spoil_label, "label value 6"),
        (spoil_dimensions, "give one 3-D volume"),
        (spoil_format, "not a NIfTI file"),
        (spoil_partner, "has no partner in 'ground truths/'"),
        (spoil_voxels, "NaN or infinite voxels"),
        (spoil_compression, "truncated"),
    ],
)
def test_a_bad_case_is_named_and_nothing_is_left(make_source, tmp_path, capsys, spoil, message):
    source = make_source(num_volumes=4)
    spoil(source)
    output = tmp_path / "deep" / "output"
    with pytest.raises(SystemExit) as exit_:
        build_tfrecords.main(["--source", str(source), "--output", str(output)])
    assert exit_.value.code == 1
    printed = capsys.readouterr().err.splitlines()[-1]
    assert printed.startswith("error: ")
    assert message in printed
    assert "ID_00000009_ID_9" in printed
    assert not (tmp_path / "deep").exists()


def test_output_that_cannot_be_written(make_source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/output: cannot be written \(Not a directory\)"):
        build_tfrecords.build(make_source(num_volumes=4), tmp_path / "file" / "output")


def test_differing_affines_are_reported_and_kept(make_source, tmp_path, capsys):
    source = make_source(num_volumes=4)
    hu, label = tiny_volume(5, 5)
    write_case(source, "moved", nifti_bytes(hu), nifti_bytes(label, np.diag([-1.0, 1, 5, 1])))
    build_tfrecords.build(source, tmp_path / "output")
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("moved: ")]
    (volume,) = [
        volume
        for volume in SliceIndex.load(tmp_path / "output").volumes
        if volume.volume_id == "moved"
    ]
    assert printed == [f"moved: {note}" for note in volume.notes]
    np.testing.assert_allclose(volume.spacing_mm, [0.5, 0.5, 5.0], rtol=1e-6)


@pytest.fixture(scope="module")
def sample_index(tmp_path_factory):
    output = tmp_path_factory.mktemp("sample")
    build_tfrecords.build(SAMPLE / "label_sample.zip", output)
    return SliceIndex.load(output)


@needs_sample
def test_real_sample_converts_whole(sample_index):
    assert len(sample_index.volumes) == 25
    assert len(sample_index) == 36
    slices_with = (sample_index.pixels_per_class > 0).sum(axis=0)
    assert list(slices_with[1:]) == [4, 11, 15, 15, 20]
    metadata = json.loads((sample_index.directory / "metadata.json").read_text())
    assert metadata["source"] == {"name": "label_sample.zip", "layout": "bhsd"}
    patients = [{v.patient_id for v in sample_index.volumes if v.split == s} for s in SPLIT_NAMES]
    assert sum(map(len, patients)) == 25


@needs_sample
def test_real_sample_equals_its_pictures(sample_index):
    """PNG names: 100000 + 1000 * (number in the made-up volume name) + slice, upside down."""
    pictures: dict[int, list[Path]] = {}
    for path in sorted((SAMPLE / "png" / "images").iterdir()):
        pictures.setdefault(int(path.stem) // 1000 - 100, []).append(path)
    everything = np.arange(len(sample_index), dtype=np.int32)
    palette = {label.rgb: value for value, label in enumerate(LABELS)}
    for batch in pipeline.batches(sample_index, everything, global_batch=1):
        volume = sample_index.volumes[batch["volume"][0]]
        number = int(volume.patient_id.removeprefix("ID_a"), 16)
        image_path = pictures[number][batch["slice_index"][0]]
        grey = np.asarray(Image.open(image_path).convert("L"))[::-1]
        np.testing.assert_array_equal(batch["image"][0, ..., 0], grey)
        mask = np.asarray(Image.open(SAMPLE / "png" / "masks" / image_path.name).convert("RGB"))
        label = np.zeros(mask.shape[:2], np.uint8)
        for rgb, value in palette.items():
            label[(mask[::-1] == rgb).all(axis=-1)] = value
        np.testing.assert_array_equal(batch["label"][0], label)


@needs_sample
def test_real_sample_round_trip(sample_index):
    """Geometry of the records equals what nibabel makes of the source's headers."""
    cases = {c.volume_id: c for c in sources.open_source(SAMPLE / "label_sample.zip").cases}
    for volume in sample_index.volumes:
        image = cases[volume.volume_id].image
        assert isinstance(image, sources.SourceFile)
        with image.open() as stream:
            header = nibabel.Nifti1Image.from_bytes(gzip.decompress(stream.read())).header
        assert volume.stored_axcodes == "LAS"
        rows = volume.shape[1]
        expected = header.get_qform() @ [3, rows - 1 - 5, volume.num_slices - 1, 1]
        np.testing.assert_allclose(volume.affine @ [3, 5, volume.num_slices - 1, 1], expected)
