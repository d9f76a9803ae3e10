"""PNG slices: `train|valid|test/{images,masks}/` or bare `images/` and `masks/`.

Grey is taken as HU 0..255, as in the PNG data sets that were made from BHSD. PNG has no geometry:
a pixel counts as 1 mm, rows run from anterior to posterior and columns from the patient's right to
the left (`--flip_rows` for pictures that are upside down), and the records say that spacing is not
known. Which files make a volume is read from their names:

    162015.png             six digits from 101000 up, of pictures made from BHSD: 100000 + 1000 *
                           volume + slice, here slice 15 of volume 62
    ID_x_ID_y_slice_015.png    anything that ends in _slice_<number>
    any other name         a volume, and a patient, of its own

Where slices are missing the ones there are still make one volume, in order.
"""

import ast
import io
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError

from data_prep.sources.files import SourceFile
from mbh_jax.errors import UserError
from mbh_jax.imageio.volume import PROGRAM_AXCODES, Volume
from mbh_jax.labels import LABELS, NUM_CLASSES

Rgb = tuple[int, int, int]

CLASS_RGB: Mapping[Rgb, int] = {label.rgb: value for value, label in enumerate(LABELS)}
"""Label of each colour of the class table."""

_BHSD_NUMBER = re.compile(r"[12]\d{5}")
_NAMED_SLICE = re.compile(r"(.+)_slice_(\d+)")
_UNKNOWN_AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Columns to the left, rows to posterior, slices to superior, all 1 mm apart for want of better."""


@dataclass(frozen=True)
class PngImage:
    """Grey slices of a volume, from inferior to superior."""

    files: tuple[SourceFile, ...]
    flip_rows: bool = False

    @property
    def name(self) -> str:
        """What errors call it."""
        return self.files[0].name


@dataclass(frozen=True)
class PngMask:
    """Masks of a volume's slices; colours as (red, green, blue) and label."""

    files: tuple[SourceFile, ...]
    rgb_map: tuple[tuple[Rgb, int], ...] = tuple(CLASS_RGB.items())
    flip_rows: bool = False


def volume_and_slice(stem: str) -> tuple[str, int]:
    """The volume and the slice number that a file's name stands for."""
    if _BHSD_NUMBER.fullmatch(stem) and int(stem) >= 101_000:
        volume, slice_number = divmod(int(stem) - 100_000, 1000)
        return f"volume_{volume:03d}", slice_number
    if match := _NAMED_SLICE.fullmatch(stem):
        return match[1], int(match[2])
    return stem, 0


def parse_rgb_map(text: str) -> dict[Rgb, int]:
    """Reads colours and their labels, as the original project writes them in its configuration.

    Args:
        text: such as "{(0,0,0): 0, (255,0,0): 1}".

    Raises:
        UserError: if it is anything else.
    """
    try:
        rgb_map = ast.literal_eval(text)
        checked = {
            (int(red), int(green), int(blue)): int(label)
            for (red, green, blue), label in rgb_map.items()
        }
    except (ValueError, SyntaxError, TypeError, AttributeError):
        checked = {}
    values = [value for rgb in checked for value in rgb]
    is_whole = bool(checked) and min(values) >= 0 and max(values) <= 255
    if not is_whole or not set(checked.values()) <= set(range(NUM_CLASSES)):
        raise UserError(
            f"--rgb_map {text!r}: give colours and labels 0 to {NUM_CLASSES - 1}, such as "
            "'{(0,0,0): 0, (255,0,0): 1}'"
        )
    return checked


def read_image(image: PngImage) -> tuple[Volume, tuple[str, ...]]:
    """Reads a volume's slices, and says which of the original volume's they are.

    Raises:
        UserError: if one is no grey picture of 8 bits, or their sizes differ.
    """
    slices = [_read_grey(file) for file in image.files]
    for file, plane in zip(image.files, slices, strict=True):
        if plane.shape != slices[0].shape:
            raise UserError(
                f"{file.name}: {_size(plane)} pixels, {image.files[0].name} of the same volume "
                f"{_size(slices[0])}: make them equal"
            )
    hu = np.stack(slices).astype(np.int16)
    numbers = [volume_and_slice(PurePosixPath(file.path).stem)[1] for file in image.files]
    notes: tuple[str, ...] = ()
    if numbers != list(range(len(numbers))):
        notes = (f"holds slices {', '.join(map(str, numbers))} of the original volume",)
    hu = hu[:, ::-1] if image.flip_rows else hu
    volume = Volume(np.ascontiguousarray(hu), _UNKNOWN_AFFINE, "".join(PROGRAM_AXCODES))
    return volume, notes


def read_mask(mask: PngMask, shape: tuple[int, int]) -> np.ndarray:
    """Reads masks, coloured or indexed, to (slices, rows, columns) uint8 labels.

    Args:
        mask: the files, and the label of each colour.
        shape: rows and columns of the images.

    Raises:
        UserError: if a size is not the image's, or a colour or value stands for no class.
    """
    planes = []
    for file in mask.files:
        plane = _read_labels(file, dict(mask.rgb_map))
        if plane.shape != shape:
            raise UserError(
                f"{file.name}: mask of {_size(plane)} pixels, its image {shape[1]} x {shape[0]}: "
                "they must be equal"
            )
        planes.append(plane)
    label = np.stack(planes)
    return np.ascontiguousarray(label[:, ::-1] if mask.flip_rows else label)


def _size(plane: np.ndarray) -> str:
    return f"{plane.shape[1]} x {plane.shape[0]}"


def _open(file: SourceFile) -> Image.Image:
    with file.open() as stream:
        content = stream.read()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=("PNG",)) as picture:
                picture.load()
                return picture.copy()
    except UnidentifiedImageError:
        raise UserError(f"{file.name}: not a PNG picture: replace it") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(f"{file.name}: too large for a CT slice: remove it") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise UserError(f"{file.name}: damaged PNG ({error}): fetch it again") from None


def _read_grey(file: SourceFile) -> np.ndarray:
    picture = _open(file)
    if picture.mode == "L":
        return np.asarray(picture)
    if picture.mode in ("RGB", "RGBA", "P"):
        red, green, blue = np.moveaxis(np.asarray(picture.convert("RGB")), -1, 0)
        if (red == green).all() and (green == blue).all():
            return red
        raise UserError(f"{file.name}: a coloured image: give grey, which is taken as HU 0..255")
    raise UserError(
        f"{file.name}: grey of mode {picture.mode}: give 8 bits, which are taken as HU 0..255, or "
        "the volumes as NIfTI"
    )


def _read_labels(file: SourceFile, rgb_map: Mapping[Rgb, int]) -> np.ndarray:
    picture = _open(file)
    if picture.mode in ("L", "I", "I;16"):
        return _checked_indices(file, np.asarray(picture))
    rgb = np.asarray(picture.convert("RGB")).astype(np.uint32)
    codes, inverse = np.unique(rgb @ np.array([65536, 256, 1], np.uint32), return_inverse=True)
    label_of = {red * 65536 + green * 256 + blue: v for (red, green, blue), v in rgb_map.items()}
    unknown = [int(code) for code in codes if int(code) not in label_of]
    if unknown and picture.mode == "P":
        return _checked_indices(file, np.asarray(picture))
    if unknown:
        colour = (unknown[0] >> 16, unknown[0] >> 8 & 255, unknown[0] & 255)
        raise UserError(
            f"{file.name}: colour {colour} stands for no class: give --rgb_map, or masks without "
            "smoothed edges"
        )
    labels = np.array([label_of[int(code)] for code in codes], np.uint8)
    return labels[inverse].reshape(rgb.shape[:2])


def _checked_indices(file: SourceFile, values: np.ndarray) -> np.ndarray:
    if values.max() >= NUM_CLASSES:
        raise UserError(
            f"{file.name}: label value {values.max()}: labels must be 0 to {NUM_CLASSES - 1}, or "
            "colours"
        )
    return values.astype(np.uint8)
