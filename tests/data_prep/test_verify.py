"""Faults are planted into datasets; each has to be found, and nothing else."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from tiny_ct import nifti_bytes, tiny_volume, write_case

from data_prep import build_tfrecords, checks, cross_checks, verify
from mbh_jax.data.index import SliceIndex
from mbh_jax.data.schema import LabelledVolume
from mbh_jax.errors import UserError
from mbh_jax.imageio.volume import Volume

HEAD_AFFINE = np.diag([-1.4, 1.4, 11.0, 1.0])
"""Spacing that makes a head of 64 x 64 x 8 voxels."""


def found_in(dataset):
    return verify.verify(SliceIndex.load(dataset))


def of_check(findings, check):
    return [finding for finding in findings if finding.check == check]


def write_head(source, number, change=None, num_slices=8):
    """A case of a tiny head of plausible size; `change(hu, label)` plants a fault."""
    hu, label = tiny_volume(number, num_slices)
    if change:
        hu, label = change(hu, label)
    volume_id = f"ID_{number:08x}_ID_{number:010x}"
    write_case(source, volume_id, nifti_bytes(hu, HEAD_AFFINE), nifti_bytes(label, HEAD_AFFINE))
    return volume_id


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """Sources of three sound heads."""
    source = tmp_path_factory.mktemp("heads")
    for number in range(3):
        write_head(source, number)
    return source


@pytest.fixture(scope="module")
def sound_dataset(heads, tmp_path_factory):
    output = tmp_path_factory.mktemp("sound")
    build_tfrecords.build(heads, output)
    return output


@pytest.fixture
def dataset_copy(sound_dataset, tmp_path):
    shutil.copytree(sound_dataset, tmp_path / "copy")
    return tmp_path / "copy" / "head_ct" / "1.0.0"


@pytest.fixture
def convert_with(heads, tmp_path):
    """Converts the sound heads and one with a fault; gives the findings about the latter."""

    def convert(change, num_slices=8):
        source = shutil.copytree(heads, tmp_path / "source")
        volume_id = write_head(source, 9, change, num_slices)
        build_tfrecords.build(source, tmp_path / "output")
        findings = found_in(tmp_path / "output")
        assert {finding.case for finding in findings} <= {volume_id}
        return findings

    return convert


def change_metadata(dataset, change):
    path = dataset / "metadata.json"
    metadata = json.loads(path.read_text())
    change(metadata["volumes"])
    path.write_text(json.dumps(metadata))


def test_sound_heads_are_fit(sound_dataset, tmp_path, capsys):
    report = tmp_path / "deep" / "report.json"
    verify.main([str(sound_dataset), "--report", str(report)])
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "3 volumes, 24 slices: 0 errors, 0 warnings: fit for training"
    content = json.loads(report.read_text())
    assert content["fit"] is True
    assert content["fingerprint"] == SliceIndex.load(sound_dataset).fingerprint
    assert content["findings"] == []


def test_the_last_line_counts_what_was_found_by_kind(dataset_copy, capsys):
    change_metadata(dataset_copy, lambda volumes: [v.update(sha256="0") for v in volumes])
    with pytest.raises(SystemExit):
        verify.main([str(dataset_copy)])
    last = capsys.readouterr().out.splitlines()[-1]
    assert "3 errors (3 checksum), 0 warnings: not fit" in last


def test_a_flipped_bit_is_found_in_its_record(dataset_copy, capsys):
    index = SliceIndex.load(dataset_copy)
    example = int(index.examples("train")[2])
    shard = dataset_copy / index.files[index.file[example]]
    content = bytearray(shard.read_bytes())
    content[int(index.offset[example]) + int(index.length[example]) // 2] ^= 4
    shard.write_bytes(content)
    findings = of_check(found_in(dataset_copy), "checksum")
    volume_id = index.volumes[index.volume[example]].volume_id
    assert [(f.case, f.message, f.fatal) for f in findings] == [
        (volume_id, "slice 2: its record fails its checksum", True)
    ]
    with pytest.raises(SystemExit) as exit_:
        verify.main([str(dataset_copy)])
    assert exit_.value.code == 1
    out = capsys.readouterr().out
    assert f"{volume_id}\n  error: " in out
    assert "not fit for training" in out


def rewrite_records(dataset, change):
    """Writes the records of `train` anew with good checksums, as `change(records)` leaves them."""
    import tensorflow as tf

    (shard,) = dataset.glob("*-train.tfrecord-*")
    records = [
        tf.train.Example.FromString(payload)
        for payload in tf.data.TFRecordDataset(str(shard)).as_numpy_iterator()
    ]
    change(records)
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for record in records:
            writer.write(record.SerializeToString())


def test_records_that_cannot_be_decoded(dataset_copy):
    def spoil(records):
        records[1].features.feature["image/value"].bytes_list.value[0] = b"not zlib"

    rewrite_records(dataset_copy, spoil)
    (finding,) = of_check(found_in(dataset_copy), "decoding")
    assert finding.message == "slice 1: its record cannot be decoded"
    assert finding.fatal


def test_a_record_that_lacks_a_feature(dataset_copy):
    rewrite_records(dataset_copy, lambda records: records[3].features.feature.pop("num_slices"))
    (finding,) = found_in(dataset_copy)
    assert finding.message == "slice 3: its record cannot be decoded"


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("features.json", "int16", "int32"),
        ("features.json", "volume_id", "volume_ix"),
        ("features.json", "{", "["),
        ("dataset_info.json", "{SPLIT}", "{SPLAT}"),
    ],
)
def test_what_tensorflow_datasets_could_not_read(dataset_copy, name, old, new):
    path = dataset_copy / name
    path.write_text(path.read_text().replace(old, new, 1))
    (finding,) = found_in(dataset_copy)
    assert (finding.case, finding.check, finding.fatal) == ("dataset", "tensorflow-datasets", True)


def recount(volumes):
    volumes[0]["pixels_per_class"][2][1] += 1


def turn_a_little(volumes):
    volumes[0]["affine"][0][1] += 1e-9


def space_otherwise(volumes):
    volumes[0]["spacing_mm"][2] *= 2


@pytest.mark.parametrize(
    ("change", "check", "messages"),
    [
        (recount, "pixel counts", ["slice 2: metadata.json's are not those of its label"]),
        (
            turn_a_little,
            "spacing",
            [f"slice {k}: affine differs from metadata.json's" for k in range(8)],
        ),
        (space_otherwise, "spacing", ["metadata.json's spacing is not that of its affine"]),
    ],
)
def test_metadata_that_disagrees_with_the_records(dataset_copy, change, check, messages):
    change_metadata(dataset_copy, change)
    assert [(f.check, f.message, f.fatal) for f in found_in(dataset_copy)] == [
        (check, message, True) for message in messages
    ]


def feature(records, number, name):
    return records[number].features.feature[name]


def swap_slices(records):
    records[0], records[1] = records[1], records[0]


def rename_volume(records):
    feature(records, 2, "volume_id").bytes_list.value[0] = b"other"


def miscount_slices(records):
    feature(records, 2, "num_slices").int64_list.value[0] = 9


def miscount_pixels(records):
    feature(records, 2, "pixels_per_class").int64_list.value[1] += 1


def move_slice(records):
    (stored,) = feature(records, 2, "affine").bytes_list.value
    affine = np.frombuffer(stored).reshape(4, 4) + np.eye(4)
    feature(records, 2, "affine").bytes_list.value[0] = affine.tobytes()


def stretch_slice(records):
    feature(records, 2, "spacing_mm").bytes_list.value[0] = np.array([1.0, 1, 1]).tobytes()


def swap_pixels(records):
    one, two = (feature(records, number, "image/value") for number in (1, 2))
    one.bytes_list.value[0], two.bytes_list.value[0] = (
        two.bytes_list.value[0],
        one.bytes_list.value[0],
    )


@pytest.mark.parametrize(
    ("change", "check", "message"),
    [
        (swap_slices, "slice order", "stored are slices 1, 0, 2, 3, 4, 5, 6, 7 of 8"),
        (rename_volume, "identity", "records of volume_id other"),
        (miscount_slices, "slice order", "slice 2 says it is of 9 slices"),
        (miscount_pixels, "pixel counts", "slice 2: stored counts are not those of its label"),
        (stretch_slice, "spacing", "slice 2: spacing is not that of its affine"),
        (swap_pixels, "checksum", "pixels are not those that were converted"),
    ],
)
def test_records_that_disagree_with_the_metadata(dataset_copy, change, check, message):
    rewrite_records(dataset_copy, change)
    assert [(f.check, f.message, f.fatal) for f in found_in(dataset_copy)] == [
        (check, message, True)
    ]


def test_a_patient_on_two_sides(heads, tmp_path):
    source = shutil.copytree(heads, tmp_path / "source")
    for folder in source.iterdir():
        (folder / "ID_00000001_ID_0000000001.nii.gz").rename(
            folder / "ID_00000000_ID_0000000001.nii.gz"
        )
    write_head(source, 5)
    build_tfrecords.build(source, tmp_path / "output")
    dataset = tmp_path / "output" / "head_ct" / "1.0.0"

    def rename(volumes):
        volumes[-1]["patient_id"] = volumes[0]["patient_id"]

    change_metadata(dataset, rename)
    (finding,) = of_check(found_in(dataset), "patients")
    assert finding.fatal
    assert finding.message == "patient is in train and test"


def test_metadata_of_another_split(dataset_copy):
    def swap(volumes):
        volumes[0]["split"], volumes[1]["split"] = volumes[1]["split"], volumes[0]["split"]

    change_metadata(dataset_copy, swap)
    findings = of_check(found_in(dataset_copy), "split")
    assert len(findings) == 2
    assert all(
        finding.fatal and "but metadata.json says" in finding.message for finding in findings
    )


def test_an_id_given_twice_and_an_empty_split(dataset_copy):
    def spoil(volumes):
        volumes[1]["volume_id"] = volumes[0]["volume_id"]
        volumes[2]["split"] = volumes[1]["split"]

    change_metadata(dataset_copy, spoil)
    findings = found_in(dataset_copy)
    assert "two volumes of this id" in [f.message for f in of_check(findings, "identity")]
    assert ("test", "no volumes", True) in [
        (f.case, f.message, f.fatal) for f in of_check(findings, "split")
    ]


def test_a_split_by_slice_is_reported_once(heads, tmp_path):
    build_tfrecords.build(heads, tmp_path, split="slice")
    findings = found_in(tmp_path)
    (finding,) = of_check(findings, "patients")
    assert not finding.fatal
    assert finding.message.startswith("split slice: 3 patients are in several splits")
    assert not of_check(findings, "coverage")
    assert all(not finding.fatal for finding in findings)


def test_slices_of_the_same_pixels_across_patients(heads, tmp_path):
    source = shutil.copytree(heads, tmp_path / "source")
    twin, _ = tiny_volume(0, 8)
    write_head(source, 9, lambda hu, label: (np.dstack([hu[..., :7], twin[..., 7]]), label))
    build_tfrecords.build(source, tmp_path / "output", split="patient:0.5,0.25,0.25")
    volumes = {v.patient_id: v.split for v in SliceIndex.load(tmp_path / "output").volumes}
    (finding,) = of_check(found_in(tmp_path / "output"), "duplicate pixels")
    assert "slice 7 has the pixels of" in finding.message
    assert "slice 7 of another patient" in finding.message
    assert finding.fatal == (volumes["ID_00000000"] != volumes["ID_00000009"])


def test_duplicates_are_fatal_only_across_splits(sound_dataset):
    any_volume = SliceIndex.load(sound_dataset).volumes[0]
    volumes = [
        dataclasses.replace(any_volume, volume_id=name, patient_id=name, split=split)
        for name, split in (("a", "train"), ("b", "train"), ("c", "test"))
    ]
    findings = list(
        cross_checks.duplicate_findings(
            volumes, {"x": [(0, 1), (0, 2), (1, 3), (2, 4)], "y": [(0, 0)]}
        )
    )
    assert [(f.case, f.message, f.fatal) for f in findings] == [
        ("a", "slice 2 has the pixels of slice 1", False),
        ("b", "slice 3 has the pixels of a slice 1 of another patient (train and train)", False),
        ("c", "slice 4 has the pixels of a slice 1 of another patient (train and test)", True),
    ]


def clamp(hu, label):
    return hu.clip(0, 255), label


def add_metal(hu, label):
    hu[32, 32, 2] = 9000
    return hu, label


def shift_scale(hu, label):
    return (hu + 1000).astype(np.int16), label


def bleed_in_air(hu, label):
    label[1:9, 1:9, 1:4] = 4
    return hu, label


def fade_iph(hu, label):
    hu[label == 2] = 30
    return hu, label


def calcify_sdh(hu, label):
    hu[label == 5] = 400
    return hu, label


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (clamp, [r"HU range: 0 to 255 HU without air: clamped before"]),
        (add_metal, [r"HU range: -\d+ to 9000 HU, a scanner's are -1100 to 3071"]),
        (
            bleed_in_air,
            [r"blood outside the head: \d+% of the blood .*, most of it in slice [123]$"],
        ),
        (fade_iph, [r"blood density: IPH of median 30 HU is no denser than brain \(3\d\)"]),
        (calcify_sdh, [r"blood density: SDH of median 400 HU is denser than blood"]),
    ],
)
def test_suspicious_volumes(convert_with, change, messages):
    findings = convert_with(change)
    assert not any(finding.fatal for finding in findings)
    reported = [f"{finding.check}: {finding.message}" for finding in findings]
    assert len(reported) == len(messages), reported
    for message, expected in zip(reported, messages, strict=True):
        assert re.search(expected, message)


def test_values_that_are_no_hu(convert_with):
    messages = [finding.message for finding in convert_with(shift_scale)]
    assert "-4 to 2002 HU without air: clamped before conversion, or no HU" in messages
    assert "0.00% of the voxels are in 15 to 60 HU: no brain, or no HU" in messages
    assert sum("is denser than blood" in message for message in messages) == 5


def test_little_of_a_head(convert_with):
    (finding,) = convert_with(None, num_slices=5)
    assert (finding.check, finding.message) == ("coverage", "55 mm of the head, less than 80 mm")


def test_a_class_that_a_split_lacks(heads, tmp_path):
    source = shutil.copytree(heads, tmp_path / "source")
    for number in range(3):
        write_head(source, number, lambda hu, label: (hu, np.where(label == 1, 0, label)))
    build_tfrecords.build(source, tmp_path)
    findings = of_check(found_in(tmp_path), "split")
    assert [(f.case, f.message) for f in findings] == [
        (split, "no volume has EDH") for split in ("test", "train", "validation")
    ]


def tiny_labelled(**fields):
    """A sound head as it is after conversion."""
    hu, label = tiny_volume(0, 8)
    volume = Volume(hu.transpose(2, 1, 0), HEAD_AFFINE, "LPS")
    label = label.astype(np.uint8).transpose(2, 1, 0)
    return LabelledVolume.of(volume, label, volume_id="v", patient_id="p", **fields)


def findings_of(labelled):
    return [(f.check, f.message, f.fatal) for f in checks.volume_findings(labelled, False)]


def test_heads_without_voxel_labels(heads, tmp_path):
    source = tmp_path / "source" / "nobleed"
    shutil.copytree(heads / "images", source)
    build_tfrecords.build(tmp_path / "source", tmp_path / "output")
    assert {(f.check, f.message) for f in found_in(tmp_path / "output")} == {
        ("split", "no volume has EDH, IPH, IVH, SAH, SDH"),
        ("blood", "no volume has voxel labels: nothing to learn"),
    }


def test_a_dataset_without_blood_is_not_fit(sound_dataset):
    volumes = SliceIndex.load(sound_dataset).volumes

    def fatal(without_blood):
        none = np.zeros_like(volumes[0].pixels_per_class)
        changed = [
            dataclasses.replace(info, pixels_per_class=none)
            if info.split in without_blood
            else info
            for info in volumes
        ]
        findings = cross_checks.split_findings(changed, "patient")
        return [(f.case, f.message) for f in findings if f.fatal]

    assert fatal(["train", "validation", "test"]) == [
        ("dataset", "no volume has blood: nothing to learn")
    ]
    assert fatal(["train"]) == [("train", "no volume has blood: nothing to learn")]
    assert fatal(["validation", "test"]) == []


def test_what_the_conversion_would_have_refused_is_fatal():
    labelled = tiny_labelled()
    labelled.label[0, 0, 0] = 6
    assert ("label range", "label value 6: labels are 0 to 5", True) in findings_of(labelled)
    labelled.label[...] = 0
    labelled.hu[...] = 40
    assert findings_of(labelled) == [("empty image", "all voxels are 40 HU", True)]


def test_millimetres_of_pictures_are_not_judged():
    assert findings_of(tiny_labelled(spacing_known=True)) == []
    labelled = tiny_labelled(spacing_known=False)
    labelled = dataclasses.replace(labelled, affine=np.diag([9.0, 9.0, 1.0, 1.0]))
    assert findings_of(labelled) == []
    believed = findings_of(dataclasses.replace(labelled, spacing_known=True))
    assert [check for check, _, _ in believed] == ["spacing"]


def test_coverage_is_at_right_angles_to_the_slices():
    """A stack sheared by 20 degrees: slices 5 mm apart along its axis, 5 cos 20 apart."""
    angle = np.deg2rad(20)
    affine = np.eye(4)
    affine[:3, 2] = [0, 5 * np.sin(angle), 5 * np.cos(angle)]
    assert checks.coverage_mm(affine, 30) == pytest.approx(150 * np.cos(angle))
    rotation = np.eye(4)
    rotation[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    assert checks.coverage_mm(rotation @ affine, 30) == pytest.approx(150 * np.cos(angle))


def test_unusable_and_unusual_geometry():
    assert checks.geometry_notes(np.diag([1.0, 1, 0, 1]))[0]
    assert checks.geometry_notes(np.diag([1.0, 1, np.nan, 1]))[0]
    assert checks.geometry_notes(np.diag([0.5, 0.5, 5, 1])) == (False, [])
    fatal, notes = checks.geometry_notes(np.diag([0.5, 3.0, 20, 1]))
    assert not fatal
    assert notes == [
        "3 mm in plane, usual are 0.2 to 1.5 mm",
        "20 mm between slices, usual are 0.3 to 12 mm",
    ]
    for spacing in ([5e-4, 5e-4, 5e-3], [500, 500, 5000], [0.5, 0.5, 40]):
        assert checks.geometry_notes(np.diag([*spacing, 1.0]))[0]
        assert checks.geometry_notes(np.diag([*spacing, 1.0]), in_mm=False) == (False, [])


def test_spacing_that_contradicts_itself_is_repeated(sound_dataset, tmp_path):
    dataset = shutil.copytree(sound_dataset, tmp_path / "copy") / "head_ct" / "1.0.0"
    change_metadata(dataset, lambda volumes: volumes[0].update(notes=["spacing: 1 and 2 mm", "x"]))
    (finding,) = found_in(dataset)
    assert (finding.check, finding.message, finding.fatal) == ("spacing", "1 and 2 mm", False)


def test_not_a_dataset(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        verify.main([str(tmp_path)])
    assert exit_.value.code == 1
    assert "no dataset there" in capsys.readouterr().err


def test_a_damaged_record_length_is_reported_by_the_index(dataset_copy):
    (shard,) = dataset_copy.glob("*-train.tfrecord-*")
    shard.write_bytes(shard.read_bytes()[:-3])
    with pytest.raises(UserError, match="damaged"):
        found_in(dataset_copy)
