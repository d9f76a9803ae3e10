"""Seconds from the start of a process to the end of its first step, cold and from the cache.

    python -m benchmarks.compile_time --size 256 --batch 2
    python -m benchmarks.compile_time --recipe quickstart --size 128 --baselines ours,keras

Each repeat starts a new process for every line of the table: ours with an empty persistent
compilation cache (JAX_COMPILATION_CACHE_DIR), ours again with the cache that the first one filled,
and the baselines. The time covers imports, initial weights, tracing, compiling and the first
training step.
"""

import argparse
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import common, comparison, runner
from benchmarks.common import Spread
from benchmarks.runner import Case
from benchmarks.workload import Workload
from mbh_jax.errors import one_line_errors


def cases(workload: Workload, baselines: Sequence[str], pythons: dict, cache: Path) -> list[Case]:
    """What one repeat starts, in this order: "ours, cold" fills the cache for "ours, cached"."""
    caching = {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    found = []
    for name in baselines:
        if name == "ours":
            found.append(Case("ours, cold", name, workload, environment=caching))
            found.append(Case("ours, cached", name, workload, environment=caching))
        else:
            found.append(comparison.make_case(name, workload, pythons))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    comparison.add_arguments(parser)
    parser.set_defaults(repeats=3, baselines=["ours", "torch", "keras"])
    chosen = parser.parse_args(arguments)
    with one_line_errors():
        pythons = comparison.interpreters(chosen.python, chosen.baselines)
        found = common.machine()
        print(common.describe_machine(found, {}))
        runs = []
        for workload in comparison.workloads("train", chosen):
            facts: dict[str, list[dict]] = {}
            for _ in range(chosen.repeats):
                with tempfile.TemporaryDirectory() as cache:
                    for case in cases(workload, chosen.baselines, pythons, Path(cache)):
                        with runner.started([case]) as (worker,):
                            facts.setdefault(case.label, []).append(worker.facts)
            print(f"\n{comparison.title(workload)}; {chosen.repeats} repeats\n")
            rows = [
                [label, f"{Spread.of(one['start_s'] for one in ones):.1f}"]
                for label, ones in facts.items()
            ]
            print(common.table(["", "to the end of the first step, s"], rows), flush=True)
            runs.append({"workload": dataclasses.asdict(workload), "facts": facts})
        common.write_json(chosen.json, {"machine": found, "runs": runs})


if __name__ == "__main__":
    main()
