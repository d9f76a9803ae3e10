"""Scores a folder of masks against a folder of references, whoever made the masks.

    python -m mbh_jax.evaluate --predictions DIR --references DIR [--output DIR]

Masks are NIfTI volumes or coloured PNG pictures. A run's own evaluation is
`python -m mbh_jax.main --workdir=... --mode=evaluate`, which writes the same files.
"""

from mbh_jax.errors import STARTS_AGAIN, end_at_first_signal

if __name__ == "__main__":
    end_at_first_signal(STARTS_AGAIN)  # Before the imports, which take a while.

import argparse
import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mbh_jax import files
from mbh_jax.errors import UserError, one_line_errors, stop_at_signals
from mbh_jax.evaluation import folders, summary
from mbh_jax.evaluation.case_table import RULES, ScoredCase, case_rows
from mbh_jax.evaluation.side_files import read_label_map, read_patients
from mbh_jax.imageio import nifti
from mbh_jax.log import log, start_logging
from mbh_jax.reporting import tables
from mbh_jax.reporting.progress import Progress

if TYPE_CHECKING:
    from mbh_jax.reporting.report.cases import CaseImages

_NAMED = 5
"""So many missing masks are named in a warning; all stand in the summary."""


def evaluate_folders(
    predictions: Path,
    references: Path,
    output: Path | None = None,
    *,
    labels: Path | None = None,
    prediction_labels: Path | None = None,
    patients: Path | None = None,
    rules: Sequence[str] = (),
    by_index: bool = False,
    images: Path | None = None,
    workers: int | None = None,
) -> summary.Summary:
    """Scores the masks of a folder, prints the table, and writes the files of an evaluation.

    Args:
        predictions: folder of masks, called as their references.
        references: folder of masks. A reference without a prediction counts as missed.
        output: folder of the results; None: the table is printed alone.
        labels: JSON that says which value of the masks is which class, see
            `mbh_jax.evaluation.side_files.read_label_map`.
        prediction_labels: such a JSON for the predictions alone, instead of `labels`.
        patients: CSV that says whose each case is, see
            `mbh_jax.evaluation.side_files.read_patients`; None: each is of another patient.
        rules: challenges whose own scores are added, of `case_table.RULES`.
        by_index: compare voxels of equal index although affines differ.
        images: folder of the scans as NIfTI, called as the references, for the pictures of the
            report; None, or where one is missing: its contours stand on black.
        workers: processes that score; None: one for each core.

    Raises:
        UserError: the folders, the JSON, the CSV or a mask cannot be used. Nothing is written.
    """
    of_references, of_predictions = (
        None if path is None else read_label_map(path)
        for path in (labels, prediction_labels or labels)
    )
    reading = folders.Reading(of_references, of_predictions, by_index)
    pairs, others = folders.find_pairs(predictions, references)
    names = [pair.case for pair in pairs]
    patient_of = None if patients is None else read_patients(patients, names)
    scans = {} if images is None else _find_images(images, pairs)
    missing = [pair.case for pair in pairs if pair.prediction is None]
    warnings = []
    if missing:
        warnings.append(f"no prediction, counted as missed: {_names(missing)}")
    if others:
        warnings.append(f"no reference, left out: {_names(others)}")
    with contextlib.nullcontext() if output is None else files.whole_files(output) as folder:
        scored = []
        with Progress(len(pairs), label="scoring", enabled=True) as progress:
            for case in folders.score_folders(pairs, reading, rules=rules, workers=workers):
                scored.append(case)
                progress.update(len(scored))
        found = summary.summarize(
            scored,
            patients=None if patient_of is None else [patient_of[name] for name in names],
            mask_files=[
                (str(pair.reference), str(pair.prediction or predictions / pair.reference.name))
                for pair in pairs
            ],
            facts={
                "provenance": {"predictions": str(predictions), "references": str(references)},
                "missing_predictions": missing,
                "without_reference": others,
                "warnings": warnings,
            },
        )
        if folder is not None:
            by_case = {pair.case: pair for pair in pairs}
            images_of = functools.partial(_images_of, by_case, reading, scans)
            _write_report(folder, found, scored, images_of)
            summary.write_evaluation(folder, found, scored, rules)
    if output is not None:
        log.info("wrote %s", output)
    tables.print_table(found)
    return found


def _write_report(
    output: Path,
    found: summary.Summary,
    scored: Sequence[ScoredCase],
    images: "Callable[[str], CaseImages]",
) -> None:
    # Here, so that a table alone needs none of what draws.
    from mbh_jax.reporting.report.page import REPORT_FILE, ReportContents, write_report

    contents = ReportContents(
        title=f"{found['provenance']['predictions']} against {found['provenance']['references']}",
        summary=found,
        case_rows=case_rows(scored),
        images=images,
    )
    write_report(output / REPORT_FILE, contents)


def _images_of(
    pairs: Mapping[str, folders.Pair],
    reading: folders.Reading,
    scans: Mapping[str, Path],
    case: str,
) -> "CaseImages":
    """What the report shows of a case; contours alone where there is no scan."""
    from mbh_jax.reporting.report.cases import CaseImages

    reference, prediction, affine = folders.read_pair(pairs[case], reading)
    if case not in scans:
        return CaseImages(None, reference, prediction)
    path, volume = scans[case], nifti.read_volume(scans[case])
    if volume.shape != reference.shape:
        raise UserError(f"{path}: its masks have another shape: give the scan of them")
    if affine is not None and not reading.by_index:
        mask = pairs[case].reference
        folders.check_same_place(path, volume.affine, mask, affine, reference.shape)
    return CaseImages(volume.hu, reference, prediction)


def _find_images(folder: Path, pairs: Sequence[folders.Pair]) -> dict[str, Path]:
    """The scan of each case that has one; nnU-Net's users call its first channel `_0000`."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    found = {
        pair.case: path
        for pair in pairs
        for name in (pair.case, f"{pair.case}_0000")
        for path in (folder / f"{name}.nii.gz", folder / f"{name}.nii")
        if path.is_file()
    }
    if not found:
        raise UserError(f"{folder}: holds no scan of a case, such as {pairs[0].case}.nii.gz")
    return found


def _names(cases: Sequence[str]) -> str:
    more = f" and {len(cases) - _NAMED} more" if len(cases) > _NAMED else ""
    return ", ".join(cases[:_NAMED]) + more


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m mbh_jax.evaluate", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--predictions", type=files.local_path, required=True, help="masks to score"
    )
    parser.add_argument("--references", type=files.local_path, required=True, help="true masks")
    parser.add_argument("--output", type=files.local_path, help="folder of the results")
    parser.add_argument(
        "--labels",
        type=files.local_path,
        metavar="JSON",
        help='which label value is which class: {"1": "EDH", ...}, or nnU-Net\'s dataset.json '
        "(default: 1 EDH, 2 IPH, 3 IVH, 4 SAH, 5 SDH)",
    )
    parser.add_argument(
        "--prediction_labels",
        type=files.local_path,
        metavar="JSON",
        help="the same for the predictions alone, where they differ from the references",
    )
    parser.add_argument(
        "--patients",
        type=files.local_path,
        metavar="CSV",
        help="whose each case is: volume_id,patient_id (default: each of another patient)",
    )
    parser.add_argument(
        "--rules", action="append", choices=RULES, default=[], help="also score as a challenge does"
    )
    parser.add_argument(
        "--images",
        type=files.local_path,
        help="folder of the scans as NIfTI, for the pictures of the report",
    )
    parser.add_argument(
        "--by_index",
        action="store_true",
        help="compare voxels of equal index although affines differ",
    )
    parser.add_argument("--workers", type=int, help="processes (default: one for each core)")
    chosen = parser.parse_args(arguments)
    start_logging()
    with one_line_errors(), stop_at_signals(STARTS_AGAIN):
        if chosen.workers is not None and chosen.workers < 1:
            raise UserError(f"--workers {chosen.workers}: give 1 or more")
        masks = (chosen.predictions, chosen.references)
        if chosen.output and chosen.output.resolve() in [folder.resolve() for folder in masks]:
            raise UserError(f"--output {chosen.output}: give another folder than that of the masks")
        if masks[0].resolve() == masks[1].resolve():
            raise UserError(f"--predictions and --references are both {masks[0]}: give two folders")
        evaluate_folders(
            chosen.predictions,
            chosen.references,
            chosen.output,
            labels=chosen.labels,
            prediction_labels=chosen.prediction_labels,
            patients=chosen.patients,
            rules=tuple(dict.fromkeys(chosen.rules)),
            by_index=chosen.by_index,
            images=chosen.images,
            workers=chosen.workers,
        )


if __name__ == "__main__":
    main()
