"""What a prediction leaves on disk: mask, picture and report of each scan, and a table of all."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mbh_jax import files
from mbh_jax.errors import UserError
from mbh_jax.imageio import nifti, seg
from mbh_jax.imageio.dicom import Series
from mbh_jax.imageio.readers import Scan
from mbh_jax.imageio.volume import Volume, turn_to_stored
from mbh_jax.inference.predictor import Prediction
from mbh_jax.inference.probabilities import write_probabilities
from mbh_jax.labels import CLASS_NAMES, FOREGROUND
from mbh_jax.log import log
from mbh_jax.reporting.overlays import colourise, tint
from mbh_jax.reporting.scan_sheet import DISCLAIMER, scan_sheet
from mbh_jax.reporting.viewer.embed import Grid
from mbh_jax.reporting.viewer.page import write_page

OVERLAYS_DIR = "overlays"
"""The folder, beside the masks, of pictures with their masks over them."""

CSV_COLUMNS = (
    "scan",
    *(f"{CLASS_NAMES[label]}_ml" for label in FOREGROUND),
    *("any_ml", "slices_with_blood", "largest_lesion_ml", "largest_lesion_abc2_ml"),
    *(f"{CLASS_NAMES[label]}_pixels" for label in FOREGROUND),
    *("any_pixels", "largest_lesion_pixels", "warnings"),
)

_REPORT_OF_ALL = re.compile(r"report(_\d+_of_\d+)?", re.IGNORECASE)
"""The reports of all scans, or of those of a shard, without the suffix."""


def check_names(scans: Sequence[Scan]) -> None:
    """Refuses a scan whose report would have the name of the report of all scans.

    Raises:
        UserError: there is one.
    """
    for scan in scans:
        if _REPORT_OF_ALL.fullmatch(scan.name):
            raise UserError(f"{scan.path}: {scan.name}.json is the report of all scans: rename it")


def is_done(
    output: Path, scan: Scan, made_by: dict[str, Any], *, with_probabilities: bool = False
) -> bool:
    """Whether a scan has its results, and its probabilities where they are asked for.

    Raises:
        UserError: they are of other models or settings.
    """
    path = output / f"{scan.name}.json"
    if not path.is_file():
        return False
    report = _read_report(path)
    if report is None:
        return False
    if report["made_by"] != files.json_ready(made_by):
        raise UserError(
            f"{path}: made with other models or settings: give --overwrite, or another --output"
        )
    return not with_probabilities or (output / f"{scan.name}.npz").is_file()


def has_report(output: Path, scan: Scan) -> bool:
    """Whether a scan has a report, whatever made it."""
    return (output / f"{scan.name}.json").is_file()


def finished(output: Path) -> dict[str, dict[str, Any]]:
    """What made the results of each finished scan of a folder, by the scan's name."""
    found = {}
    for path in sorted(output.glob("*.json")):
        report = _read_report(path)
        if report is not None and report.get("scan") == path.name.removesuffix(".json"):
            found[report["scan"]] = report["made_by"]
    return found


def _read_report(path: Path) -> dict[str, Any] | None:
    """A scan's report; None where there is none, or it is damaged."""
    try:
        report = json.loads(path.read_text())
        return report if {"made_by", "classes", "warnings"} <= report.keys() else None
    except (FileNotFoundError, ValueError, AttributeError):
        return None


def write_results(
    output: Path,
    scan: Scan,
    prediction: Prediction,
    made_by: dict[str, Any],
    version: str,
    *,
    html: bool = False,
) -> None:
    """Writes the results of a scan, the report last.

    Args:
        output: folder of the results.
        scan: what was predicted.
        prediction: what was found.
        made_by: models and settings, by which a later call knows these results again.
        version: of this program, for DICOM.
        html: also write a page that shows the scan and its mask; not of a picture.
    """
    volume, mask = prediction.volume, prediction.mask
    if not scan.is_picture:
        nifti.write_label(output / f"{scan.name}.nii.gz", mask, volume)
    npz = output / f"{scan.name}.npz"
    if prediction.probabilities is None:
        npz.unlink(missing_ok=True)  # Of another model.
    else:
        write_probabilities(npz, prediction.probabilities, volume)
    if scan.is_picture:
        picture, its_mask = (
            turn_to_stored(array, volume.affine, volume.stored_axcodes)[0][..., 0].T
            for array in (volume.hu, mask)
        )
        shown = {OVERLAYS_DIR: tint(picture, its_mask), ".": colourise(its_mask)}
    else:
        shown = {".": scan_sheet(volume.hu, mask, name=scan.name, millilitres=prediction.ml)}
    for folder, rgb in shown.items():
        files.atomic_write_bytes(output / folder / f"{scan.name}.png", files.png_bytes(rgb))
    report = {
        "scan": scan.name,
        "note": DISCLAIMER,
        "slices": len(mask),
        "rows": mask.shape[1],
        "columns": mask.shape[2],
        "spacing_mm": volume.spacing_mm if volume.spacing_known else None,
        "classes": {name: one._asdict() for name, one in prediction.measurements.items()},
        "warnings": prediction.warnings,
        "made_by": made_by,
    }
    if volume.slice_mm is not None:
        report["slice_mm"] = volume.slice_mm
    if scan.series is not None:
        model = ", ".join(f"{one['workdir']} step {one['step']}" for one in made_by["models"])
        path = output / f"{scan.name}.seg.dcm"
        report["dicom_seg"] = _write_seg(
            path, scan.series, prediction, model=model, version=version
        )
    page = output / f"{scan.name}.html"
    page.unlink(missing_ok=True)  # Of another mask.
    if html and not scan.is_picture:
        _write_page(page, volume, mask, files.json_ready(report))
    files.write_json(output / f"{scan.name}.json", report)


def write_missing_page(output: Path, scan: Scan) -> None:
    """Writes the page of a scan that was predicted without one; does nothing if it is there.

    Raises:
        UserError: the scan or its mask cannot be read, or they do not fit together any more.
    """
    page = output / f"{scan.name}.html"
    if page.is_file():
        return
    report = _read_report(output / f"{scan.name}.json")
    assert report is not None, "only of a scan that is done"
    path = output / f"{scan.name}.nii.gz"
    volume, (mask, _) = scan.read(), nifti.read_label(path)
    if mask.shape != volume.shape:
        raise UserError(f"{path}: not of the grid of {scan.path}: give --overwrite")
    _write_page(page, volume, mask, report)


def _write_page(path: Path, volume: Volume, mask: np.ndarray, report: dict[str, Any]) -> None:
    write_page(path, Grid(volume.hu, mask, volume.affine), report)


def _write_seg(
    path: Path, series: Series, prediction: Prediction, *, model: str, version: str
) -> str:
    """Writes a DICOM SEG; returns the name of the file, or why there is none."""
    path.unlink(missing_ok=True)  # Of another model, which may have found blood.
    reason = "no blood found"
    volume, mask = prediction.volume, prediction.mask
    if mask.any():
        try:
            seg.write_seg(path, mask, volume, series, model=model, version=version)
            return path.name
        except UserError as error:
            reason = str(error)
    log.info("%s not written: %s", path.name, reason)
    return f"not written: {reason}"


def write_table(
    output: Path, names: Sequence[str], made_by: dict[str, Any], *, suffix: str = ""
) -> None:
    """Writes volumes.csv and report.json over the scans predicted by these models and settings.

    volumes.csv has a row for each scan, report.json is a list of their reports.

    Args:
        output: folder of the results.
        names: of the scans.
        made_by: models and settings.
        suffix: what both names end with, for the part of the scans that is one shard.
    """
    rows, reports = [], []
    for name in names:
        report = _read_report(output / f"{name}.json")
        if report is None or report["made_by"] != files.json_ready(made_by):
            continue
        reports.append(report)
        found = report["classes"]
        rows.append(
            {
                "scan": name,
                **{f"{CLASS_NAMES[c]}_ml": found[CLASS_NAMES[c]]["ml"] for c in FOREGROUND},
                "any_ml": found["any"]["ml"],
                "slices_with_blood": found["any"]["num_slices"],
                "largest_lesion_ml": found["any"]["largest_lesion_ml"],
                "largest_lesion_abc2_ml": found["any"]["abc2_ml"],
                # Reports of an earlier version do not hold pixels.
                **{
                    f"{CLASS_NAMES[c]}_pixels": found[CLASS_NAMES[c]].get("num_pixels")
                    for c in FOREGROUND
                },
                "any_pixels": found["any"].get("num_pixels"),
                "largest_lesion_pixels": found["any"].get("largest_lesion_pixels"),
                "warnings": "; ".join(report["warnings"]),
            }
        )
    files.write_json(output / f"report{suffix}.json", reports)
    files.write_csv(output / f"volumes{suffix}.csv", CSV_COLUMNS, rows)
