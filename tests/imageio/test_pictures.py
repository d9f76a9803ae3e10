"""Pictures as prediction reads them: PNG, JPEG and TIFF in any storage, and what is refused."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mbh_jax.errors import UserError
from mbh_jax.imageio.pictures import read_volume
from mbh_jax.imageio.readers import find_scans, read_scan

GREY = np.random.default_rng(0).integers(0, 256, (5, 7), np.uint8)
SMOOTH = np.add.outer(np.arange(16), np.arange(24)).astype(np.uint8)
IMAGE = Image.fromarray(GREY)


def saved(path: Path, picture: Image.Image, **options: object) -> Path:
    picture.save(path, **options)
    return path


def indexed() -> Image.Image:
    """Grey in a palette that is in no order."""
    values, indices = np.unique(GREY, return_inverse=True)
    picture = Image.fromarray((len(values) - 1 - indices).reshape(GREY.shape).astype(np.uint8))
    picture.putpalette(values[::-1].repeat(3).tolist())
    return picture


STORED = {
    "grey.png": IMAGE,
    "grey and alpha.png": IMAGE.convert("LA"),
    "colours.PNG": IMAGE.convert("RGB"),
    "colours and alpha.png": IMAGE.convert("RGBA"),
    "palette.png": indexed(),
    "grey.tif": IMAGE,
    "colours.tiff": IMAGE.convert("RGB"),
    "palette.tif": indexed(),
}


@pytest.mark.parametrize("name", STORED)
def test_grey_is_hu_however_it_is_stored(name: str, tmp_path: Path) -> None:
    volume = read_volume(saved(tmp_path / name, STORED[name]))
    assert volume.hu.dtype == np.int16 and not volume.spacing_known
    np.testing.assert_array_equal(volume.hu, GREY[np.newaxis])


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiff_and_white_as_zero(compression: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", IMAGE, compression=compression)
    np.testing.assert_array_equal(read_volume(path).hu[0], GREY)
    content = saved(tmp_path / "b.tif", Image.fromarray(255 - GREY)).read_bytes()
    tag = struct.pack("<HHI", 262, 3, 1)  # PhotometricInterpretation, a short
    assert content.count(tag + b"\1\0") == 1
    inverted = written(tmp_path / "c.tif", content.replace(tag + b"\1\0", tag + b"\0\0"))
    np.testing.assert_array_equal(read_volume(inverted).hu[0], GREY)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_is_read_within_its_loss(mode: str, tmp_path: Path) -> None:
    picture = Image.fromarray(SMOOTH).convert(mode)
    volume = read_volume(saved(tmp_path / "a.jpg", picture, quality=95))
    assert abs(volume.hu[0] - SMOOTH.astype(int)).max() <= 3


@pytest.mark.parametrize(("orientation", "turns"), [(3, 2), (6, 3), (8, 1)])
@pytest.mark.parametrize("suffix", ["jpg", "tif", "png"])
def test_pictures_are_turned_as_they_are_shown(
    suffix: str, orientation: int, turns: int, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    volume = read_volume(saved(tmp_path / f"a.{suffix}", Image.fromarray(SMOOTH), exif=exif))
    shown = np.rot90(SMOOTH, turns)
    assert volume.shape == (1, *shown.shape)
    assert abs(volume.hu[0] - shown.astype(int)).max() <= 4
    assert f"orientation {orientation}" in volume.notes[0]


def test_a_pixel_is_a_picture(tmp_path: Path) -> None:
    volume = read_volume(saved(tmp_path / "a.png", Image.fromarray(np.full((1, 1), 40, np.uint8))))
    assert volume.hu.tolist() == [[[40]]]


def test_another_window_is_said(tmp_path: Path) -> None:
    """Grey of brain, 35 HU, in its own window of 0 to 80 HU."""
    for grey, number in ((35, 0), (int(35 / 80 * 255), 1)):
        picture = Image.fromarray(np.pad(np.full((6, 6), grey, np.uint8), 2))
        notes = read_volume(saved(tmp_path / "a.png", picture)).notes
        assert len(notes) == number and all("another window" in text for text in notes)


def deep_colours(path: Path) -> Path:
    """A PNG with 16 bits a channel, of which Pillow would take 8; it writes none itself."""
    content = bytearray(saved(path, IMAGE.convert("RGB")).read_bytes())
    content[24] = 16
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)
    return path


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def cut(path: Path, picture: Image.Image, keep: float) -> Path:
    content = saved(path, picture).read_bytes()
    return written(path, content[: int(len(content) * keep)])


NOISE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64), np.uint8))
HALF = Image.fromarray(np.dstack([GREY, GREY, GREY, GREY]))
RED = Image.fromarray(np.dstack([GREY, GREY // 2, GREY]))
PAGES = {"save_all": True, "append_images": [NOISE]}

BAD = {
    "empty": (lambda f: written(f / "a.png", b""), "not a PNG, JPEG or TIFF picture"),
    "text": (lambda f: written(f / "a.jpg", b"hello" * 50), "not a PNG, JPEG or TIFF picture"),
    "a GIF by its content": (
        lambda f: written(f / "a.png", saved(f / "b.gif", IMAGE).read_bytes()),
        "not a PNG, JPEG or TIFF picture",
    ),
    "cut PNG": (lambda f: cut(f / "a.png", NOISE, 0.5), "damaged PNG"),
    "cut JPEG": (lambda f: cut(f / "a.jpg", NOISE, 0.5), "damaged JPEG"),
    "cut TIFF": (lambda f: cut(f / "a.tif", NOISE, 0.5), "damaged TIFF"),
    "16 bits": (
        lambda f: saved(f / "a.png", Image.fromarray(GREY.astype(np.uint16) * 200)),
        "16 bits a channel: give 8 bits",
    ),
    "16 bits, TIFF": (
        lambda f: saved(f / "a.tif", Image.fromarray(GREY.astype(np.uint16) * 200)),
        "16 bits a channel: give 8 bits",
    ),
    "16 bits of colours": (lambda f: deep_colours(f / "a.png"), "16 bits a channel"),
    "floats": (
        lambda f: saved(f / "a.tif", Image.fromarray(GREY.astype(np.float32))),
        "32 bits a channel",
    ),
    "black and white": (
        lambda f: saved(f / "a.png", Image.fromarray(GREY > 99)),
        "black and white: give 8 bits",
    ),
    "colours": (lambda f: saved(f / "a.png", RED), "a coloured image: give grey"),
    "coloured JPEG": (lambda f: saved(f / "a.jpg", RED), "a coloured image: give grey"),
    "colours for print": (
        lambda f: saved(f / "a.jpg", NOISE.convert("CMYK")),
        "a coloured image: give grey",
    ),
    "transparent": (lambda f: saved(f / "a.png", HALF), "transparent pixels"),
    "a transparent grey": (
        lambda f: saved(f / "a.png", IMAGE, transparency=int(GREY[0, 0])),
        "transparent pixels",
    ),
    "two pages": (lambda f: saved(f / "a.tif", NOISE, **PAGES), "holds 2 pictures"),
    "animated": (lambda f: saved(f / "a.png", NOISE, **PAGES), "holds 2 pictures"),
    "labels": (
        lambda f: saved(f / "a.png", Image.fromarray(GREY % 6)),
        "values from 0 to 5 only",
    ),
    "too large": (
        lambda f: saved(f / "a.png", Image.new("L", (20000, 10000))),
        "too large for a CT slice",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_pictures_are_one_line(kind: str, tmp_path: Path) -> None:
    make, message = BAD[kind]
    path = make(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        read_volume(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_damage_anywhere_is_one_line_or_none(suffix: str, tmp_path: Path) -> None:
    """Bytes of every part of a file changed; nothing but a `UserError` may come out."""
    rng = np.random.default_rng(2)
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(SMOOTH))
    whole = path.read_bytes()
    for _ in range(150):
        content = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            content[place] = rng.integers(256)
        path.write_bytes(bytes(content)[: rng.integers(len(whole) // 2, len(whole) + 1)])
        try:
            assert read_volume(path).hu.ndim == 3
        except UserError as error:
            assert "\n" not in str(error)


def test_pictures_beside_scans_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Discs and folders of scans hold icons and previews."""
    saved(tmp_path / "a.png", IMAGE)
    (tmp_path / "b").mkdir()
    saved(tmp_path / "b" / "c.jpg", IMAGE)
    assert [scan.name for scan in find_scans(tmp_path)] == ["a", "b_c"]
    assert all(scan.is_picture for scan in find_scans(tmp_path))
    assert read_scan(tmp_path / "a.png").shape == (1, 5, 7)
    (tmp_path / "scan.nii").write_bytes(b"")
    with caplog.at_level("INFO", "mbh_jax"):
        assert [scan.name for scan in find_scans(tmp_path)] == ["scan"]
    assert "left out: 2 pictures beside scans" in caplog.text


def test_of_two_pictures_with_one_name_both_are_said(tmp_path: Path) -> None:
    saved(tmp_path / "a.png", IMAGE)
    saved(tmp_path / "a.jpg", IMAGE)
    with pytest.raises(UserError, match="are both called a: rename one"):
        find_scans(tmp_path)
