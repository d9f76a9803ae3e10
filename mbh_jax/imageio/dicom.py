"""CT series in DICOM files to volumes in the program's orientation.

Geometry comes from the position of each slice, never from file names, instance numbers or the tag
of the gantry tilt: see `mbh_jax.imageio.dicom_geometry`.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mbh_jax.errors import UserError
from mbh_jax.imageio import dicom_file, dicom_geometry, dicom_header
from mbh_jax.imageio.dicom_geometry import Stack
from mbh_jax.imageio.dicom_header import LeftOut, Slice
from mbh_jax.imageio.volume import (
    Volume,
    axcodes_of,
    refuse_scaled,
    turn_affine_to_program,
    turn_to_program,
)

_ORIENTATION_TOLERANCE = 1e-3
_PIXEL_TOLERANCE_MM = 1e-4
_AIR_HU = -1024
_MAX_VOXELS = 1 << 28
"""1,024 slices of 512 x 512: a series that says more is no head, or would fill the memory."""


class Series(NamedTuple):
    """A CT series that can be read as one volume.

    Attributes:
        name: its description and a hash; it holds nothing of the patient.
        stack: its slices in order.
        images: all its images, also copies that the stack leaves out.
    """

    name: str
    stack: Stack
    images: tuple[Slice, ...]


class Found(NamedTuple):
    """What DICOM files hold.

    Attributes:
        series: what can be predicted, ordered by name.
        left_out: how many images of which series are not, and why.
        damaged: what is wrong with files that cannot be read, a line each by file.
    """

    series: list[Series]
    left_out: Counter[LeftOut]
    damaged: dict[Path, str]


def find_series(paths: Iterable[Path], *, wanted: str | None = None) -> Found:
    """The axial CT series in DICOM files.

    A series is split where orientation, size, pixel spacing or frame of reference differ.

    Args:
        paths: DICOM files in any order.
        wanted: take only series whose description holds this text (punctuation and case do not
            matter), and these whatever body part they are said to show.

    Raises:
        UserError: pydicom is not installed.
    """
    dicom_file.import_pydicom()
    left_out: Counter[LeftOut] = Counter()
    damaged: dict[Path, str] = {}
    groups: list[list[Slice]] = []
    for path in paths:
        try:
            images = dicom_header.read_images(path)
        except UserError as error:
            damaged[path] = str(error)
            continue
        for image in images:
            if isinstance(image, LeftOut):
                left_out[image] += 1
            else:
                _add(image, groups)
    found = []
    for group in groups:
        name = _name(group)
        stack = None
        reason = _reason(group[0], name, wanted)
        if not reason:
            stack = dicom_geometry.stack(group)
            reason = "" if stack else "a single slice of unknown thickness"
        if stack:
            found.append(Series(name, stack, tuple(group)))
        else:
            left_out[LeftOut(name, reason)] += len(group)
    return Found(sorted(found, key=lambda series: series.name), left_out, damaged)


def read_volume(series: Series) -> Volume:
    """Reads the pixels of a series.

    Raises:
        UserError: a file is damaged, its compression is not supported, its values cannot be HU, or
            the series is too large for a head.
    """
    stack = series.stack
    rows, columns = stack.slices[0].shape
    if len(stack.slices) * rows * columns > _MAX_VOXELS:
        raise UserError(
            f"{series.name}: {len(stack.slices)} slices of {rows} x {columns} are too many for a "
            "head: choose others by --series"
        )
    hu = np.empty((len(stack.slices), *stack.slices[0].shape), np.int16)
    opened: tuple[Path | None, Any] = (None, None)
    for index, one in enumerate(stack.slices):
        if opened[0] != one.path:
            opened = (one.path, _open(one.path))
        hu[index] = _slice_hu(opened[1], one)
    refuse_scaled(float(hu.min()), float(hu.max()), series.name)
    unscaled = []
    if any(one.rescale is None for one in stack.slices):
        unscaled = ["the files do not say how values become HU: they are taken as HU"]
    contrast = []
    if any(one.has_contrast for one in stack.slices):
        contrast = [
            "the files name a contrast agent: vessels, dura and tumours may be taken for blood"
        ]
    axcodes = axcodes_of(stack.affine)
    stored = hu.transpose(2, 1, 0)
    return Volume(
        turn_to_program(stored, axcodes),
        turn_affine_to_program(stack.affine, stored.shape),
        axcodes,
        stack.slice_mm,
        (*stack.notes, *unscaled, *contrast),
        stack.mask_notes,
    )


def _add(image: Slice, groups: list[list[Slice]]) -> None:
    """Puts an image to those that it can be stacked with."""
    for group in groups:
        first = group[0]
        if (
            image.series_uid == first.series_uid
            and image.shape == first.shape
            and image.frame_of_reference == first.frame_of_reference
            and np.allclose(image.orientation, first.orientation, 0, _ORIENTATION_TOLERANCE)
            and np.allclose(image.pixel_mm, first.pixel_mm, 0, _PIXEL_TOLERANCE_MM)
        ):
            group.append(image)
            return
    groups.append([image])


def _name(images: Sequence[Slice]) -> str:
    """The same for the same images, in whatever order and folder they come."""
    uids = sorted({(one.sop_uid or str(one.path), one.frame) for one in images})
    return dicom_header.series_name(images[0].description, uids)


def _reason(first: Slice, name: str, wanted: str | None) -> str:
    """Why a series is not predicted, or an empty text."""
    if not dicom_geometry.is_axial(first.orientation):
        return "not axial"
    if wanted is not None:
        matches = dicom_header.name_part(wanted).lower() in name.lower()
        return "" if matches else f"not --series {wanted}"
    if dicom_header.other_body_part(first.body_part):
        return f"shows {first.body_part}, not the head: --series predicts it all the same"
    return ""


def _open(path: Path) -> Any:
    pydicom = dicom_file.import_pydicom()
    try:
        data = pydicom.dcmread(path, force=True)
        if "TransferSyntaxUID" not in data.file_meta:  # A file without preamble.
            implicit, _ = data.original_encoding
            syntaxes = pydicom.uid.ExplicitVRLittleEndian, pydicom.uid.ImplicitVRLittleEndian
            data.file_meta.TransferSyntaxUID = syntaxes[bool(implicit)]
        return data
    except Exception as error:  # pydicom has no list of what it raises.
        raise dicom_file.damaged(path, error) from None


def _slice_hu(data: Any, one: Slice) -> np.ndarray:
    """One image in HU: (rows, columns) int16."""
    from pydicom.pixels import pixel_array

    if "PixelData" not in data:
        raise UserError(f"{one.path}: holds no pixels: copy it again, or move it away")
    try:
        stored = pixel_array(data, index=one.frame)
    except Exception as error:
        if "missing dependencies" in str(error) or "no available" in str(error):
            kind = data.file_meta.TransferSyntaxUID.name
            raise UserError(
                f'{one.path}: compressed as {kind}: pip install "mbh_jax[dicom]"'
            ) from None
        raise dicom_file.damaged(one.path, error) from None
    if stored.shape != one.shape:
        raise UserError(f"{one.path}: an image of {stored.shape}, not {one.shape}: copy it again")
    slope, intercept = one.rescale or (1.0, 0.0)
    hu = np.rint(stored * slope + intercept)
    limits = np.iinfo(np.int16)
    outside = (hu < limits.min) | (hu > limits.max)
    if outside.any():
        if not (stored[outside] == one.padding).all():
            raise UserError(
                f"{one.path}: values from {hu.min():g} to {hu.max():g} cannot be Hounsfield units: "
                "move the series away"
            )
        hu[outside] = _AIR_HU
    return hu.astype(np.int16)


def describe(left_out: Counter[LeftOut]) -> list[str]:
    """What was left out, one line for each series and reason."""
    return [
        f"left out: {number} {'image' if number == 1 else 'images'} of {one.series}: {one.reason}"
        for one, number in sorted(left_out.items())
    ]
