"""Compares two evaluations of the same cases: differences with intervals, paired tests.

    python -m mbh_jax.compare runs/a runs/b [--split=test] [--metric=dice] [--output DIR]

A run is a workdir, or a folder with per_case.csv.
"""

from mbh_jax.errors import STARTS_AGAIN, end_at_first_signal

if __name__ == "__main__":
    end_at_first_signal(STARTS_AGAIN)  # Before the imports, which take a while.

import argparse
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mbh_jax import files
from mbh_jax.errors import one_line_errors, stop_at_signals
from mbh_jax.evaluation.comparison import COLUMNS, METRICS, compare, read_evaluation
from mbh_jax.evaluation.statistics import NUM_RESAMPLES, sample_size_warning
from mbh_jax.log import log, start_logging

SEED = 0
"""Of the bootstrap."""


def format_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """The comparison as a text for a terminal."""

    def number(value: float, form: str = ".3f") -> str:
        return "-" if math.isnan(value) else f"{value:{form}}"

    lines = [
        f"{'':8} {'patients':>8} {'A':>8} {'B':>8} {'A - B':>8} {'95 % interval':>18} "
        f"{'p':>7} {'p (Holm)':>8}"
    ]
    for row in rows:
        interval = f"{number(row['low'], '+.3f')} to {number(row['high'], '+.3f')}"
        lines.append(
            f"{row['class']:8} {row['num_patients']:8d} {number(row['a']):>8} "
            f"{number(row['b']):>8} {number(row['difference'], '+.3f'):>8} "
            f"{interval if not math.isnan(row['low']) else '-':>18} "
            f"{number(row['p']):>7} {number(row['p_holm']):>8}"
        )
    missed = {row["class"]: row["num_infinite"] for row in rows if row["num_infinite"]}
    if missed:
        text = ", ".join(f"{name} {count}" for name, count in missed.items())
        lines.append(f"missed by one of the two alone, so without a finite difference: {text}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m mbh_jax.compare", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("a", type=files.local_path, help="workdir, or folder with per_case.csv")
    parser.add_argument("b", type=files.local_path, help="the same of the other run")
    parser.add_argument(
        "--split", default="test", help="folder below evaluation/ of a workdir (default: test)"
    )
    parser.add_argument("--metric", choices=METRICS, default="dice")
    parser.add_argument(
        "--output", type=files.local_path, help="folder for comparison.csv and .json"
    )
    chosen = parser.parse_args(arguments)
    start_logging()
    with one_line_errors(), stop_at_signals(STARTS_AGAIN):
        runs = [read_evaluation(run, chosen.split, chosen.metric) for run in (chosen.a, chosen.b)]
        rows = compare(*runs, seed=SEED)
        print(f"A: {runs[0].directory}\nB: {runs[1].directory}")
        print(f"{chosen.metric}, {len(runs[0].cases)} cases, paired by patient\n")
        print(format_rows(rows))
        if warning := sample_size_warning(len(set(runs[0].patients))):
            print(f"warning: {warning}")
        if chosen.output is not None:
            facts = {
                "a": str(runs[0].directory),
                "b": str(runs[1].directory),
                "metric": chosen.metric,
                "resamples": NUM_RESAMPLES,
                "seed": SEED,
                "rows": rows,
            }
            with files.whole_files(chosen.output) as folder:
                files.write_csv(folder / "comparison.csv", COLUMNS, rows)
                files.write_json(folder / "comparison.json", facts)
            log.info("wrote %s", chosen.output)


if __name__ == "__main__":
    main()
