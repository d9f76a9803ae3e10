"""How the time of our training step grows with the devices, the batch and the image size.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --devices 1,2,4 --batch 1,2,4,8 --size 64,128,256

It prints three tables, and compares each line of a table with its first line.

Devices: one batch of `--global_batch` images divided over simulated devices
(`--xla_force_host_platform_device_count`), under pmap and jit. They share the machine's cores, so
the ideal is a time that stays the same; additional time is the cost of dividing the batch.
Batch: a growing batch at the smallest image size.
Size: a growing image with the smallest batch.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import common, runner
from benchmarks.common import Spread
from benchmarks.runner import Case
from benchmarks.workload import Workload
from mbh_jax.errors import one_line_errors

_SIMULATED = "--xla_force_host_platform_device_count="


def compare(name: str, cases: Sequence[Case], repeats: int, seconds: float) -> list[dict]:
    """Measures the cases of one table and prints it; `name` heads its first column."""
    results = runner.run(cases, repeats, seconds)
    rows = []
    for case, result in zip(cases, results, strict=True):
        step = Spread.of(result["seconds_per_step"])
        pixels = case.workload.batch * case.workload.size**2
        rows.append(
            [
                case.label,
                f"{Spread(*(1000 * value for value in step)):.1f}",
                f"{case.workload.batch / step.median:.2f}",
                f"{1e6 * step.median / pixels:.2f}",
                f"{result['peak_rss_bytes'] / 1e6:.0f}",
                f"{runner.ratio(result, results[0]):.2f}",
            ]
        )
    header = [name, "ms a step", "images/s", "s a megapixel", "peak MB", "time / first"]
    print(f"\n{common.table(header, rows)}", flush=True)
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", default="quickstart", help="a module of configs/")
    parser.add_argument("--devices", type=common.integers, default=[1, 2, 4, 8])
    parser.add_argument(
        "--global_batch", type=int, default=8, help="batch of the first table (default: 8)"
    )
    parser.add_argument("--batch", type=common.integers, default=[1, 2, 4, 8, 16])
    parser.add_argument("--size", type=common.integers, default=[64, 128, 256])
    parser.add_argument("--repeats", type=int, default=5, help="(default: 5)")
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="about how long the steps of one repeat take"
    )
    parser.add_argument("--json", type=Path, help="file for all measurements")
    chosen = parser.parse_args(arguments)
    with one_line_errors():
        found = common.machine()
        print(common.describe_machine(found, {}))
        print(f"configs/{chosen.recipe}.py, float32")

        def workload(size: int, batch: int, **fields: Any) -> Workload:
            made = Workload.from_recipe(chosen.recipe, "train", size, batch, "float32")
            return dataclasses.replace(made, **fields)

        def measure(name: str, cases: Sequence[Case]) -> list[dict]:
            return compare(name, cases, chosen.repeats, chosen.seconds)

        size, batch = min(chosen.size), min(chosen.batch)
        tables = {
            "devices": measure(
                f"{size} x {size}, batch {chosen.global_batch} over",
                [
                    Case(
                        f"{number} ({mode})",
                        "ours",
                        workload(size, chosen.global_batch, mode=mode),
                        environment={"XLA_FLAGS": f"{_SIMULATED}{number}"},
                    )
                    for number in chosen.devices
                    for mode in ("pmap", "jit")
                ],
            ),
            "batch": measure(
                f"{size} x {size}, batch of",
                [Case(f"{number}", "ours", workload(size, number)) for number in chosen.batch],
            ),
            "size": measure(
                f"batch {batch}, size of",
                [Case(f"{side}", "ours", workload(side, batch)) for side in chosen.size],
            ),
        }
        common.write_json(chosen.json, {"machine": found, "tables": tables})


if __name__ == "__main__":
    main()
