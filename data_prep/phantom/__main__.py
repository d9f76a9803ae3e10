"""Makes a data set of phantom head CTs in BHSD's layout.

    python -m data_prep.phantom --output data/raw/phantom --num_volumes 24 --seed 0

writes `images/NAME.nii.gz` (int16 HU) and `ground truths/NAME.nii.gz` (uint16 labels). Volume n of
a seed is the same whatever `--num_volumes` and `--workers` are.
"""

from mbh_jax.errors import end_at_first_signal

if __name__ == "__main__":
    end_at_first_signal()  # Before the imports, which take a while.

import argparse
from collections.abc import Sequence

import tqdm

from data_prep.phantom.dataset import DatasetSpec, prepare_output, write_volumes
from data_prep.phantom.plan import PREVALENCES
from data_prep.phantom.stored_headers import read_headers
from mbh_jax.errors import UserError, one_line_errors, use_default_signals
from mbh_jax.files import local_path
from mbh_jax.labels import CLASS_NAMES, FOREGROUND

_NUM_VOLUMES = 24


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.phantom",
        description="Makes a data set of phantom head CTs with bleeding, in BHSD's layout.",
        allow_abbrev=False,
    )
    parser.add_argument("--output", type=local_path, required=True, help="folder to write")
    parser.add_argument(
        "--num_volumes",
        type=int,
        help=f"volumes (default {_NUM_VOLUMES}, or one for each of --headers)",
    )
    parser.add_argument("--seed", type=int, default=0, help="0 or above (default 0)")
    parser.add_argument("--size", type=int, default=256, help="rows and columns (default 256)")
    parser.add_argument(
        "--prevalence",
        default="bhsd",
        help=f"one of {', '.join(PREVALENCES)}: BHSD's class frequencies and volumes; each class "
        "in half of the heads and none of them tiny; or the same with blood as faint and small, "
        "and brains and images as different, as real ones (default bhsd)",
    )
    parser.add_argument(
        "--max_slices", type=int, help="at most so many slices a volume, further apart: for tests"
    )
    parser.add_argument(
        "--headers",
        type=local_path,
        help="CSV of real files' NIfTI headers: names, slices, spacing and tilt come from it",
    )
    parser.add_argument("--workers", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--overwrite", action="store_true", help="replace a data set in --output")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Raises:
        UserError: an argument is out of range, or the output folder is in use.
    """
    args = parse_arguments(argv)
    if args.workers < 1:
        raise UserError(f"--workers {args.workers} is out of range: give 1 or more")
    headers = () if args.headers is None else tuple(read_headers(args.headers))
    num_volumes = args.num_volumes
    if num_volumes is None:
        num_volumes = len(headers) or _NUM_VOLUMES
    spec = DatasetSpec(num_volumes, args.seed, args.size, args.prevalence, args.max_slices, headers)
    plans = spec.plans()
    prepare_output(args.output, args.overwrite)
    written = write_volumes(spec, args.output, args.workers)
    shown = tqdm.tqdm(written, total=len(plans), desc="phantom", unit="volume", disable=None)
    num_slices = sum(shown)
    counts = ", ".join(
        f"{CLASS_NAMES[value]} {sum(value in plan.volumes_ml for plan in plans)}"
        for value in FOREGROUND
    )
    num_patients = len({plan.patient_id for plan in plans})
    num_healthy = sum(not plan.volumes_ml for plan in plans)
    print(
        f"wrote {len(plans)} volumes ({num_slices} slices, {num_patients} patients) to "
        f"{args.output}: {counts}, healthy {num_healthy}"
    )


if __name__ == "__main__":
    with one_line_errors():
        use_default_signals()
        main()
