"""Predicts scans with a trained network: masks, pictures and millilitres.

    python -m mbh_jax.predict --model runs/quickstart --input scans/ --output out/

For research: not a medical device.
"""

from mbh_jax.errors import end_at_first_signal

if __name__ == "__main__":
    end_at_first_signal()  # Before the imports, which take a while.

import argparse
import concurrent.futures
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from mbh_jax import __version__, files
from mbh_jax.errors import UserError, one_line_errors
from mbh_jax.imageio import seg
from mbh_jax.imageio.readers import Scan, find_scans
from mbh_jax.log import log, start_logging
from mbh_jax.reporting.scan_sheet import DISCLAIMER
from mbh_jax.runtime import huge_pages


def predict_scans(
    models: Sequence[epath.Path],
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
    from mbh_jax.inference import results
    from mbh_jax.inference.predictor import load
    from mbh_jax.reporting.progress import Progress
    from mbh_jax.runtime.preemption import StopRequest
    from mbh_jax.training import checksums

    if any(scan.series for scan in scans):
        seg.check_installed()
    predictor = load(*models, checkpoint=checkpoint, batch_size=batch_size, mirror=mirror)
    made_by = {
        "models": [
            {
                "workdir": model.name,
                "checkpoint": checkpoint,
                "step": trained.step,
                "weights": checksums.of_arrays(trained.variables),
            }
            for model, trained in zip(models, predictor.networks, strict=True)
        ],
        "mirror": mirror,
    }
    left = scans if overwrite else [s for s in scans if not results.is_done(output, s, made_by)]
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
                writing = writer.submit(
                    results.write_results, output, scan, prediction, made_by, __version__
                )
            progress.update(number)
        if writing is not None:
            writing.result()
    results.write_table(output, scans, made_by)
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


def _model_path(text: str) -> epath.Path:
    try:
        return files.user_path(text, "--model")
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m mbh_jax.predict",
        description=(__doc__ or "").splitlines()[0],
        epilog=DISCLAIMER,
    )
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        type=_model_path,
        help="workdir of a run, or a bundle; given several times, their probabilities are averaged",
    )
    parser.add_argument(
        "--input",
        type=files.local_path,
        required=True,
        help="a scan (NIfTI, MetaImage or DICOM), or a folder with scans at any depth",
    )
    parser.add_argument(
        "--output", type=files.local_path, required=True, help="folder of the results"
    )
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
        print(DISCLAIMER)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        raise SystemExit(1)


if __name__ == "__main__":
    huge_pages.use_huge_pages()
    main()
