"""Seconds from the start of a process to the end of its first step, cold and from the cache.

    python -m benchmarks.compile_time --size 256 --batch 2
    python -m benchmarks.compile_time --recipe quickstart --size 128 --batch 4 --peers ours,keras

Each round starts every contestant anew: ours with an empty persistent compilation cache
(JAX_COMPILATION_CACHE_DIR), ours again with what the first left there, and the peers: imports,
initial weights, tracing, compiling and the first training step.
"""

import argparse
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import common, contest
from benchmarks.common import Spread
from benchmarks.contest import Entry
from benchmarks.workload import Workload
from mbh_jax.errors import one_line_errors


def entries(workload: Workload, peers: Sequence[str], pythons: dict, cache: Path) -> list[Entry]:
    """Contestants of a round; "ours, cached" must follow "ours, cold"."""
    caching = {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    found = []
    for peer in peers:
        if peer == "ours":
            found.append(Entry("ours, cold", peer, workload, environment=caching))
            found.append(Entry("ours, cached", peer, workload, environment=caching))
        else:
            found.append(contest.entry(peer, workload, pythons))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    contest.add_arguments(parser)
    parser.set_defaults(rounds=3, peers=["ours", "torch", "keras"])
    chosen = parser.parse_args(arguments)
    with one_line_errors():
        pythons = contest.interpreters(chosen.python, chosen.peers)
        found = common.machine()
        print(common.describe_machine(found, {}))
        runs = []
        for workload in contest.workloads("train", chosen):
            facts: dict[str, list[dict]] = {}
            for _ in range(chosen.rounds):
                with tempfile.TemporaryDirectory() as cache:
                    for entry in entries(workload, chosen.peers, pythons, Path(cache)):
                        with contest.started([entry]) as (contestant,):
                            facts.setdefault(entry.label, []).append(contestant.facts)
            print(f"\n{contest.title(workload)}; {chosen.rounds} rounds\n")
            rows = [
                [label, f"{Spread.of(one['start_s'] for one in ones):.1f}"]
                for label, ones in facts.items()
            ]
            print(common.table(["", "to the end of the first step, s"], rows), flush=True)
            runs.append({"workload": dataclasses.asdict(workload), "facts": facts})
        common.write_json(chosen.json, {"machine": found, "runs": runs})


if __name__ == "__main__":
    main()
