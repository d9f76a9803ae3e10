"""How the cost of our training step grows with devices, batch and image size.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --devices 1,2,4 --batch 1,2,4,8 --size 64,128,256

Three tables. Devices: one batch of `--global_batch` images divided over simulated devices
(`--xla_force_host_platform_device_count`), under pmap and jit. They share the machine's cores, so
a time that stays the same is the ideal, and what is added is the cost of dividing. Batch: a growing
batch at the smallest size. Size: a growing image with the smallest batch. The first line of a table
is what the others are compared with.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import common, contest
from benchmarks.common import Spread
from benchmarks.contest import Entry
from benchmarks.workload import Workload
from mbh_jax.errors import one_line_errors

_SIMULATED = "--xla_force_host_platform_device_count="


def compare(name: str, entries: Sequence[Entry], rounds: int, turn_s: float) -> list[dict]:
    """Lets contestants take turns and prints their table."""
    results = contest.run(entries, rounds, turn_s)
    rows = []
    for entry, result in zip(entries, results, strict=True):
        step = Spread.of(result["seconds_a_step"])
        pixels = entry.workload.batch * entry.workload.size**2
        rows.append(
            [
                entry.label,
                f"{Spread(*(1000 * value for value in step)):.1f}",
                f"{entry.workload.batch / step.median:.2f}",
                f"{1e6 * step.median / pixels:.2f}",
                f"{result['peak_rss_bytes'] / 1e6:.0f}",
                f"{contest.ratio(result, results[0]):.2f}",
            ]
        )
    header = [name, "ms a step", "images/s", "s a megapixel", "peak MB", "time, times the first's"]
    print(f"\n{common.table(header, rows)}", flush=True)
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", default="quickstart", help="a module of configs/")
    parser.add_argument("--devices", type=common.integers, default=[1, 2, 4, 8])
    parser.add_argument("--global_batch", type=int, default=8, help="of the table of devices")
    parser.add_argument("--batch", type=common.integers, default=[1, 2, 4, 8, 16])
    parser.add_argument("--size", type=common.integers, default=[64, 128, 256])
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (default: 5)")
    parser.add_argument("--turn_s", type=float, default=1.0, help="about how long a turn takes")
    parser.add_argument("--json", type=Path, help="file for all measurements")
    chosen = parser.parse_args(arguments)
    with one_line_errors():
        found = common.machine()
        print(common.describe_machine(found, {}))
        print(f"configs/{chosen.recipe}.py, float32")

        def workload(size: int, batch: int, **fields: Any) -> Workload:
            made = Workload.from_recipe(chosen.recipe, "train", size, batch, "float32")
            return dataclasses.replace(made, **fields)

        def measure(name: str, entries: Sequence[Entry]) -> list[dict]:
            return compare(name, entries, chosen.rounds, chosen.turn_s)

        size, batch = min(chosen.size), min(chosen.batch)
        tables = {
            "devices": measure(
                f"{size} x {size}, batch {chosen.global_batch} over",
                [
                    Entry(
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
                [Entry(f"{number}", "ours", workload(size, number)) for number in chosen.batch],
            ),
            "size": measure(
                f"batch {batch}, size of",
                [Entry(f"{side}", "ours", workload(side, batch)) for side in chosen.size],
            ),
        }
        common.write_json(chosen.json, {"machine": found, "tables": tables})


if __name__ == "__main__":
    main()
