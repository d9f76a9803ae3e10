"""PNG, JPEG and TIFF pictures of single slices, as prediction reads them.

Grey is taken as HU 0..255, as everywhere (`mbh_jax.imageio.png`). A picture has no millimetres.
"""

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin

from mbh_jax.errors import UserError
from mbh_jax.imageio import png
from mbh_jax.imageio.volume import PROGRAM_AXCODES, Volume, refuse_scaled

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
"""Of pictures, in lower case."""

MAX_TISSUE_GREY = 65
"""A greater median grey of what is neither black nor white tells of another window.

It is 24 to 52 in slices of BHSD with grey as HU 0..255, and about 100 in a brain window."""

_UPSIDE_DOWN = "LAS"
"""Where columns and rows of such a picture point to, and what lies above it."""

_FORMATS = ("PNG", "JPEG", "TIFF")
_ORIENTATION, _BITS_PER_SAMPLE = 274, 258
"""Tags of EXIF and TIFF."""


def is_picture(path: Path) -> bool:
    """Whether a file is a picture by its suffix."""
    return path.name.lower().endswith(SUFFIXES)


def read_volume(path: Path, *, flip_rows: bool = False) -> Volume:
    """Reads a picture as a volume of one slice, turned as the file says that it is to be shown.

    Args:
        path: the file.
        flip_rows: whether the picture is upside down (anterior below); its mask is then, too.

    Raises:
        UserError: it cannot be read, or is no single grey picture of 8 bits.
    """
    name = str(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise UserError(f"{path}: cannot be read ({reason}): check the file") from None
    with png.opened(content, name, _FORMATS) as picture:
        _check_storage(picture, content, name)
        stored_as = picture.getexif().get(_ORIENTATION, 1)
        picture.load()
        grey = png.grey_of(ImageOps.exif_transpose(picture), name)
    refuse_scaled(int(grey.min()), int(grey.max()), name)
    notes = []
    if stored_as != 1:
        notes.append(
            f"the file says that it is to be turned (orientation {stored_as}): the mask lies on "
            f"the turned picture of {grey.shape[1]} x {grey.shape[0]} pixels"
        )
    tissue = grey[(grey > 0) & (grey < 255)]
    if tissue.size and (median := np.median(tissue)) > MAX_TISSUE_GREY:
        notes.append(
            f"the median grey of tissue is {median:.0f}, and grey is taken as HU, where it is 20 "
            "to 55: this picture may show another window than 0 to 255 HU"
        )
    return Volume(
        np.ascontiguousarray(grey[::-1] if flip_rows else grey, np.int16)[np.newaxis],
        png.UNKNOWN_AFFINE,
        _UPSIDE_DOWN if flip_rows else "".join(PROGRAM_AXCODES),
        notes=tuple(notes),
        spacing_known=False,
    )


def _check_storage(picture: Image.Image, content: bytes, name: str) -> None:
    """Refuses what Pillow would silently take a part of."""
    number = getattr(picture, "n_frames", 1)
    if number > 1:
        raise UserError(f"{name}: holds {number} pictures: give one in a file")
    bits = 8
    if picture.format == "PNG":
        bits = content[24]  # Of the header, which is always the first part.
    elif isinstance(picture, TiffImagePlugin.TiffImageFile):
        bits = max(picture.tag_v2.get(_BITS_PER_SAMPLE, (1,)))
    if bits > 8:
        raise UserError(
            f"{name}: {bits} bits a channel: give 8 bits, which are taken as HU 0..255, or the "
            "volumes as NIfTI"
        )
    if "transparency" in picture.info or picture.mode in ("LA", "PA", "RGBA"):
        picture.load()
        if np.asarray(picture.convert("RGBA").getchannel("A")).min() < 255:
            raise UserError(f"{name}: transparent pixels, whose grey is not known: fill them")
