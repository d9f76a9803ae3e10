"""Predicts scans and pictures with a trained network: masks, millilitres and reports.

    python -m mbh_jax.predict --model runs/quickstart --input scans/ --output out/

For research: not a medical device.
"""

from mbh_jax.errors import end_at_first_signal
from mbh_jax.runtime import huge_pages

if __name__ == "__main__":
    # Before the imports, which take a while.
    end_at_first_signal()
    huge_pages.use_huge_pages()

import argparse
import concurrent.futures
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from etils import epath

from mbh_jax import __version__
from mbh_jax.errors import UserError, one_line_errors
from mbh_jax.imageio import seg
from mbh_jax.imageio.readers import Scan, find_scans
from mbh_jax.imageio.volume import Volume
from mbh_jax.inference.arguments import parse_arguments
from mbh_jax.inference.shards import Shard
from mbh_jax.log import log, start_logging
from mbh_jax.reporting.scan_sheet import DISCLAIMER


def predict_scans(
    models: Sequence[epath.Path],
    scans: Sequence[Scan],
    output: Path,
    *,
    checkpoint: str = "best",
    batch_size: int | None = None,
    mirror: bool = False,
    use_tiles: bool = False,
    min_lesion_ml: float = 0.0,
    save_probabilities: bool = False,
    overwrite: bool = False,
    html: bool = False,
    shard: Shard | None = None,
) -> list[str]:
    """Predicts scans that are not predicted yet; writes volumes.csv and report.json over all.

    Writes for each scan `<name>.nii.gz`, the mask on the scan's own grid, `<name>.png`, its slices
    with blood, for DICOM `<name>.seg.dcm`, the mask as DICOM SEG, and last `<name>.json`, which
    says that the scan is done. For a picture `<name>.png` is the mask in colours, and
    `overlays/<name>.png` the picture under it. One scan is read and one is measured and written
    while a third is on the device.

    Args:
        models: workdirs of runs, or bundles; of several, the mean of their probabilities decides.
        scans: what to predict.
        output: folder of the results.
        checkpoint: "best" or "last".
        batch_size: slices predicted at a time; None chooses.
        mirror: also predict every slice mirrored left to right, and average.
        use_tiles: predict slices that are larger than the network's image size in tiles.
        min_lesion_ml: remove lesions that are smaller; 0: none.
        save_probabilities: also write `<name>.npz`, see `mbh_jax.inference.probabilities`.
        overwrite: predict scans again whose results are there.
        html: also write `<name>.html`, a page that shows scan and mask, also of scans that are
            predicted already; not of pictures.
        shard: which part of the scans these are; the table is called after it.

    Returns:
        What was wrong with the scans that could not be predicted, a line each.

    Raises:
        UserError: a model cannot be used, a package for DICOM is missing, or the results there are
            of other models or settings.
        Stopped: SIGTERM or Ctrl-C came; what was written is whole.
    """
    from mbh_jax.inference import results
    from mbh_jax.inference.loading import load
    from mbh_jax.inference.read_ahead import first_shape, in_groups, read_ahead
    from mbh_jax.reporting.progress import Progress
    from mbh_jax.runtime.preemption import StopRequest
    from mbh_jax.training import checksums

    if any(scan.series for scan in scans):
        seg.check_installed()
    waiting = [scan for scan in scans if overwrite or not results.has_report(output, scan)]
    predictor = load(
        *models,
        checkpoint=checkpoint,
        batch_size=batch_size,
        mirror=mirror,
        use_tiles=use_tiles,
        keep_probabilities=save_probabilities,
        min_lesion_ml=min_lesion_ml,
        first_shape=functools.partial(first_shape, waiting) if waiting else None,
    )
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
        "resolution": "tiles" if use_tiles else "resize",
        "min_lesion_ml": min_lesion_ml,
    }
    if any(scan.flip_rows for scan in scans):
        made_by["flip_rows"] = True
    results.check_names(scans)
    output.mkdir(parents=True, exist_ok=True)
    left = [
        scan
        for scan in scans
        if overwrite
        or not results.is_done(output, scan, made_by, with_probabilities=save_probabilities)
    ]
    if len(left) < len(scans):
        log.info("%d of %d scans are done already", len(scans) - len(left), len(scans))
    problems: list[str] = []

    def write(group: Sequence[tuple[Scan, Volume]], found: Sequence[tuple[Any, Any]]) -> None:
        for (scan, volume), masks in zip(group, found, strict=True):
            prediction = predictor.describe(volume, *masks)
            results.write_results(output, scan, prediction, made_by, __version__, html=html)

    with (
        StopRequest() as stop,
        Progress(len(left), label="predicting") as progress,
        concurrent.futures.ThreadPoolExecutor(1) as writer,
    ):
        writing: concurrent.futures.Future[None] | None = None
        number = 0
        for read in in_groups(read_ahead(left, predictor.check), predictor.batch_size):
            stop.raise_if_set()
            problems += [str(volume) for _, volume in read if isinstance(volume, UserError)]
            group = [(scan, volume) for scan, volume in read if isinstance(volume, Volume)]
            if group:
                found = predictor.predict_volumes([volume for _, volume in group])
                if writing is not None:
                    writing.result()
                writing = writer.submit(write, group, found)
            number += len(read)
            progress.update(number)
        if writing is not None:
            writing.result()
        if html:
            predicted = {scan.name for scan in left}
            for scan in (one for one in scans if not one.is_picture and one.name not in predicted):
                stop.raise_if_set()
                try:
                    results.write_missing_page(output, scan)
                except UserError as error:
                    problems.append(str(error))
    suffix = "" if shard is None else shard.suffix
    results.write_table(output, [scan.name for scan in scans], made_by, suffix=suffix)
    return problems


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    chosen = parse_arguments(arguments, (__doc__ or "").splitlines()[0])
    start_logging()
    with one_line_errors():
        problems = _merge(chosen) if chosen.merge else _predict(chosen)
        print(DISCLAIMER)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        raise SystemExit(1)


def _predict(chosen: argparse.Namespace) -> list[str]:
    """Predicts what the command line says; returns what was wrong with scans."""
    from mbh_jax.inference.results import OVERLAYS_DIR
    from mbh_jax.runtime import xla

    xla.keep_compiled_programs()
    scans = find_scans(chosen.input, series=chosen.series, skip=chosen.output)
    if not chosen.flip_rows and any(scan.is_picture for scan in scans):
        log.info("pictures are taken to show the face above; where it is below, give --flip_rows")
    elif chosen.flip_rows:
        if other := next((scan for scan in scans if not scan.is_picture), None):
            raise UserError(f"{other.path}: --flip_rows is for pictures: leave it out")
        scans = [scan._replace(flip_rows=True) for scan in scans]
    if chosen.shard:
        number_of_all = len(scans)
        scans = chosen.shard.of(scans)
        log.info("shard %d of %d: %d of %d scans", *chosen.shard, len(scans), number_of_all)
    if chosen.html and any(scan.is_picture for scan in scans):
        log.info("--html: no pages of pictures; %s shows them", chosen.output / OVERLAYS_DIR)
    problems = predict_scans(
        chosen.model,
        scans,
        chosen.output,
        checkpoint=chosen.checkpoint,
        batch_size=chosen.batch_size,
        mirror=chosen.tta == "mirror",
        use_tiles=chosen.resolution == "tiles",
        min_lesion_ml=chosen.min_lesion_ml,
        save_probabilities=chosen.save_probabilities,
        overwrite=chosen.overwrite,
        html=chosen.html,
        shard=chosen.shard,
    )
    done = len(scans) - len(problems)
    table = f"volumes{chosen.shard.suffix if chosen.shard else ''}.csv"
    print(f"{done} of {len(scans)} scans: masks, pictures and {table} in {chosen.output}")
    return problems


def _merge(chosen: argparse.Namespace) -> list[str]:
    """Puts the results of all shards into one table; returns which scans are missing."""
    from mbh_jax.inference.merge import merge

    expected = None
    if chosen.input:
        expected = find_scans(chosen.input, series=chosen.series, skip=chosen.output)
    number, missing = merge(chosen.output, expected)
    print(f"{number} scans in {chosen.output / 'volumes.csv'}")
    return missing


if __name__ == "__main__":
    main()
