"""What the header of a DICOM file says of each image in it; pixels stay unread."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mbh_jax.imageio import dicom_file

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT_IMAGES = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
"""Multi-frame CT: Enhanced CT, and Legacy Converted Enhanced CT."""

_DICOMDIR = "1.2.840.10008.1.3.10"
_MAYBE_HU = re.compile(r"HU.*|US|", re.IGNORECASE)
"""Rescale types that may be Hounsfield units: HU, unspecified, or an empty text."""
_OTHER_BODY_PARTS = re.compile(
    "ABDOMEN|ABDOMENPELVIS|ANKLE|ARM|BREAST|CHEST|COLON|ELBOW|EXTREMITY|FEMUR|FOOT|HAND|HEART|HIP|"
    "KIDNEY|KNEE|LEG|LIVER|LUNG|PELVIS|SHOULDER|[LST]?SPINE|THORAX|WRIST"
)
_NO_CONTRAST = re.compile(
    "0|N|NO|NONE|NIL|NEG(ATIVE)?|FALSE|PLAIN|NATIVE?|UNENHANCED|NOT?_?(APPLICABLE|GIVEN|USED)|N_?A|"
    "(NO|NON|WITHOUT|W_?O)_?(IV_?)?CONTRAST(_.*)?|NONCON",
    re.IGNORECASE,
)
"""How scanners say in the name of the contrast agent that there was none; "_" for punctuation."""
_TAGS = [
    "BodyPartExamined",
    "ContrastBolusAgent",
    "ContrastBolusAgentSequence",
    "FrameOfReferenceUID",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "ImageType",
    "InstanceNumber",
    "Modality",
    "NumberOfFrames",
    "PerFrameFunctionalGroupsSequence",
    "PixelPaddingValue",
    "PixelRepresentation",
    "PixelSpacing",
    "RescaleIntercept",
    "RescaleSlope",
    "RescaleType",
    "Columns",
    "Rows",
    "SOPClassUID",
    "SOPInstanceUID",
    "SamplesPerPixel",
    "SeriesDescription",
    "SeriesInstanceUID",
    "SharedFunctionalGroupsSequence",
    "SliceThickness",
    "SpacingBetweenSlices",
]


@dataclass(frozen=True, eq=False)
class Slice:
    """One CT image: a file, or a frame of a multi-frame file.

    Attributes:
        path: the file.
        frame: its number in the file, from 0.
        series_uid: of its series; the folder where the file names none.
        description: of its series; letters, digits and "_" only.
        sop_uid: of the file.
        instance_number: of the file.
        frame_of_reference: what positions refer to.
        body_part: as the file says, or an empty text.
        has_contrast: whether the file names a contrast agent.
        shape: rows, columns.
        orientation: (2, 3), unit vectors along a row and along a column, LPS+.
        position_mm: (3,), centre of the first pixel, LPS+.
        pixel_mm: (2,), distance of neighbouring columns and of neighbouring rows.
        thickness_mm: of the slice, or None.
        rescale: slope and intercept: HU of a stored value are slope x value + intercept; None
            where the file has neither.
        padding: the stored value of pixels outside the image, or None.
    """

    path: Path
    frame: int
    series_uid: str
    description: str
    sop_uid: str
    instance_number: int
    frame_of_reference: str
    body_part: str
    has_contrast: bool
    shape: tuple[int, int]
    orientation: np.ndarray
    position_mm: np.ndarray
    pixel_mm: np.ndarray
    thickness_mm: float | None
    rescale: tuple[float, float] | None
    padding: int | None


class LeftOut(NamedTuple):
    """An image that is not predicted.

    Attributes:
        series: the name of its series.
        reason: why.
    """

    series: str
    reason: str


def read_images(path: Path) -> list[Slice | LeftOut]:
    """The images of a DICOM file; none of an index (DICOMDIR).

    Raises:
        UserError: the file is damaged, or pydicom is not installed.
    """
    pydicom = dicom_file.import_pydicom()
    # pydicom raises many kinds of exceptions for damaged files, and there is no list of them.
    try:
        header = pydicom.dcmread(
            path, stop_before_pixels=True, specific_tags=_TAGS, force=True, defer_size=1 << 16
        )
        preamble = dicom_file.has_preamble(path)
        stored_class = str(header.file_meta.get("MediaStorageSOPClassUID", ""))
        if stored_class == _DICOMDIR:
            return []
        sop_class = str(header.get("SOPClassUID") or stored_class)
        if not sop_class and not preamble and not dicom_file.is_named_dicom(path):
            return []  # It only started like DICOM.
        if not sop_class:
            raise ValueError("cut off before the kind of image")
        description = name_part(header.get("SeriesDescription"))
        series_uid = str(header.get("SeriesInstanceUID") or path.parent)
        if reason := _not_ct(header, sop_class):
            return [LeftOut(series_name(description, series_uid), reason)]
        return list(_images(header, path, description, series_uid, sop_class))
    except Exception as error:
        raise dicom_file.damaged(path, error) from None


def series_name(description: str, *identity: Any) -> str:
    """A name for results that holds nothing of the patient: the description and a hash."""
    digest = hashlib.sha256(repr(identity).encode()).hexdigest()
    return f"{description or 'series'}_{digest[:8]}"


def name_part(text: Any) -> str:
    """The letters and digits of a text, with "_" for what is between them; 40 at most."""
    return "_".join(re.findall(r"[A-Za-z0-9]+", str(text or "")))[:40].rstrip("_")


def _not_ct(header: Any, sop_class: str) -> str:
    """Why a file is no CT slice in HU, or an empty text."""
    modality = name_part(header.get("Modality"))
    if modality not in ("CT", ""):
        return f"{modality}, not CT"
    if sop_class not in (CT_IMAGE, *ENHANCED_CT_IMAGES):
        from pydicom.uid import UID

        kind = UID(sop_class).name
        return kind if kind != sop_class else "not a CT image"
    if header.get("SamplesPerPixel", 1) != 1:
        return "a colour picture"
    return _not_a_slice(header.get("ImageType"))


def _not_a_slice(image_type: Any) -> str:
    image_type = [image_type] if isinstance(image_type, str) else image_type or ()
    kinds = {str(kind).upper() for kind in image_type}
    if "LOCALIZER" in kinds:
        return "localizer"
    return "a picture of a screen" if kinds & {"SCREEN SAVE", "DOSE_INFO"} else ""


def _images(
    header: Any, path: Path, description: str, series_uid: str, sop_class: str
) -> Iterator[Slice | LeftOut]:
    """Each image with its geometry, from the header or from its frame's functional groups."""
    name = series_name(description, series_uid)
    shape = int(header.Rows), int(header.Columns)  # Absent where a file is cut off before its end.
    frames = [[header]] if sop_class == CT_IMAGE else frame_sources(header)
    for number, sources in enumerate(frames):
        reason = _not_a_slice(first_value(sources, "FrameType"))
        unit = str(first_value(sources, "RescaleType") or "")
        if not reason and not _MAYBE_HU.fullmatch(unit):
            reason = f"values in {name_part(unit)}, not in HU"
        slope = _number(sources, "RescaleSlope")
        intercept = _number(sources, "RescaleIntercept")
        if not reason and slope == 0:
            reason = "rescale slope 0"
        orientation = numbers(sources, "ImageOrientationPatient", 6)
        position = numbers(sources, "ImagePositionPatient", 3)
        spacing = numbers(sources, "PixelSpacing", 2)
        if not reason and (position is None or not _is_frame(orientation)):
            reason = "no usable position or orientation"
        if not reason and (spacing is None or not (spacing > 0).all()):
            reason = "no usable pixel spacing"
        if reason:
            yield LeftOut(name, reason)
            continue
        assert orientation is not None and position is not None and spacing is not None
        padding = _number(sources, "PixelPaddingValue")
        yield Slice(
            path,
            number,
            series_uid,
            description,
            str(header.get("SOPInstanceUID") or ""),
            int(_number([header], "InstanceNumber") or 0),
            str(header.get("FrameOfReferenceUID") or ""),
            str(header.get("BodyPartExamined") or "").upper(),
            _has_contrast(header),
            shape,
            orientation.reshape(2, 3),
            position,
            spacing[::-1],  # DICOM puts the distance of rows first.
            _positive(_number(sources, "SliceThickness"))
            or _positive(_number(sources, "SpacingBetweenSlices")),
            None if slope is intercept is None else (slope or 1.0, intercept or 0.0),
            None if padding is None else int(padding),
        )


def _has_contrast(header: Any) -> bool:
    """Whether a header names a contrast agent; scanners also write that there was none."""
    if header.get("ContrastBolusAgentSequence"):
        return True
    agent = name_part(header.get("ContrastBolusAgent"))
    return bool(agent) and not _NO_CONTRAST.fullmatch(agent)


def other_body_part(body_part: str) -> bool:
    """Whether a file says that it shows a part of the body without the head."""
    return bool(_OTHER_BODY_PARTS.fullmatch(body_part))


def frame_sources(header: Any) -> list[list[Any]]:
    """Where each frame of a multi-frame file is described: its functional groups, then the header.

    Raises:
        ValueError: some frames are not described.
    """
    shared = list(header.get("SharedFunctionalGroupsSequence") or ())
    per_frame = header.get("PerFrameFunctionalGroupsSequence") or ()
    if len(per_frame) != int(header.get("NumberOfFrames") or 1):
        raise ValueError("frames that are not described")
    return [[*_items(frame), *_items(*shared), header] for frame in per_frame]


def _items(*groups: Any) -> list[Any]:
    """The single items of the sequences in functional groups."""
    elements = (element for group in groups for element in group)
    return [element.value[0] for element in elements if element.VR == "SQ" and element.value]


def first_value(sources: Sequence[Any], keyword: str) -> Any:
    """The value of the first source that has one."""
    return next((s.get(keyword) for s in sources if s.get(keyword) not in (None, "")), None)


def _number(sources: Sequence[Any], keyword: str) -> float | None:
    value = first_value(sources, keyword)
    return None if value is None or not np.isfinite(float(value)) else float(value)


def _positive(value: float | None) -> float | None:
    return value if value and value > 0 else None


def numbers(sources: Sequence[Any], keyword: str, length: int) -> np.ndarray | None:
    """Finite numbers of a header, or None where they are absent, empty or not numbers."""
    try:
        values = np.array(first_value(sources, keyword), float)
    except (TypeError, ValueError):
        return None
    return values if values.shape == (length,) and np.isfinite(values).all() else None


def _is_frame(orientation: np.ndarray | None) -> bool:
    """Whether two vectors have length 1 and are at right angles, as far as files are written."""
    if orientation is None:
        return False
    axes = orientation.reshape(2, 3)
    return bool(np.allclose(axes @ axes.T, np.eye(2), atol=0.01))
