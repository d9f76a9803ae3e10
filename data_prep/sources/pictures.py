"""Volumes from PNG slices: `train|valid|test/{images,masks}/` or only `images/` and `masks/`.

Grey is taken as HU 0..255, as in the PNG data sets that were made from BHSD. PNG has no geometry:
a pixel counts as 1 mm, rows run from anterior to posterior and columns from the patient's right to
the left (`--flip_rows` for pictures that are upside down), and the records say that spacing is not
known. Which files make a volume is read from their names:

    162015.png             six digits from 101000 up, of pictures made from BHSD: 100000 + 1000 *
                           volume + slice, here slice 15 of volume 62
    ID_x_ID_y_slice_015.png    anything that ends in _slice_<number>
    any other name         a volume and a patient by itself

Where slices are missing, those that are there still make one volume, in order.
"""

import ast
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from data_prep.sources.files import SourceFile
from mbh_jax.errors import UserError
from mbh_jax.imageio import png
from mbh_jax.imageio.png import Rgb
from mbh_jax.imageio.volume import PROGRAM_AXCODES, Volume, refuse_scaled
from mbh_jax.labels import NUM_CLASSES

_BHSD_NUMBER = re.compile(r"[12]\d{5}")
_NAMED_SLICE = re.compile(r"(.+)_slice_(\d+)")


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
    """Masks of a volume's slices; `rgb_map` as in `mbh_jax.imageio.png.read_labels`."""

    files: tuple[SourceFile, ...]
    rgb_map: tuple[tuple[Rgb, int], ...] | None = None
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
        text: such as "{(0,0,0): 0, (255,0,0): 1}", or "{0: 0, 255: 1}" for grey.

    Raises:
        UserError: if it is anything else.
    """
    try:
        rgb_map = ast.literal_eval(text)
        colours = {(c, c, c) if isinstance(c, int) else c: v for c, v in rgb_map.items()}
        checked = {
            (int(red), int(green), int(blue)): int(label)
            for (red, green, blue), label in colours.items()
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
    slices = []
    for file in image.files:
        with file.open() as stream:
            slices.append(png.read_grey(stream, file.name))
    for file, plane in zip(image.files, slices, strict=True):
        if plane.shape != slices[0].shape:
            raise UserError(
                f"{file.name}: {_size(plane)} pixels, {image.files[0].name} of the same volume "
                f"{_size(slices[0])}: make them equal"
            )
    hu = np.stack(slices).astype(np.int16)
    refuse_scaled(int(hu.min()), int(hu.max()), image.name)
    numbers = [volume_and_slice(PurePosixPath(file.path).stem)[1] for file in image.files]
    notes: tuple[str, ...] = ()
    if numbers != list(range(len(numbers))):
        notes = (f"holds slices {', '.join(map(str, numbers))} of the original volume",)
    hu = hu[:, ::-1] if image.flip_rows else hu
    volume = Volume(np.ascontiguousarray(hu), png.UNKNOWN_AFFINE, "".join(PROGRAM_AXCODES))
    return volume, notes


def read_mask(mask: PngMask, shape: tuple[int, int]) -> np.ndarray:
    """Reads masks to (slices, rows, columns) uint8 labels.

    Args:
        mask: the files, and the label of each colour if given.
        shape: rows and columns of the images.

    Raises:
        UserError: if a size is not the image's, or a colour or value stands for no class.
    """
    rgb_map = None if mask.rgb_map is None else dict(mask.rgb_map)
    planes = []
    for file in mask.files:
        with file.open() as stream:
            plane = png.read_labels(stream, rgb_map, file.name)
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
