"""Predicts scans with a trained network: masks, pictures and millilitres.

    python -m mbh_jax.predict --model runs/quickstart --input scans/ --output out/

For research: not a medical device.
"""

import argparse
import concurrent.futures
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mbh_jax import __version__, files
from mbh_jax.errors import UserError, one_line_errors
from mbh_jax.imageio import seg
from mbh_jax.imageio.dicom import Series
from mbh_jax.imageio.readers import Scan, find_scans
from mbh_jax.labels import CLASS_NAMES, FOREGROUND
from mbh_jax.log import log, start_logging
from mbh_jax.runtime import huge_pages

CSV_COLUMNS = (
    "scan",
    *(f"{CLASS_NAMES[label]}_ml" for label in FOREGROUND),
    *("any_ml", "slices_with_blood", "largest_lesion_ml", "largest_lesion_abc2_ml", "warnings"),
)

_DISCLAIMER = "research only: not a medical device"


def predict_scans(
    models: Sequence[str],
    scans: Sequence[Scan],
    output: Path,
    *,
    checkpoint: str = "best",
    batch_size: int = 4,
    mirror: bool = False,
    overwrite: bool = False,
) -> list[str]:
    """Predicts scans that are not predicted yet, and writes volumes.csv over all of them.

    Writes for each scan `<name>.nii.gz`, the mask on the scan's own grid, `<name>.png`, its slices
    with blood, for DICOM `<name>.seg.dcm`, the mask as DICOM SEG, and last `<name>.json`, which
    says that the scan is done. One scan is read and one is written while a third is on the device.

    Args:
        models: workdirs of runs, or bundles; of several, the mean of their probabilities decides.
        scans: what to predict.
        output: folder of the results.
        checkpoint: "best" or "last".
        batch_size: slices predicted at a time.
        mirror: also predict every slice mirrored left to right, and average.
        overwrite: predict scans again whose results are there.

    Returns:
        What was wrong with the scans that could not be predicted, a line each.

    Raises:
        UserError: a model cannot be used, a package for DICOM is missing, or the results there are
            of other models or settings.
        Stopped: SIGTERM or Ctrl-C came; what was written is whole.
    """
    from mbh_jax.inference.predictor import load
    from mbh_jax.reporting.progress import Progress
    from mbh_jax.runtime.preemption import StopRequest

    if any(scan.series for scan in scans):
        seg.check_installed()
    predictor = load(*models, checkpoint=checkpoint, batch_size=batch_size, mirror=mirror)
    made_by = {
        "models": [
            {"workdir": Path(model).name, "checkpoint": checkpoint, "step": trained.step}
            for model, trained in zip(models, predictor.networks, strict=True)
        ],
        "mirror": mirror,
    }
    left = scans if overwrite else [s for s in scans if not _is_done(output, s, made_by)]
    if len(left) < len(scans):
        log.info("%d of %d scans are done already", len(scans) - len(left), len(scans))
    problems: list[str] = []
    with (
        StopRequest() as stop,
        Progress(len(left), label="predicting") as progress,
        concurrent.futures.ThreadPoolExecutor(1) as writer,
    ):
        writing: concurrent.futures.Future[None] | None = None
        for number, (scan, volume) in enumerate(_read_ahead(left), 1):
            stop.raise_if_set()
            if isinstance(volume, UserError):
                problems.append(str(volume))
            else:
                prediction = predictor.predict(volume)
                if writing is not None:
                    writing.result()
                writing = writer.submit(_write, output, scan, prediction, made_by)
            progress.update(number)
        if writing is not None:
            writing.result()
    _write_table(output, scans)
    return problems


def _read_ahead(scans: Sequence[Scan]) -> Iterator[tuple[Scan, Any]]:
    """Yields each scan and its volume, or the error of reading it, with one being read ahead."""

    def read(scan: Scan) -> Any:
        try:
            return scan.read()
        except UserError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(1) as reader:
        coming = reader.submit(read, scans[0]) if scans else None
        for number, scan in enumerate(scans, 1):
            assert coming is not None
            volume = coming.result()
            coming = reader.submit(read, scans[number]) if number < len(scans) else None
            yield scan, volume


def _is_done(output: Path, scan: Scan, made_by: dict[str, Any]) -> bool:
    """Whether a scan has its results.

    Raises:
        UserError: they are of other models or settings.
    """
    path = output / f"{scan.name}.json"
    if not path.is_file():
        return False
    try:
        found = json.loads(path.read_text())["made_by"]
    except (ValueError, KeyError, TypeError):
        return False
    if found != files.json_ready(made_by):
        raise UserError(
            f"{path}: made with other models or settings: give --overwrite, or another --output"
        )
    return True


def _write(output: Path, scan: Scan, prediction: Any, made_by: dict[str, Any]) -> None:
    """Writes the results of a scan, the report last."""
    from mbh_jax.imageio.nifti import write_label
    from mbh_jax.reporting.scan_sheet import scan_sheet

    volume, mask = prediction.volume, prediction.mask
    write_label(output / f"{scan.name}.nii.gz", mask, volume)
    sheet = scan_sheet(volume.hu, mask, name=scan.name, millilitres=prediction.ml)
    files.atomic_write_bytes(output / f"{scan.name}.png", files.png_bytes(sheet))
    report = {
        "scan": scan.name,
        "note": _DISCLAIMER,
        "slices": len(mask),
        "spacing_mm": volume.spacing_mm,
        "classes": {name: one._asdict() for name, one in prediction.measurements.items()},
        "warnings": prediction.warnings,
        "made_by": made_by,
    }
    if volume.slice_mm is not None:
        report["slice_mm"] = volume.slice_mm
    if scan.series is not None:
        report["dicom_seg"] = _write_seg(output, scan.name, scan.series, prediction, made_by)
    files.write_json(output / f"{scan.name}.json", report)


def _write_seg(
    output: Path, name: str, series: Series, prediction: Any, made_by: dict[str, Any]
) -> str:
    """Writes a DICOM SEG; returns the name of the file, or why there is none."""
    path = output / f"{name}.seg.dcm"
    path.unlink(missing_ok=True)  # Of another model, which may have found blood.
    model = ", ".join(f"{one['workdir']} step {one['step']}" for one in made_by["models"])
    reason = "no blood found"
    volume, mask = prediction.volume, prediction.mask
    if mask.any():
        try:
            seg.write_seg(path, mask, volume, series, model=model, version=__version__)
            return path.name
        except UserError as error:
            reason = str(error)
    log.info("%s: no DICOM SEG written: %s", name, reason)
    return f"not written: {reason}"


def _write_table(output: Path, scans: Sequence[Scan]) -> None:
    """Writes volumes.csv, a row for each scan that has been predicted."""
    rows = []
    for scan in scans:
        path = output / f"{scan.name}.json"
        if not path.is_file():
            continue
        report = json.loads(path.read_text())
        found = report["classes"]
        rows.append(
            {
                "scan": scan.name,
                **{f"{CLASS_NAMES[c]}_ml": found[CLASS_NAMES[c]]["ml"] for c in FOREGROUND},
                "any_ml": found["any"]["ml"],
                "slices_with_blood": found["any"]["num_slices"],
                "largest_lesion_ml": found["any"]["largest_lesion_ml"],
                "largest_lesion_abc2_ml": found["any"]["abc2_ml"],
                "warnings": "; ".join(report["warnings"]),
            }
        )
    files.write_csv(output / "volumes.csv", CSV_COLUMNS, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m mbh_jax.predict",
        description=(__doc__ or "").splitlines()[0],
        epilog=_DISCLAIMER,
    )
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        help="workdir of a run, or a bundle; given several times, their probabilities are averaged",
    )
    parser.add_argument(
        "--input",
        type=Path,
        required=True,
        help="a scan (NIfTI or DICOM), or a folder with scans at any depth",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument(
        "--series",
        metavar="TEXT",
        help="of DICOM series, predict only those whose description holds TEXT",
    )
    parser.add_argument("--checkpoint", choices=["best", "last"], default="best")
    parser.add_argument(
        "--tta",
        choices=["none", "mirror"],
        default="none",
        help="test-time augmentation: average with the mirrored slices (default: none)",
    )
    parser.add_argument("--batch_size", type=int, default=4, help="slices at a time (default: 4)")
    parser.add_argument(
        "--overwrite", action="store_true", help="predict scans again whose results are there"
    )
    chosen = parser.parse_args(arguments)
    start_logging()
    with one_line_errors():
        from mbh_jax.runtime import xla

        xla.keep_compiled_programs()
        scans = find_scans(chosen.input, series=chosen.series, skip=chosen.output)
        problems = predict_scans(
            chosen.model,
            scans,
            chosen.output,
            checkpoint=chosen.checkpoint,
            batch_size=chosen.batch_size,
            mirror=chosen.tta == "mirror",
            overwrite=chosen.overwrite,
        )
        done = len(scans) - len(problems)
        print(f"{done} of {len(scans)} scans: masks, pictures and volumes.csv in {chosen.output}")
        print(_DISCLAIMER)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        raise SystemExit(1)


if __name__ == "__main__":
    huge_pages.use_huge_pages()
    main()
