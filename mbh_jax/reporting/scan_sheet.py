"""A picture of what was found in a scan: its slices with blood, and millilitres by class."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mbh_jax.imageio import windows
from mbh_jax.labels import CLASS_NAMES, FOREGROUND, LABELS
from mbh_jax.reporting.overlays import overlay

DISCLAIMER = "research only: not a medical device"
VIEW = (
    f"brain window, level {windows.BRAIN.level_hu:.0f}, width {windows.BRAIN.width_hu:.0f} HU; "
    "R: the patient's right"
)
MAX_SLICES = 12
_COLUMNS = 4
_TILE = 320
_MARGIN = 12
_CAPTION_HEIGHT = 22
_BACKGROUND, _TEXT, _DIMMED = (16, 17, 20), (235, 235, 235), (140, 143, 150)


def choose_slices(mask: np.ndarray, number: int = MAX_SLICES) -> list[int]:
    """Slices to show, ascending: those with blood, spread evenly; without any, the middle one."""
    blood = np.flatnonzero(mask.any(axis=(1, 2)))
    if not len(blood):
        return [len(mask) // 2]
    if len(blood) <= number:
        return [int(index) for index in blood]
    return [int(blood[i]) for i in np.linspace(0, len(blood) - 1, number).round().astype(int)]


def scan_sheet(
    hu: np.ndarray, mask: np.ndarray, *, name: str, millilitres: Mapping[str, float]
) -> np.ndarray:
    """Draws slices in brain window with the mask's colours and outlines.

    Args:
        hu: (slices, rows, columns) Hounsfield units.
        mask: of the same shape, label values.
        name: of the scan.
        millilitres: by the short names of the classes, and "any".

    Returns:
        (height, width, 3) uint8.
    """
    chosen = choose_slices(mask)
    tiles = [_tile(hu[index], mask[index]) for index in chosen]
    width_px, height_px = tiles[0].size
    columns = min(_COLUMNS, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    width = max(columns * (width_px + _MARGIN) + _MARGIN, 640)
    header_height, footer_height = 86, 52
    height = header_height + rows * (height_px + _CAPTION_HEIGHT + _MARGIN) + footer_height
    sheet = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, 10), name, fill=_TEXT, font=ImageFont.load_default(18))
    _draw_millilitres(draw, millilitres, 44)
    font = ImageFont.load_default(13)
    for position, (index, tile) in enumerate(zip(chosen, tiles, strict=True)):
        left = _MARGIN + position % columns * (width_px + _MARGIN)
        top = header_height + position // columns * (height_px + _CAPTION_HEIGHT + _MARGIN)
        present = [CLASS_NAMES[c] for c in FOREGROUND if (mask[index] == c).any()]
        caption = f"slice {index + 1} of {len(hu)}: {', '.join(present) or 'no blood found'}"
        draw.text((left, top), caption, fill=_DIMMED, font=font)
        sheet.paste(tile, (left, top + _CAPTION_HEIGHT))
    draw.text((_MARGIN, height - 48), f"{_shown(chosen, mask)}{VIEW}", _DIMMED, font)
    draw.text((_MARGIN, height - 26), DISCLAIMER, _TEXT, font)
    return np.asarray(sheet)


def _tile(hu: np.ndarray, mask: np.ndarray) -> Image.Image:
    """One slice, enlarged or reduced to about `_TILE` pixels."""
    enlarge = max(1, _TILE // max(hu.shape))
    hu, mask = (array.repeat(enlarge, 0).repeat(enlarge, 1) for array in (hu, mask))
    picture = Image.fromarray(overlay(hu, mask, alpha=0.25))
    picture = picture.reduce(max(1, round(max(hu.shape) / _TILE)))
    font = ImageFont.load_default(13)
    ImageDraw.Draw(picture).text((4, picture.height // 2), "R", _TEXT, font, anchor="lm")
    return picture


def _draw_millilitres(
    draw: ImageDraw.ImageDraw, millilitres: Mapping[str, float], top: int
) -> None:
    font = ImageFont.load_default(15)
    left = _MARGIN
    for c in FOREGROUND:
        ml = millilitres[CLASS_NAMES[c]]
        draw.rectangle(
            (left, top + 2, left + 13, top + 15),
            fill=LABELS[c].rgb if ml else None,
            outline=LABELS[c].rgb,
        )
        text = f"{CLASS_NAMES[c]} {ml:.1f} mL"
        draw.text((left + 20, top), text, fill=_TEXT if ml else _DIMMED, font=font)
        left += 44 + int(draw.textlength(text, font=font))
    draw.text((_MARGIN, top + 20), f"all blood {millilitres['any']:.1f} mL", _TEXT, font)


def _shown(chosen: Sequence[int], mask: np.ndarray) -> str:
    total = int(mask.any(axis=(1, 2)).sum())
    return f"{len(chosen)} of {total} slices with blood; " if total > len(chosen) else ""
