"""PNG pictures to pixels: grey as HU 0..255, masks to labels by their colours.

PNG has no geometry: `UNKNOWN_AFFINE` stands in for it, and whoever reads pictures says that the
spacing is not known.
"""

import io
import warnings
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from mbh_jax.errors import UserError
from mbh_jax.labels import LABELS, NUM_CLASSES

Rgb = tuple[int, int, int]

CLASS_RGB: Mapping[Rgb, int] = {label.rgb: value for value, label in enumerate(LABELS)}
"""Label of each colour of the class table."""

UNKNOWN_AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Columns to the left, rows to posterior, slices to superior, 1 mm apart: PNG says nothing."""


def read_grey(stream: BinaryIO, name: str) -> np.ndarray:
    """The grey values of a picture, (rows, columns) uint8.

    Raises:
        UserError: if it is no grey picture of 8 bits.
    """
    picture = _open(stream, name)
    if picture.mode == "L":
        return np.asarray(picture)
    if picture.mode in ("RGB", "RGBA", "P"):
        red, green, blue = np.moveaxis(np.asarray(picture.convert("RGB")), -1, 0)
        if (red == green).all() and (green == blue).all():
            return red
        raise UserError(f"{name}: a coloured image: give grey, which is taken as HU 0..255")
    raise UserError(
        f"{name}: grey of mode {picture.mode}: give 8 bits, which are taken as HU 0..255, or the "
        "volumes as NIfTI"
    )


def read_labels(stream: BinaryIO, rgb_map: Mapping[Rgb, int], name: str) -> np.ndarray:
    """The labels of a mask, coloured or indexed, (rows, columns) uint8.

    Args:
        stream: the file.
        rgb_map: the label of each colour (red, green, blue).
        name: what errors call it.

    Raises:
        UserError: if it is no PNG, or a colour or value stands for no class.
    """
    picture = _open(stream, name)
    if picture.mode in ("L", "I", "I;16"):
        return _checked_indices(np.asarray(picture), name)
    rgb = np.asarray(picture.convert("RGB")).astype(np.uint32)
    codes, inverse = np.unique(rgb @ np.array([65536, 256, 1], np.uint32), return_inverse=True)
    label_of = {red * 65536 + green * 256 + blue: v for (red, green, blue), v in rgb_map.items()}
    unknown = [int(code) for code in codes if int(code) not in label_of]
    if unknown and picture.mode == "P":
        return _checked_indices(np.asarray(picture), name)
    if unknown:
        colour = (unknown[0] >> 16, unknown[0] >> 8 & 255, unknown[0] & 255)
        raise UserError(
            f"{name}: colour {colour} stands for no class: give --rgb_map, or masks without "
            "smoothed edges"
        )
    labels = np.array([label_of[int(code)] for code in codes], np.uint8)
    return labels[inverse].reshape(rgb.shape[:2])


def _open(stream: BinaryIO, name: str) -> Image.Image:
    content = stream.read()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=("PNG",)) as picture:
                picture.load()
                return picture.copy()
    except UnidentifiedImageError:
        raise UserError(f"{name}: not a PNG picture: replace it") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(f"{name}: too large for a CT slice: remove it") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise UserError(f"{name}: damaged PNG ({error}): fetch it again") from None


def _checked_indices(values: np.ndarray, name: str) -> np.ndarray:
    if values.max() >= NUM_CLASSES:
        raise UserError(
            f"{name}: label value {values.max()}: labels must be 0 to {NUM_CLASSES - 1}, or colours"
        )
    return values.astype(np.uint8)
