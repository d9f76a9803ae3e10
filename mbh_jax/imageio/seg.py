"""Masks as DICOM SEG: segments over the images of the series, where each of them lies.

The file refers to the images and carries the patient's data of the series, as the standard asks.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mbh_jax import files
from mbh_jax.errors import UserError
from mbh_jax.imageio.dicom import Series
from mbh_jax.imageio.dicom_file import import_pydicom
from mbh_jax.imageio.volume import Volume, turn_to_stored
from mbh_jax.labels import FOREGROUND, LABELS

SNOMED: dict[str, tuple[str, str]] = {
    "EDH": ("82999001", "Epidural hemorrhage"),
    "IPH": ("274100004", "Cerebral hemorrhage"),
    "IVH": ("23276006", "Intraventricular hemorrhage"),
    "SAH": ("21454007", "Subarachnoid hemorrhage"),
    "SDH": ("35486000", "Subdural hemorrhage"),
}
"""SNOMED CT code and meaning of each class, as the Human Phenotype Ontology refers to them."""

_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
_MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"),
    *("StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
"""What a CT image must have, empty or not, and what files lack that were anonymised carelessly."""


def check_installed() -> None:
    """Whether DICOM SEG can be written.

    Raises:
        UserError: highdicom is not installed.
    """
    try:
        import highdicom  # noqa: F401
    except ImportError:
        raise UserError('DICOM SEG needs highdicom: pip install "mbh_jax[dicom]"') from None


def write_seg(
    path: Path, mask: np.ndarray, volume: Volume, series: Series, *, model: str, version: str
) -> None:
    """Writes a mask as a BINARY segmentation; segment numbers are label values.

    Args:
        path: replaced only once the new file is whole.
        mask: (slices, rows, columns) uint8 label values in the program's orientation.
        volume: of the same series.
        series: the images that are referred to.
        model: what made the mask.
        version: of this program.

    Raises:
        UserError: the series lacks what a segmentation must refer to.
        ValueError: there is no blood in the mask.
    """
    if not mask.any():
        raise ValueError("an empty mask")
    sources, frames = _sources(mask, volume, series)
    segmentation = _segmentation(sources, frames, model, version)
    with files.atomic_path(path) as partial:
        segmentation.save_as(partial)


def _sources(mask: np.ndarray, volume: Volume, series: Series) -> tuple[list[Any], np.ndarray]:
    """The headers of the source images, and the labels of all their frames, in the same order."""
    pydicom = import_pydicom()
    slices = series.stack.slices
    stored, _ = turn_to_stored(mask, volume.affine, volume.stored_axcodes)
    labels = np.ascontiguousarray(stored.transpose(2, 1, 0))
    paths = list(dict.fromkeys(one.path for one in slices))
    sources = [pydicom.dcmread(path, stop_before_pixels=True, force=True) for path in paths]
    for source in sources:
        for keyword in _NEEDED:
            if not source.get(keyword):
                raise UserError(f"its files have no {keyword}, which a DICOM SEG must refer to")
        for keyword in _MAY_BE_EMPTY:
            if keyword not in source:
                setattr(source, keyword, "")
    num_frames = int(sources[0].get("NumberOfFrames") or 1)
    if len(sources) == len(slices):
        return sources, labels
    if len(sources) > 1:
        raise UserError("the series is in several multi-frame files")
    frames = np.zeros((num_frames, *labels.shape[1:]), np.uint8)
    frames[[one.frame for one in slices]] = labels
    return sources, frames


def _segmentation(sources: Sequence[Any], frames: np.ndarray, model: str, version: str) -> Any:
    import highdicom
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=f"mbh_jax {model}"[:64], family=codes.DCM.ArtificialIntelligence, version=version
    )
    segments = []
    for value in FOREGROUND:
        label = LABELS[value]
        code, meaning = SNOMED[label.name]
        segments.append(
            highdicom.seg.SegmentDescription(
                segment_number=value,
                segment_label=label.name,
                segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
                segmented_property_type=Code(code, "SCT", meaning),
                algorithm_type="AUTOMATIC",
                algorithm_identification=algorithm,
                tracking_id=label.name,
                tracking_uid=highdicom.UID(),
                anatomic_regions=[codes.SCT.Brain],
                display_color=highdicom.color.CIELabColor.from_rgb(*label.rgb),
            )
        )
    return highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=frames,
        segmentation_type="BINARY",
        segment_descriptions=segments,
        series_instance_uid=highdicom.UID(),
        series_number=1000,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="mbh_jax",
        manufacturer_model_name="mbh_jax",
        software_versions=version,
        device_serial_number="none",
        content_label="HAEMORRHAGE",
        content_description="Research only: not a medical device",
        series_description="Haemorrhage, research only",
    )
