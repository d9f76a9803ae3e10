"""CT series written with pydicom, as a scanner would; geometry worked out here, not by mbh_jax."""

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_ct import tiny_volume

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed: the dicom extra")

CT = "1.2.840.10008.5.1.4.1.1.2"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
PIXEL_MM = 0.5

SERIES: dict[str, tuple[list[float], float, dict[str, Any]]] = {
    "plain": ([0, 5, 10, 15, 20], 0, {}),
    "tilted": ([0, 5, 10, 15, 20], 15, {}),
    "descending": ([20, 15, 10, 5, 0], 0, {}),
    "uneven": ([0, 5, 12, 17, 21], 0, {}),
    "missing": ([0, 5, 10, 20, 25], 0, {}),
    "turned": ([0, 5, 10, 15, 20], 0, {"ImageOrientationPatient": [-1, 0, 0, 0, -1, 0]}),
}
"""Heights in mm, gantry tilt in degrees and changed tags of five slices, by what is special."""


def program(name: str) -> str:
    """A program that was installed with the interpreter's packages, or skips the test."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    return found or pytest.skip(f"{name} is not installed: the dev extra")


def uid() -> str:
    """A new unique identifier."""
    return str(pydicom.uid.generate_uid())


def series_tags(**changed: Any) -> dict[str, Any]:
    """What all slices of a series have in common."""
    return {
        "SOPClassUID": CT,
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "PatientName": "DOE^JANE",
        "PatientID": "PID-4711",
        "PatientBirthDate": "19560102",
        "PatientSex": "F",
        "StudyDate": "20260304",
        "StudyTime": "050607",
        "AccessionNumber": "ACC-815",
        "StudyID": "1",
        "ReferringPhysicianName": "",
        "Manufacturer": "synthetic",
        "StudyInstanceUID": uid(),
        "SeriesInstanceUID": uid(),
        "SeriesNumber": 2,
        "SeriesDescription": "Head 5mm / brain",
        "FrameOfReferenceUID": uid(),
        "PositionReferenceIndicator": "",
        "AcquisitionNumber": 1,
        "KVP": 120,
        "PatientPosition": "HFS",
        "ImageOrientationPatient": list(AXIAL),
        "PixelSpacing": [PIXEL_MM, PIXEL_MM],
        "SliceThickness": 5,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "RescaleIntercept": -1024,
        "RescaleSlope": 1,
        "RescaleType": "HU",
        **changed,
    }


def head(num_slices: int, size: int = 64) -> np.ndarray:
    """(slices, rows, columns) HU; every slice differs from the others, and has no symmetry."""
    hu = np.ascontiguousarray(tiny_volume(7, num_slices, size)[0].transpose(2, 1, 0)).astype(int)
    hu[:, 2, 5] = 100 + np.arange(num_slices)
    return hu


def positions(z_mm: Any, tilt_degrees: float = 0.0) -> tuple[list[float], np.ndarray]:
    """Orientation and (slices, 3) positions of slices at table positions `z_mm`.

    A tilted gantry turns the slices about the x axis, while the table still moves along z.
    """
    angle = np.deg2rad(tilt_degrees)
    cosine, sine = round(float(np.cos(angle)), 10), round(float(np.sin(angle)), 10)
    orientation = [1.0, 0.0, 0.0, 0.0, cosine, sine]
    return orientation, np.array([[-16.0, -16.0, z] for z in np.asarray(z_mm, float)])


def data_set(tags: dict[str, Any], hu: np.ndarray, **changed: Any) -> Any:
    """One CT image as a pydicom data set; stored values follow from slope and intercept."""
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    for keyword, value in {"SOPInstanceUID": uid(), **tags, **changed}.items():
        if value is not None:
            setattr(data, keyword, value)
    data.Rows, data.Columns = hu.shape
    slope, intercept = float(data.get("RescaleSlope") or 1), float(data.get("RescaleIntercept", 0))
    kind = np.int16 if data.PixelRepresentation else np.uint16
    data.PixelData = np.rint((hu - intercept) / slope).astype(kind).tobytes()
    data["PixelData"].VR = "OW"
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    return data


def write_series(
    folder: Path,
    hu: np.ndarray,
    positions_mm: np.ndarray,
    *,
    tags: dict[str, Any] | None = None,
    each: dict[int, dict[str, Any]] | None = None,
    names: str = "IM{:04d}",
) -> list[Path]:
    """Writes a file for each slice.

    Args:
        folder: made if it is not there.
        hu: (slices, rows, columns).
        positions_mm: (slices, 3).
        tags: what the slices have in common.
        each: changed tags by the number of the slice.
        names: how files are called by their number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tags = tags or series_tags()
    paths = []
    for number, (plane, position) in enumerate(zip(hu, positions_mm, strict=True)):
        changed = {
            "InstanceNumber": number + 1,
            "ImagePositionPatient": [float(x) for x in position],
            **(each or {}).get(number, {}),
        }
        data = data_set(tags, plane, **changed)
        paths.append(folder / names.format(number))
        data.save_as(paths[-1], enforce_file_format=True)
    return paths


def write_head(folder: Path, num_slices: int = 6, **options: Any) -> list[Path]:
    """A plain head series, 5 mm apart."""
    z_mm = -20.0 + 5 * np.arange(num_slices)
    return write_series(folder, head(num_slices), positions(z_mm)[1], **options)


def write_multi_frame(path: Path, hu: np.ndarray, positions_mm: np.ndarray) -> None:
    """An Enhanced CT file; slope and intercept differ from frame to frame."""
    tags = series_tags(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1",
        ImagePositionPatient=None,
        ImageOrientationPatient=None,
        PixelSpacing=None,
        SliceThickness=None,
        RescaleSlope=None,
        RescaleIntercept=None,
        RescaleType=None,
    )
    data = data_set(tags, hu[0], InstanceNumber=1)
    data.NumberOfFrames = len(hu)

    def item(**values: Any) -> Any:
        found = pydicom.Dataset()
        for keyword, value in values.items():
            setattr(found, keyword, value)
        return found

    measures = item(PixelSpacing=[PIXEL_MM, PIXEL_MM], SliceThickness=5)
    plane = item(ImageOrientationPatient=list(AXIAL))
    data.SharedFunctionalGroupsSequence = [
        item(PixelMeasuresSequence=[measures], PlaneOrientationSequence=[plane])
    ]
    frames, pixels = [], []
    for number, (image, position) in enumerate(zip(hu, positions_mm, strict=True)):
        intercept = -1024 - 10 * number
        rescale = item(RescaleIntercept=intercept, RescaleSlope=1, RescaleType="HU")
        place = item(ImagePositionPatient=[float(x) for x in position])
        content = item(FrameAcquisitionNumber=1, DimensionIndexValues=[number + 1])
        frames.append(
            item(
                FrameContentSequence=[content],
                PlanePositionSequence=[place],
                PixelValueTransformationSequence=[rescale],
            )
        )
        pixels.append((image - intercept).astype(np.uint16))
    data.PerFrameFunctionalGroupsSequence = frames
    data.PixelData = np.array(pixels).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
