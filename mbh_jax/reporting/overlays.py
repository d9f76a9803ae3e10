"""Pictures of slices: CT in brain window, beside truth and prediction in the class colours."""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from etils import epath
from PIL import Image, ImageDraw, ImageFont

from mbh_jax import files
from mbh_jax.imageio import windows
from mbh_jax.labels import FOREGROUND, LABELS

_TILE = 256
"""Sides, in pixels, that tiles are enlarged to, and that the tiles of a montage are reduced to."""
_MARGIN = 12
_GAP = 4
_BACKGROUND = (16, 17, 20)
_TEXT = (235, 235, 235)
_DIMMED = (105, 108, 115)
_COLUMNS = ("CT, brain window", "truth", "prediction")
_LONGEST_NAME = 200
"""Bytes of a file name; file systems take 255, with its ending and while it is being written."""


def brain_window(hu: np.ndarray) -> np.ndarray:
    """Grey values 0..255, uint8, of Hounsfield units at level 40, width 80; same shape."""
    return (windows.BRAIN(np.asarray(hu)) * 255.0 + 0.5).astype(np.uint8)


def colourise(label: np.ndarray) -> np.ndarray:
    """The class colours (..., 3) uint8 of label values (...)."""
    table = np.array([entry.rgb for entry in LABELS], np.uint8)
    return table[np.asarray(label)]


def _outline(label: np.ndarray) -> np.ndarray:
    """(H,W) bool: pixels of a class with a side on another class or on the picture's edge."""
    padded = np.pad(label, 1)
    inner = np.ones(label.shape, bool)
    for neighbour in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        inner &= neighbour == label
    return (label > 0) & ~inner


def overlay(hu: np.ndarray, label: np.ndarray, alpha: float = 0.45) -> np.ndarray:
    """The brain window with each class as a translucent colour and a solid outline.

    Args:
        hu: (H,W) Hounsfield units.
        label: (H,W) integer label values.
        alpha: opacity of the colour inside the outline, 0..1.

    Returns:
        (H,W,3) uint8; pixels of background keep their grey.
    """
    return tint(brain_window(hu), label, alpha)


def tint(grey: np.ndarray, label: np.ndarray, alpha: float = 0.45) -> np.ndarray:
    """`overlay` of a picture (H,W) that has grey values 0..255 instead of Hounsfield units."""
    grey = np.repeat(grey[..., None], 3, axis=-1)
    colour = colourise(label)
    opacity = np.where(_outline(label), 1.0, np.where(label > 0, alpha, 0.0))[..., None]
    return (grey * (1.0 - opacity) + colour * opacity + 0.5).astype(np.uint8)


def _tiles(
    hu: np.ndarray, truth: np.ndarray, prediction: np.ndarray, max_tile: int | None
) -> list[Image.Image]:
    """Grey, truth and prediction as pictures of one size.

    Small slices are enlarged by a whole factor, so that a pixel stays a square; slices larger than
    `max_tile` are reduced by a whole factor.
    """
    enlarge = max(1, math.ceil(_TILE / max(hu.shape)))
    hu, truth, prediction = (
        array.repeat(enlarge, 0).repeat(enlarge, 1) for array in (hu, truth, prediction)
    )
    grey = overlay(hu, np.zeros_like(truth))
    pictures = [Image.fromarray(rgb) for rgb in (grey, overlay(hu, truth), overlay(hu, prediction))]
    reduce = math.ceil(max(hu.shape) / max_tile) if max_tile else 1
    return [picture.reduce(reduce) for picture in pictures]


def _draw_legend(draw: ImageDraw.ImageDraw, left: int, top: int, present: set[int]) -> None:
    """A square and a name for each kind of blood; those that the picture lacks are dimmed."""
    font = ImageFont.load_default(14)
    for c in FOREGROUND:
        name, rgb = LABELS[c].name, LABELS[c].rgb
        seen = c in present
        draw.rectangle(
            (left, top + 2, left + 13, top + 15),
            fill=rgb if seen else None,
            outline=rgb if seen else _DIMMED,
        )
        draw.text((left + 20, top), name, fill=_TEXT if seen else _DIMMED, font=font)
        left += 36 + int(draw.textlength(name, font=font))


def _sheet(
    hu: np.ndarray,
    truth: np.ndarray,
    prediction: np.ndarray,
    names: Sequence[str],
    *,
    title: str = "",
    columns: int = 1,
    max_tile: int | None = None,
) -> np.ndarray:
    """Draws n slices (n,H,W), three tiles and a name each, in `columns` columns over a legend."""
    rows = [
        _tiles(*slices, max_tile=max_tile) for slices in zip(hu, truth, prediction, strict=True)
    ]
    tile_width, tile_height = rows[0][0].size
    cell_width = 3 * tile_width + 2 * _GAP
    cell_height = 42 + tile_height
    title_height = 36 if title else 0
    width = columns * (cell_width + 2 * _MARGIN)
    height = title_height + math.ceil(len(rows) / columns) * (cell_height + _MARGIN) + 36

    sheet = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    name_font, caption_font = ImageFont.load_default(15), ImageFont.load_default(13)
    if title:
        draw.text((_MARGIN, 10), title, fill=_TEXT, font=ImageFont.load_default(18))
    for i, (tiles, name) in enumerate(zip(rows, names, strict=True)):
        left = (i % columns) * (cell_width + 2 * _MARGIN) + _MARGIN
        top = title_height + (i // columns) * (cell_height + _MARGIN) + _MARGIN // 2
        draw.text((left, top), name, fill=_TEXT, font=name_font)
        for j, (tile, caption) in enumerate(zip(tiles, _COLUMNS, strict=True)):
            x = left + j * (tile_width + _GAP)
            draw.text((x, top + 21), caption, fill=_DIMMED, font=caption_font)
            sheet.paste(tile, (x, top + 40))
    present = set(np.unique(truth)) | set(np.unique(prediction))
    _draw_legend(draw, _MARGIN, height - 28, present)
    return np.asarray(sheet)


def panel(hu: np.ndarray, truth: np.ndarray, prediction: np.ndarray, title: str) -> np.ndarray:
    """CT, truth and prediction of one slice side by side, under a title and over a legend.

    Args:
        hu: (H,W) Hounsfield units.
        truth, prediction: (H,W) integer label values.
        title: a line of text.

    Returns:
        (height, width, 3) uint8. A slice smaller than 256 is enlarged by a whole factor.
    """
    return _sheet(hu[None], truth[None], prediction[None], [title])


def montage(
    hu: np.ndarray,
    truth: np.ndarray,
    prediction: np.ndarray,
    names: Sequence[str],
    title: str = "",
) -> np.ndarray:
    """The panels of several slices (n,H,W) on one sheet, in two columns, tiles of about 256."""
    columns = min(2, len(hu))
    return _sheet(hu, truth, prediction, names, title=title, columns=columns, max_tile=_TILE)


def _short(name: str) -> str:
    encoded = name.encode()
    if len(encoded) <= _LONGEST_NAME:
        return name
    start, end = (part.decode(errors="ignore") for part in (encoded[:120], encoded[-60:]))
    return f"{start}~{hashlib.sha256(encoded).hexdigest()[:12]}~{end}"


def write_epoch_change(
    directory: epath.PathLike,
    epoch: int,
    hu: np.ndarray,
    truth: np.ndarray,
    prediction: np.ndarray,
    *,
    names: Sequence[str],
) -> np.ndarray:
    """Writes what the network predicts after an epoch for the same few slices.

    Writes `<directory>/epoch_0001/<name>.png`, a panel a slice, and `montage.png` beside them.

    Args:
        directory: `epoch_change_infer` of the workdir.
        epoch: 1 for the first.
        hu: (n,H,W) Hounsfield units.
        truth, prediction: (n,H,W) integer label values.
        names: n file names without ending, such as `<volume>_<slice>`. The file of a very long one
            has its beginning, a hash and its end.

    Returns:
        The montage, (height, width, 3) uint8, for TensorBoard.
    """
    directory = epath.Path(directory) / f"epoch_{epoch:04d}"
    for i, name in enumerate(names):
        title = f"{name}   epoch {epoch}"
        picture = panel(hu[i], truth[i], prediction[i], title)
        files.atomic_write_bytes(directory / f"{_short(name)}.png", files.png_bytes(picture))
    sheet = montage(hu, truth, prediction, names, title=f"epoch {epoch}")
    files.atomic_write_bytes(directory / "montage.png", files.png_bytes(sheet))
    return sheet
