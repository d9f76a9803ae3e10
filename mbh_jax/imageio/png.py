"""PNG pictures to pixels: grey as HU 0..255, masks to labels by their colours.

PNG has no geometry: `UNKNOWN_AFFINE` stands in for it, and whoever reads pictures says that the
spacing is not known.
"""

import contextlib
import io
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from mbh_jax.errors import UserError
from mbh_jax.labels import LABELS, NUM_CLASSES

Rgb = tuple[int, int, int]

CLASS_RGB: dict[Rgb, int] = {label.rgb: value for value, label in enumerate(LABELS)}
"""Label of each colour of the class table."""

DEFAULT_RGB: Mapping[Rgb, int] = CLASS_RGB | {(v, v, v): v for v in range(NUM_CLASSES)}
"""Label of each colour where nothing else is said: class colours, and grey 0 to 5 as labels."""

UNKNOWN_AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Columns to the left, rows to posterior, slices to superior, 1 mm apart: PNG says nothing."""


_COLOURED_MODES = ("CMYK", "YCbCr", "LAB", "HSV")

_DAMAGED = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error),
    *(KeyError, TypeError, IndexError, AttributeError, OverflowError, RuntimeError),
)
"""What Pillow raises for damaged files; of TIFF, nearly anything."""


class PaletteError(UserError):
    """A palette that does not say what its colours stand for: no mask of the source is safe."""


def read_grey(stream: BinaryIO, name: str) -> np.ndarray:
    """The grey values of a picture, (rows, columns) uint8.

    Raises:
        UserError: if it is no grey picture of 8 bits.
    """
    return grey_of(_open(stream, name), name)


def grey_of(picture: Image.Image, name: str) -> np.ndarray:
    """The grey values of a picture, (rows, columns) uint8, however it is stored.

    Raises:
        UserError: if it is no grey picture of 8 bits, with `name`.
    """
    if picture.mode in ("L", "LA"):
        return np.asarray(picture.getchannel("L"))
    if picture.mode in ("RGB", "RGBA", "P"):
        red, green, blue = np.moveaxis(np.asarray(picture.convert("RGB")), -1, 0)
        if (red == green).all() and (green == blue).all():
            return red
    if picture.mode in ("RGB", "RGBA", "P", *_COLOURED_MODES):
        raise UserError(f"{name}: a coloured image: give grey, which is taken as HU 0..255")
    grey = "black and white" if picture.mode == "1" else f"grey of mode {picture.mode}"
    raise UserError(
        f"{name}: {grey}: give 8 bits, which are taken as HU 0..255, or the volumes as NIfTI"
    )


def read_labels(
    stream: BinaryIO,
    rgb_map: Mapping[Rgb, int] | None,
    name: str,
    fix: str = "give --rgb_map, or masks without smoothed edges",
) -> np.ndarray:
    """The labels of a mask, (rows, columns) uint8, by the colours that its pixels show.

    How the file stores them (grey, colour or a palette) makes no difference.

    Args:
        stream: the file.
        rgb_map: the label of each colour (red, green, blue); grey v is (v, v, v). If None, the
            class colours, and grey 0 to 5 for the labels 0 to 5.
        name: what errors call it.
        fix: what to do about a colour that stands for no class.

    Raises:
        PaletteError: if a palette has colours that stand for no class.
        UserError: if it is no PNG, or another colour or value stands for no class.
    """
    picture = _open(stream, name)
    label_of = {_code(rgb): label for rgb, label in (rgb_map or DEFAULT_RGB).items()}
    codes, inverse = np.unique(_colour_codes(picture), return_inverse=True)
    if unknown := [int(code) for code in codes if int(code) not in label_of]:
        error = PaletteError if picture.mode == "P" else UserError
        raise error(f"{name}: {_colour_text(unknown[0])} stands for no class: {fix}")
    labels = np.array([label_of[int(code)] for code in codes], np.uint8)
    labels = labels[inverse].reshape(picture.height, picture.width)
    if rgb_map is None and picture.mode == "P":
        _refuse_labels_as_indices(picture, labels, label_of, name)
    return labels


def _refuse_labels_as_indices(
    picture: Image.Image, labels: np.ndarray, label_of: Mapping[int, int], name: str
) -> None:
    """Refuses a palette whose colours may only decorate the labels, which are its indices.

    It is one if its first six colours are not all of classes, and the indices in use could be
    labels but are other ones than the colours say.
    """
    indices = np.asarray(picture)
    if indices.max() >= NUM_CLASSES or np.array_equal(indices, labels):
        return
    palette = np.reshape(picture.getpalette("RGB") or [], (-1, 3))[:NUM_CLASSES]
    if others := [_code(rgb) for rgb in palette.tolist() if _code(rgb) not in label_of]:
        raise PaletteError(
            f"{name}: a palette with class colours and {_colour_text(others[0])}, which stands for "
            "no class: give --rgb_map with the label of each of its colours"
        )


def _colour_codes(picture: Image.Image) -> np.ndarray:
    """(rows, columns) int64: 65536 red + 256 green + blue of each pixel, of any storage."""
    if picture.mode in ("I", "I;16"):
        return np.asarray(picture).astype(np.int64) * _code((1, 1, 1))
    rgb = np.asarray(picture.convert("RGB")).astype(np.int64)
    return rgb @ np.array([65536, 256, 1])


def _code(rgb: Sequence[int]) -> int:
    red, green, blue = rgb
    return 65536 * red + 256 * green + blue


def _colour_text(code: int) -> str:
    grey, rest = divmod(code, _code((1, 1, 1)))
    if rest == 0:
        return f"grey value {grey}"
    return f"colour {(code >> 16, code >> 8 & 255, code & 255)}"


def _open(stream: BinaryIO, name: str) -> Image.Image:
    with opened(stream.read(), name) as picture:
        picture.load()
        return picture.copy()


@contextlib.contextmanager
def opened(content: bytes, name: str, formats: tuple[str, ...] = ("PNG",)) -> Iterator[Image.Image]:
    """A picture whose pixels are not read yet; what is wrong with the file is one line.

    Args:
        content: of the file.
        name: what errors call it.
        formats: that it may have, by Pillow's names.

    Raises:
        UserError: it is of no such format, too large, or damaged; also from inside the block.
    """
    *others, last = formats
    kind = f"{', '.join(others)} or {last}" if others else last
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of parts of the file that say nothing of pixels.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=formats) as picture:
                kind = str(picture.format)
                yield picture
    except UnidentifiedImageError:
        raise UserError(f"{name}: not a {kind} picture: replace it") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(f"{name}: too large for a CT slice: remove it") from None
    except _DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{name}: damaged {kind} ({reason}): fetch it again") from None
