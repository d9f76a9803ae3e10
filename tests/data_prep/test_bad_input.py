"""Bad input ends in one line that names the file and the fix, and leaves nothing behind."""

import gzip
import io
import json
import os
import re
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from tiny_ct import LAS_AFFINE, nifti_bytes, tiny_volume, write_case, write_tiny_source

from data_prep import build_tfrecords
from mbh_jax.data.index import SliceIndex

BAD = "ID_00000009_ID_0000000009"
HU, LABEL = tiny_volume(9, 5)
IMAGE, MASK = nifti_bytes(HU), nifti_bytes(LABEL)
ZIPPED = gzip.compress(IMAGE, mtime=0)
FIXES = "add check fetch give make must number remove rename repair replace restore unpack write"
FIX = re.compile(rf"\b({FIXES.replace(' ', '|')})\b")


def header_with(**fields):
    header = nibabel.Nifti1Header(IMAGE[:348])
    for field, value in fields.items():
        header[field] = value
    return header.binaryblock + IMAGE[348:]


def with_image(content):
    """The tiny source with one image more, of this content as it is."""

    def spoil(source):
        write_case(source, BAD, IMAGE, MASK)
        (source / "images" / f"{BAD}.nii.gz").write_bytes(content)

    return spoil


def with_label(stored):
    return lambda source: write_case(source, BAD, IMAGE, nifti_bytes(stored))


def with_voxels(stored):
    return with_image(gzip.compress(nifti_bytes(stored)))


def changed_voxel(value, dtype, of=HU):
    stored = of.astype(dtype)
    stored[3, 3, 3] = value
    return stored


def dangling(source):
    for folder in ("images", "ground truths"):
        (source / folder / f"{BAD}.nii.gz").symlink_to(source / "nowhere")


def doubled(source):
    write_case(source, BAD, IMAGE, MASK)
    (source / "images" / f"{BAD}.nii").write_bytes(IMAGE)


def unreadable(source):
    write_case(source, BAD, IMAGE, MASK)
    (source / "images" / f"{BAD}.nii.gz").unlink()
    (source / "images" / f"{BAD}.nii.gz").symlink_to("/proc/self/mem")


NIFTI = {
    "empty file": (with_image(b""), "not a NIfTI file"),
    "text": (with_image(b"no volume at all, and long enough" * 20), "not a NIfTI file"),
    "wrong magic": (with_image(header_with(magic=b"abc")), "not a single-file NIfTI"),
    "header of a pair": (with_image(header_with(magic=b"ni1")), "not a single-file NIfTI"),
    "truncated at the header": (with_image(gzip.compress(IMAGE[:200])), "truncated in the header"),
    "gzip truncated at its header": (with_image(ZIPPED[:6]), "truncated or damaged"),
    "truncated at the voxels": (with_image(gzip.compress(IMAGE[:-1])), "truncated: 40959 of 40960"),
    "gzip truncated at the voxels": (with_image(ZIPPED[:-2000]), "truncated or damaged"),
    "truncated at the checksum": (with_image(ZIPPED[:-6]), "truncated or damaged"),
    "wrong checksum": (with_image(ZIPPED[:-8] + b"\0\0\0\0" + ZIPPED[-4:]), "damaged .*CRC"),
    "damaged deflate": (with_image(ZIPPED[:12] + b"\xff" * 8 + ZIPPED[20:]), "damaged"),
    "bomb behind the voxels": (
        with_image(gzip.compress(IMAGE + bytes(1 << 24))),
        "goes on after the 40960 bytes",
    ),
    "bomb of a header": (
        with_image(gzip.compress(header_with(dim=[3, 30000, 30000, 30000, 1, 1, 1, 1]))),
        "too large for a head CT",
    ),
    "unknown type": (with_image(header_with(datatype=9999)), "not a readable NIfTI"),
    "colours": (
        with_voxels(np.zeros((2, 2, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")])),
        "not single numbers",
    ),
    "complex numbers": (with_voxels(np.zeros((4, 4, 3), np.complex64)), "not single numbers"),
    "two axes": (with_voxels(np.zeros((8, 8), np.int16)), "one 3-D volume"),
    "four axes": (with_voxels(np.zeros((8, 8, 3, 2), np.int16)), "one 3-D volume"),
    "no slices": (with_image(header_with(dim=[3, 64, 64, 0, 1, 1, 1, 1])), "one 3-D volume"),
    "voxels in the header": (with_image(header_with(vox_offset=0)), "vox_offset 0, where"),
    "voxels before the file": (with_image(header_with(vox_offset=-8)), "vox_offset -8, where"),
    "voxels far beyond": (with_image(header_with(vox_offset=1e15)), r"vox_offset 1e\+15, where"),
    "voxels at infinity": (with_image(header_with(vox_offset=np.inf)), "vox_offset inf, where"),
    "voxels nowhere": (with_image(header_with(vox_offset=np.nan)), "vox_offset nan, where"),
    "infinite slope": (with_image(header_with(scl_slope=np.inf)), "scl_slope is infinite"),
    "links to nowhere": (dangling, r"cannot be read \(No such file"),
    "no affine": (with_image(header_with(qform_code=0)), "no usable geometry"),
    "zero spacing": (
        with_image(header_with(pixdim=[1, 0.5, 0.5, 0, 1, 1, 1, 1])),
        "no usable geometry",
    ),
    "NaN spacing": (
        with_image(header_with(pixdim=[1, 0.5, np.nan, 5, 1, 1, 1, 1])),
        "no usable geometry",
    ),
    "flat sform": (
        with_image(header_with(qform_code=0, sform_code=1, srow_x=[1, 0, 0, 0])),
        "no usable geometry",
    ),
    "NaN voxels": (with_voxels(changed_voxel(np.nan, np.float32)), "NaN or infinite"),
    "infinite voxels": (with_voxels(changed_voxel(np.inf, np.float32)), "NaN or infinite"),
    "no HU": (with_voxels(changed_voxel(60000, np.int32)), "cannot be Hounsfield units"),
    "zeros": (with_voxels(np.zeros((64, 64, 5), np.int16)), "all voxels are 0"),
    "shapes differ": (with_label(LABEL[:, :, :4]), r"\(64, 64, 4\), its image \(64, 64, 5\)"),
    "axes swapped": (with_label(LABEL.transpose(2, 0, 1)), "its axes are swapped"),
    "label 6": (with_label(changed_voxel(6, np.uint16, LABEL)), "label value 6"),
    "negative label": (with_label(changed_voxel(-1, np.int16, LABEL)), "label value -1"),
    "label of a half": (with_label(changed_voxel(0.5, np.float32, LABEL)), "not whole"),
    "NaN label": (with_label(changed_voxel(np.nan, np.float32, LABEL)), "not whole"),
    "label of colours": (
        with_label(np.zeros((64, 64, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")])),
        "not single numbers",
    ),
    "image without label": (
        lambda source: (source / "images" / f"{BAD}.nii").write_bytes(IMAGE),
        "no partner in 'ground truths/'",
    ),
    "label without image": (
        lambda source: (source / "ground truths" / f"{BAD}.nii").write_bytes(MASK),
        "no partner in 'images/'",
    ),
    "two files of one name": (doubled, "two files for"),
    "unreadable file": (unreadable, r"cannot be read \(Input/output error\)"),
}


def error_of(arguments, capsys):
    """The one line that the command ends with."""
    with pytest.raises(SystemExit) as exit_:
        build_tfrecords.main(arguments)
    assert exit_.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("error: ") for line in lines) == 1
    assert lines[-1].startswith("error: ")
    return lines[-1]


@pytest.mark.parametrize("kind", NIFTI)
def test_a_bad_volume(tmp_path, capsys, kind):
    if kind == "unreadable file" and not Path("/proc/self/mem").exists():
        pytest.skip("needs Linux's /proc")
    spoil, message = NIFTI[kind]
    source = write_tiny_source(tmp_path / "source", num_volumes=3)
    spoil(source)
    output = tmp_path / "deep" / "output"
    printed = error_of(["--source", str(source), "--output", str(output)], capsys)
    assert re.search(message, printed)
    assert BAD in printed
    assert FIX.search(printed)
    assert not (tmp_path / "deep").exists()


def write_zip(path, edit=None):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            for folder, content in (("images", IMAGE), ("ground truths", MASK)):
                archive.writestr(f"label_192/{folder}/ID_{number}_ID_{number}.nii", content)
        if edit:
            edit(archive)


def rewritten(change):
    """The good zip, with its bytes changed."""

    def write(path):
        write_zip(path)
        path.write_bytes(change(path.read_bytes()))

    return write


def patched(content, offset_in_entry, value):
    """Changes a field of the first member, in its local header and in the zip's directory."""
    changed = bytearray(content)
    for magic, extra in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):
        at = content.index(magic) + offset_in_entry + extra
        changed[at : at + len(value)] = value
    return bytes(changed)


ZIPS = {
    "a web page": (lambda path: path.write_bytes(b"<html>not found</html>"), "not a whole zip"),
    "cut short": (rewritten(lambda content: content[:-400]), "not a whole zip"),
    "damaged member": (
        rewritten(lambda c: c[:4000] + b"\xff" * 64 + c[4064:]),
        r"ID_0_ID_0\.nii: .*damaged",
    ),
    "encrypted": (rewritten(lambda c: patched(c, 6, b"\1\0")), "is encrypted: unpack"),
    "packed unreadably": (
        rewritten(lambda c: patched(c, 8, b"\x63\0")),
        "packed in a way Python cannot read",
    ),
    "climbing path": (
        lambda path: write_zip(path, lambda z: z.writestr("../../etc/images/a.nii", IMAGE)),
        r"'\.\./\.\./etc/images/a\.nii' climbs out",
    ),
    "absolute path": (
        lambda path: write_zip(path, lambda z: z.writestr("/etc/images/a.nii", IMAGE)),
        "climbs out",
    ),
    "Windows paths that climb": (
        lambda path: write_zip(path, lambda z: z.writestr("..\\images\\a.nii", IMAGE)),
        "climbs out",
    ),
    "Windows drive": (
        lambda path: write_zip(path, lambda z: z.writestr("C:\\images\\a.nii", IMAGE)),
        "climbs out",
    ),
    "names without suffix": (
        lambda path: zipfile.ZipFile(path, "w").writestr("images/ID_1_ID_1", IMAGE),
        "no data set found: .*1 without suffix such as images/ID_1_ID_1; names must end in",
    ),
    "nothing of use": (
        lambda path: zipfile.ZipFile(path, "w").writestr("readme.txt", "hello"),
        "no data set found",
    ),
    "two data sets": (
        lambda path: write_zip(path, lambda z: z.writestr("other/images/a.nii", IMAGE)),
        "several data sets",
    ),
}


@pytest.mark.parametrize("kind", ZIPS)
def test_a_bad_zip(tmp_path, capsys, kind):
    write, message = ZIPS[kind]
    path = tmp_path / "label_192.zip"
    write(path)
    printed = error_of(["--source", str(path), "--output", str(tmp_path / "output")], capsys)
    assert re.search(message, printed)
    assert str(path) in printed
    assert FIX.search(printed)
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_with_two_files_of_one_name(tmp_path, capsys):
    path = tmp_path / "label_192.zip"
    write_zip(path, lambda z: z.writestr("label_192/images/ID_0_ID_0.nii", IMAGE))
    printed = error_of(["--source", str(path), "--output", str(tmp_path / "output")], capsys)
    assert "two files named label_192/images/ID_0_ID_0.nii: remove one" in printed


GREY = np.arange(64 * 64).reshape(64, 64).astype(np.uint8)


def picture_bytes(array):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def rgb_picture(red, green, blue):
    return picture_bytes(np.full((64, 64, 3), (red, green, blue), np.uint8))


PICTURE, BLACK = picture_bytes(GREY), rgb_picture(0, 0, 0)

HUGE_PICTURE = b"".join(
    [
        PICTURE[:16],  # Signature, length and name of IHDR, then the size.
        header := struct.pack(">IIBBBBB", 12000, 12000, 8, 0, 0, 0, 0),
        struct.pack(">I", zlib.crc32(b"IHDR" + header)),
        PICTURE[33:],
    ]
)

PICTURES = {
    "huge": (HUGE_PICTURE, BLACK, "too large for a CT slice"),
    "image without mask": (PICTURE, None, "no partner in 'masks/'"),
    "mask without image": (None, BLACK, "no partner in 'images/'"),
    "no PNG": (b"GIF89a, really", BLACK, "not a PNG picture"),
    "truncated": (PICTURE[:-60], BLACK, "damaged PNG"),
    "coloured image": (rgb_picture(1, 2, 3), BLACK, "a coloured image"),
    "a mask for an image": (picture_bytes(GREY % 6), BLACK, "values from 0 to 5 only: scaled, or"),
    "16 bits": (picture_bytes(GREY.astype(np.uint16)), BLACK, "grey of mode I;16: give 8 bits"),
    "one grey": (picture_bytes(GREY * 0), BLACK, "all voxels are 0"),
    "unknown colour": (PICTURE, rgb_picture(1, 2, 3), r"colour \(1, 2, 3\) stands for no class"),
    "two colours": (PICTURE, picture_bytes(GREY > 99), "grey value 255 stands for no class"),
    "grey levels": (PICTURE, picture_bytes(GREY), "grey value 6 stands for no class"),
    "mask of another size": (PICTURE, BLACK[:0] + picture_bytes(GREY[:32] * 0), "mask of 64 x 32"),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_a_bad_picture(tmp_path, capsys, kind):
    image, mask, message = PICTURES[kind]
    for folder, good, bad in (("images", PICTURE, image), ("masks", BLACK, mask)):
        (tmp_path / "source" / folder).mkdir(parents=True)
        for name, content in (("a", good), ("b", good), ("c", good), ("bad", bad)):
            if content is not None:
                (tmp_path / "source" / folder / f"{name}.png").write_bytes(content)
    arguments = ["--source", str(tmp_path / "source"), "--output", str(tmp_path / "output")]
    printed = error_of(arguments, capsys)
    assert re.search(message, printed)
    assert "bad.png" in printed
    assert FIX.search(printed)
    assert not (tmp_path / "output").exists()


def test_a_palette_that_only_decorates_ends_the_run_even_if_bad_cases_are_skipped(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for name in ("a", "b", "c", "d"):
        (tmp_path / "images" / f"{name}.png").write_bytes(PICTURE)
        (tmp_path / "masks" / f"{name}.png").write_bytes(BLACK)
    picture = Image.fromarray(GREY % 6)
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255, 255, 255, 0, 255, 0, 255])
    picture.save(tmp_path / "masks" / "c.png")
    arguments = ["--source", str(tmp_path), "--output", str(tmp_path / "output"), "--skip_bad"]
    printed = error_of(arguments, capsys)
    assert "c.png: colour (255, 0, 255) stands for no class: give --rgb_map" in printed
    assert not (tmp_path / "output").exists()


def test_pictures_of_one_volume_in_two_sizes(tmp_path, capsys):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for name, rows in (("101000", 64), ("101001", 32)):
            content = picture_bytes((GREY if folder == "images" else GREY * 0)[:rows])
            (tmp_path / folder / f"{name}.png").write_bytes(content)
    printed = error_of(["--source", str(tmp_path), "--output", str(tmp_path / "output")], capsys)
    assert re.search(r"101001\.png: 64 x 32 pixels, .*101000\.png of the same .*make them", printed)


def test_two_pictures_of_one_slice(tmp_path, capsys):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for name in ("head_slice_1", "head_slice_001", "a", "b"):
            (tmp_path / folder / f"{name}.png").write_bytes(
                PICTURE if folder == "images" else BLACK
            )
    printed = error_of(["--source", str(tmp_path), "--output", str(tmp_path / "output")], capsys)
    assert re.search(r"head_slice_001\.png and head_slice_1\.png are both slice 1 of", printed)


@pytest.mark.parametrize(
    "text", ["red", "{(0,0,0): 0, (1,2): 1}", "{(0,0,999): 1}", "{(0,0,0): 6}", "[1]", "{}", "f()"]
)
def test_a_bad_rgb_map(tmp_path, capsys, text):
    arguments = ["--source", str(tmp_path), "--output", str(tmp_path / "o"), "--rgb_map", text]
    assert "--rgb_map" in (printed := error_of(arguments, capsys))
    assert "give colours and labels 0 to 5" in printed


IGNORED = json.dumps({"labels": {"background": 0, "EDH": 1, "ignore": 5}}).encode()
NNUNET: dict[str, tuple[dict[str, bytes | None], str]] = {
    "image without label": (
        {"imagesTr/a_0000.nii": IMAGE},
        "a_0000.nii has no partner in 'labels",
    ),
    "ignored voxels": (
        {"dataset.json": IGNORED},
        r"b.nii: value 5 \('ignore'\) marks voxels",
    ),
    "no labels in dataset.json": ({"dataset.json": b"{}"}, 'dataset.json: no readable "labels"'),
    "two channels": ({"imagesTr/a_0001.nii": IMAGE}, "a_0001.nii is not channel 0000"),
    "no channel": ({"imagesTr/a.nii": IMAGE}, "a.nii is not channel 0000"),
    "no dataset.json": ({"dataset.json": None}, "dataset.json is missing.*add it"),
    "dataset.json damaged": ({"dataset.json": b"{"}, 'dataset.json: no readable "labels"'),
    "label without image": ({"labelsTr/a.nii": MASK}, "a.nii has no partner in 'imagesTr/'"),
}


@pytest.mark.parametrize("kind", NNUNET)
def test_bad_nnunet_folders(tmp_path, capsys, kind):
    files, message = NNUNET[kind]
    labels = {"background": 0, "EDH": 1, "IPH": 2, "IVH": 3, "SAH": 4, "SDH": 5}
    good: dict[str, bytes | None] = {
        "imagesTr/b_0000.nii": IMAGE,
        "labelsTr/b.nii": MASK,
        "dataset.json": json.dumps({"labels": labels}).encode(),
    }
    for name, content in (good | files).items():
        if content is not None:
            (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "source" / name).write_bytes(content)
    arguments = ["--source", str(tmp_path / "source"), "--output", str(tmp_path / "output")]
    printed = error_of(arguments, capsys)
    assert re.search(message, printed)
    assert FIX.search(printed)


@pytest.mark.parametrize(
    ("missing", "message"),
    [("image.nii", "ID_1_ID_1 has no image.nii.gz"), ("label_annot_1.nii", "has no label_annot_")],
)
def test_bad_mbhseg25_folders(tmp_path, capsys, missing, message):
    for name in ("ID_1_ID_1", "ID_2_ID_2"):
        (tmp_path / "source" / name).mkdir(parents=True)
        (tmp_path / "source" / name / "image.nii").write_bytes(IMAGE)
        (tmp_path / "source" / name / "label_annot_1.nii").write_bytes(MASK)
    (tmp_path / "source" / "ID_1_ID_1" / missing).unlink()
    arguments = ["--source", str(tmp_path / "source"), "--output", str(tmp_path / "output")]
    assert message in (printed := error_of(arguments, capsys))
    assert FIX.search(printed)


@pytest.fixture
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "absent.zip"], "absent.zip: no such file or folder"),
        (["--workers", "0"], "--workers 0: give 1 or more"),
        (["--annotator", "2"], r"--annotator: means nothing to .*source, of layout bhsd: remove"),
        (["--flip_rows"], "--flip_rows: means nothing to"),
        (["--rgb_map", "{(0,0,0): 0}"], "--rgb_map: means nothing to"),
        (["--seed", "-1"], "--seed -1: give 0 or more"),
        (["--split", "by luck"], "--split by luck: give official"),
        (["--layout", "png"], "no data set found: give images/ and masks/ with PNG"),
        (["--split", "official"], "not one of BHSD's 192 volumes: give --split patient"),
        (["--output", "file"], r"file: cannot be written \(File exists\)"),
        (["--output", "file/output"], r"cannot be written \(Not a directory\)"),
        (["--output", "/proc/output"], r"/proc/output: cannot be written \(No such file"),
        (["--output", "\udcbb"], "--output .*: its name is not UTF-8: give another"),
        (["--output", "full"], "full/head_ct: exists: give --overwrite"),
        (["--beam_pipeline_options", "runner=DirectRunner"], r"pip install 'mbh_jax\[beam\]'"),
    ],
)
def test_bad_arguments(make_source, in_tmp_path, capsys, arguments, message):
    tmp_path = in_tmp_path
    (tmp_path / "file").write_text("")
    (tmp_path / "full" / "head_ct").mkdir(parents=True)
    source = make_source(num_volumes=3)
    default = ["--source", str(source), "--output", "output"]
    assert re.search(message, error_of([*default, *arguments], capsys))
    assert not (tmp_path / "output").exists()


def test_skip_bad_goes_on_and_lists_them(tmp_path, capsys):
    source = write_tiny_source(tmp_path / "source", num_volumes=4)
    write_case(source, BAD, IMAGE[:-9], MASK)
    (source / "images" / "ID_8_ID_8.nii").write_bytes(IMAGE)
    arguments = ["--source", str(source), "--output", str(tmp_path / "output"), "--skip_bad"]
    build_tfrecords.main(arguments)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in printed if line.startswith("skipped")] == [
        "skipped ID_8_ID_8",
        f"skipped {BAD}",
    ]
    index = SliceIndex.load(tmp_path / "output")
    assert BAD not in {volume.volume_id for volume in index.volumes}
    assert len(index.volumes) == 4
    metadata = json.loads((index.directory / "metadata.json").read_text())
    assert metadata["skipped"] == [
        {
            "volume_id": "ID_8_ID_8",
            "reason": "images/ID_8_ID_8.nii has no partner in 'ground truths/': add or remove it",
        },
        {
            "volume_id": BAD,
            "reason": f"images/{BAD}.nii.gz: truncated: 40951 of 40960 bytes of voxels: fetch it "
            "again",
        },
    ]


def test_a_name_that_is_not_utf_8(tmp_path, capsys):
    source = write_tiny_source(tmp_path / "source", num_volumes=4)
    for folder in ("images", "ground truths"):
        path = os.fsencode(source / folder) + b"/" + "\u60a3".encode("gbk") + b".nii"
        Path(os.fsdecode(path)).write_bytes(IMAGE if folder == "images" else MASK)
    arguments = ["--source", str(source), "--output", str(tmp_path / "output")]
    assert "its name is not UTF-8: rename it" in error_of(arguments, capsys)
    build_tfrecords.main([*arguments, "--skip_bad"])
    assert "skipped \\udcbb\\udcbc: " in capsys.readouterr().out
    assert len(SliceIndex.load(tmp_path / "output").volumes) == 4


def test_nothing_is_left_to_convert_if_all_are_bad(tmp_path, capsys):
    write_case(tmp_path / "source", BAD, b"", MASK)
    arguments = ["--source", str(tmp_path / "source"), "--output", str(tmp_path / "output")]
    assert "no case of source can be used" in error_of([*arguments, "--skip_bad"], capsys)


def test_odd_but_good_volumes_convert(tmp_path, capsys):
    """NIfTI-2, big-endian, a fourth axis of one, scaled HU, float labels, a healthy head."""
    write_case(tmp_path, "plain", IMAGE, MASK)
    write_case(
        tmp_path,
        "nifti2",
        nifti_bytes(HU, version=2, byte_order=">"),
        nifti_bytes(LABEL, version=2, byte_order=">"),
    )
    write_case(tmp_path, "axis", nifti_bytes(HU[..., None]), nifti_bytes(LABEL[..., None]))
    scaled = nifti_bytes((HU + 1024).astype(np.uint16), scaling=(1, -1024))
    write_case(tmp_path, "scaled", scaled, nifti_bytes(LABEL.astype(np.float64)))
    write_case(
        tmp_path, "healthy", nifti_bytes(HU, LAS_AFFINE, qform_only=False), nifti_bytes(LABEL * 0)
    )
    build_tfrecords.build(tmp_path, tmp_path / "output")
    assert "1 volumes have labels without blood, such as healthy" in capsys.readouterr().out
    volumes = json.loads(
        (SliceIndex.load(tmp_path / "output").directory / "metadata.json").read_text()
    )["volumes"]
    hashes = {volume["volume_id"]: volume["sha256"] for volume in volumes}
    assert hashes["plain"] == hashes["nifti2"] == hashes["axis"] == hashes["scaled"]
    assert hashes["healthy"] != hashes["plain"]
