"""Numbers and pictures of what a converted dataset holds.

    python -m data_prep.statistics data/bhsd [--output data/bhsd/statistics]

writes `statistics.json`, `volumes.csv` (a row a volume) and the pictures of
`data_prep.statistics_plots`; the numbers are those of `data_prep.measurements`.
"""

from mbh_jax.errors import end_at_first_signal

if __name__ == "__main__":
    end_at_first_signal()  # Before the imports, which take a while.

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep import measurements
from mbh_jax import files
from mbh_jax.data.index import SliceIndex
from mbh_jax.errors import UserError, one_line_errors, use_default_signals
from mbh_jax.files import local_path

_PICTURES = (
    *("classes.png", "hu.png", "heights.png"),
    *("montage.png", "blood_ml.png", "geometry.png"),
)
"""All that there can be."""


def write(index: SliceIndex, output: Path) -> list[Path]:
    """Writes all files to `output`, in place of those of an earlier call, and gives their paths.

    Raises:
        UserError: if a record is damaged.
    """
    # Here and not above, since Matplotlib takes a second to import.
    from data_prep import statistics_plots

    rows = measurements.volume_rows(index)
    histograms = measurements.hu_histograms(index)
    content = measurements.statistics(index, rows, histograms)
    paths = [output / "statistics.json", output / "volumes.csv"]
    files.write_json(paths[0], content)
    files.write_csv(paths[1], list(rows[0]), rows)
    shares = measurements.height_shares(index)
    pictures = {
        "classes.png": statistics_plots.classes_figure(content["counts"]),
        "hu.png": statistics_plots.hu_figure(histograms),
    }
    if not np.isnan(shares).all():
        pictures["heights.png"] = statistics_plots.heights_figure(shares)
    if index.pixels_per_class[:, 1:].any():
        pictures["montage.png"] = statistics_plots.montage_figure(index)
    if any(info.spacing_known for info in index.volumes):
        pictures["blood_ml.png"] = statistics_plots.blood_figure(rows)
        pictures["geometry.png"] = statistics_plots.geometry_figure(rows)
    for name in _PICTURES:
        if name in pictures:
            files.atomic_write_bytes(output / name, statistics_plots.png(pictures[name]))
        else:  # Of an earlier dataset.
            (output / name).unlink(missing_ok=True)
    return [*paths, *(output / name for name in pictures)]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.statistics", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("dataset", help="such as data/bhsd")
    parser.add_argument(
        "--output",
        type=local_path,
        help="folder (default: statistics in the dataset's folder)",
    )
    options = parser.parse_args(arguments)
    with one_line_errors():
        use_default_signals()
        if options.output is None and "://" in options.dataset:
            raise UserError(f"{options.dataset}: is remote: give --output, a folder here")
        index = SliceIndex.load(options.dataset)
        paths = write(index, options.output or local_path(options.dataset) / "statistics")
        content = json.loads(paths[0].read_text())
        for name, ml in content["blood_ml_where_present"].items():
            if ml["n"]:
                print(
                    f"{name:>5}: in {ml['n']} volumes, median {ml['p50']:.1f} mL, "
                    f"{ml['min']:.2f} to {ml['max']:.1f} mL"
                )
        print(f"written to {paths[0].parent}: {', '.join(path.name for path in paths)}")


if __name__ == "__main__":
    main()
