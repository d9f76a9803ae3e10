"""DICOM SEG to labels of the CT series that it marks.

Each frame of a segmentation lies on the slice at its position. Segments stand for classes by their
SNOMED code, or by their label where the code is another one.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mbh_jax.errors import UserError
from mbh_jax.imageio import dicom_file
from mbh_jax.imageio.dicom import Series
from mbh_jax.imageio.dicom_header import Slice, first_value, frame_sources, name_part, numbers
from mbh_jax.imageio.seg import SNOMED
from mbh_jax.imageio.volume import axcodes_of, turn_to_program
from mbh_jax.labels import CLASS_NAMES, FOREGROUND, LABELS

SEG_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""SOP classes: Segmentation, and Label Map Segmentation."""

_SAME_PLACE_MM = 0.1
"""How far a frame may lie from its slice: files round positions."""
_ORIENTATION_TOLERANCE = 1e-3
_PIXEL_TOLERANCE_MM = 1e-3
_MAX_VOXELS = 1 << 30


class _Segment(NamedTuple):
    """A segment: its label value, or None where it is of no class, and what errors call it."""

    value: int | None
    name: str


def referenced_images(path: Path) -> set[str]:
    """The SOPInstanceUIDs of the images that a segmentation says it refers to.

    Raises:
        UserError: the file is damaged, or pydicom is not installed.
    """
    data = _open(path, specific_tags=["ReferencedSeriesSequence"], stop_before_pixels=True)
    return {
        str(image.get("ReferencedSOPInstanceUID"))
        for series in data.get("ReferencedSeriesSequence") or ()
        for image in series.get("ReferencedInstanceSequence") or ()
    }


def read_seg(path: Path, series: Series) -> np.ndarray:
    """Reads a segmentation of a series.

    Several segments of one class are put together. Slices without a frame have label 0.

    Args:
        path: a DICOM SEG, BINARY or LABELMAP, or FRACTIONAL with no values but 0 and 1.
        series: the images.

    Returns:
        (slices, rows, columns) uint8 label values in the program's orientation.

    Raises:
        UserError: it is damaged or no DICOM SEG, refers to other images, lies elsewhere than the
            images, marks something that is no class, or marks a voxel as two classes.
    """
    data = _open(path)
    if str(data.get("SOPClassUID")) not in SEG_CLASSES:
        raise UserError(f"{path}: not a DICOM SEG: give a segmentation of the series")
    try:
        label = _read(data, path, series)
    except UserError:
        raise
    except Exception as error:  # pydicom has no list of what it raises.
        raise dicom_file.damaged(path, error) from None
    return turn_to_program(label.transpose(2, 1, 0), axcodes_of(series.stack.affine))


def _open(path: Path, **options: Any) -> Any:
    pydicom = dicom_file.import_pydicom()
    try:
        return pydicom.dcmread(path, force=True, **options)
    except Exception as error:
        raise dicom_file.damaged(path, error) from None


def _read(data: Any, path: Path, series: Series) -> np.ndarray:
    """Labels of the stacked slices: (slices, rows, columns) uint8."""
    slices = series.stack.slices
    shape = int(data.Rows), int(data.Columns)
    frames = frame_sources(data)
    if shape != slices[0].shape:
        raise UserError(
            f"{path}: {shape[0]} x {shape[1]} pixels, its images {slices[0].shape[0]} x "
            f"{slices[0].shape[1]}: write it on the images' grid"
        )
    if len(frames) * shape[0] * shape[1] > _MAX_VOXELS:
        raise UserError(f"{path}: {len(frames)} frames are too many for a head: check the file")
    reference = str(data.get("FrameOfReferenceUID") or "")
    if reference and slices[0].frame_of_reference not in ("", reference):
        raise UserError(
            f"{path}: in another frame of reference than its images: give the segmentation of this "
            "series"
        )
    segments = _segments(data, path)
    known = {one.sop_uid for one in series.images if one.sop_uid}
    referred = [_source_uids(sources) for sources in frames]
    if known and any(referred) and not known & set().union(*referred):
        raise UserError(
            f"{path}: refers to other images than those of the series: give its own segmentation"
        )
    label = np.zeros((len(slices), *shape), np.uint8)
    overlaps: Counter[tuple[int, int]] = Counter()
    for number, (sources, uids) in enumerate(zip(frames, referred, strict=True)):
        marked = _marked(data, number, sources, path)
        if not marked:
            continue
        if known and uids and not known & uids:
            raise UserError(
                f"{path}: marks images that are not there (frame {number + 1} of {len(frames)}): "
                "fetch the series again, whole"
            )
        place = _place_of(sources, slices, f"{path}: frame {number + 1}")
        for segment, where in marked.items():
            one = segments.get(segment, _Segment(None, str(segment)))
            if one.value is None:
                raise UserError(
                    f"{path}: segment {one.name} is none of "
                    f"{', '.join(CLASS_NAMES[value] for value in FOREGROUND)}: rename or remove it"
                )
            plane = label[place.slice_index, place.rows, place.columns]
            others = plane[where & (plane != 0) & (plane != one.value)]
            overlaps.update((int(other), one.value) for other in others)
            plane[where] = one.value
    if overlaps:
        first, second = max(overlaps, key=lambda pair: overlaps[pair])
        raise UserError(
            f"{path}: {overlaps.total()} voxels are marked as two classes, such as "
            f"{CLASS_NAMES[first]} and {CLASS_NAMES[second]}: remove the overlap"
        )
    return label


def _segments(data: Any, path: Path) -> dict[int, _Segment]:
    """What each segment number stands for."""
    of_code = {code: value for value in FOREGROUND for code in SNOMED[LABELS[value].name][:1]}
    of_name = {
        _plain(name): value
        for value in FOREGROUND
        for name in (LABELS[value].name, LABELS[value].long_name, SNOMED[LABELS[value].name][1])
    }
    segments = {}
    for one in data.SegmentSequence:
        kind = (one.get("SegmentedPropertyTypeCodeSequence") or [{}])[0]
        by_code = of_code.get(str(kind.get("CodeValue", "")))
        by_name = of_name.get(_plain(one.get("SegmentLabel")))
        name = f"{int(one.SegmentNumber)} ({name_part(one.get('SegmentLabel'))})"
        if None not in (by_code, by_name) and by_code != by_name:
            raise UserError(
                f"{path}: segment {name} has the code of {CLASS_NAMES[by_code or 0]}: make its "
                "label and its code agree"
            )
        segments[int(one.SegmentNumber)] = _Segment(by_code or by_name, name)
    return segments


def _plain(name: Any) -> str:
    """A name of a class in small letters and one spelling; a haematoma is a haemorrhage here."""
    plain = name_part(name).lower().replace("haem", "hem")
    return plain.replace("hematoma", "hemorrhage")


def _source_uids(sources: Sequence[Any]) -> set[str]:
    """The images that a frame says it was made from."""
    images = first_value(sources, "SourceImageSequence") or ()
    return {str(image.get("ReferencedSOPInstanceUID")) for image in images}


def _marked(data: Any, number: int, sources: Sequence[Any], path: Path) -> dict[int, np.ndarray]:
    """The pixels (rows, columns) bool that a frame marks, by the number of the segment."""
    from pydicom.pixels import pixel_array

    stored = pixel_array(data, index=number)
    values = [int(value) for value in np.unique(stored) if value]
    if data.SegmentationType == "LABELMAP":
        return {value: stored == value for value in values}
    if data.SegmentationType == "FRACTIONAL" and values not in ([], [data.MaximumFractionalValue]):
        raise UserError(f"{path}: holds fractions of voxels: write it as BINARY segments")
    return {int(first_value(sources, "ReferencedSegmentNumber")): stored != 0} if values else {}


class _Place(NamedTuple):
    """Where a frame lies: on which slice, and how its rows and columns run on that."""

    slice_index: int
    rows: slice
    columns: slice


def _place_of(sources: Sequence[Any], slices: Sequence[Slice], name: str) -> _Place:
    """Finds the slice at a frame's position; rows or columns may run the other way."""
    position = numbers(sources, "ImagePositionPatient", 3)
    orientation = numbers(sources, "ImageOrientationPatient", 6)
    spacing = numbers(sources, "PixelSpacing", 2)
    if position is None or orientation is None or spacing is None:
        raise UserError(f"{name} does not say where it lies: write the segmentation again")
    first = slices[0]
    axes = orientation.reshape(2, 3)
    signs = np.sign((axes * first.orientation).sum(1))
    if not (
        np.allclose(axes, signs[:, None] * first.orientation, 0, _ORIENTATION_TOLERANCE)
        and np.allclose(spacing[::-1], first.pixel_mm, 0, _PIXEL_TOLERANCE_MM)
    ):
        raise UserError(
            f"{name} is turned or scaled against its images: write the segmentation on their grid"
        )
    rows, columns = first.shape
    lengths_mm = first.pixel_mm * (columns - 1, rows - 1)
    corner_mm = position + ((signs < 0) * lengths_mm) @ axes
    distances_mm = np.linalg.norm([one.position_mm - corner_mm for one in slices], axis=1)
    nearest = int(distances_mm.argmin())
    if distances_mm[nearest] > _SAME_PLACE_MM:
        raise UserError(
            f"{name} lies on no slice of the series (the nearest is {distances_mm[nearest]:.1f} mm "
            "away): write the segmentation on the images' grid"
        )
    along_row, along_column = (slice(None, None, -1 if sign < 0 else 1) for sign in signs)
    return _Place(nearest, along_column, along_row)
