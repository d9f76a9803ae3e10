"""Contestants that take turns: each in a process of its own, the others asleep.

A turn is a few steps, after one that wakes the contestant and is not counted. The order of a round
is turned around in the next one, and a ratio is the median over rounds of two neighbours' ratio, so
that a machine whose speed drifts slows both alike.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.common import Spread
from benchmarks.peers import PEERS
from benchmarks.workload import DTYPES, Workload
from mbh_jax.errors import UserError, one_line_errors

DEFAULT_PEERS = "ours,torch,keras,flax"

LOSS_TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}
"""How far, relatively, two contestants' losses may lie apart."""

PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0}
"""Dense bfloat16 peaks of accelerators by a part of their names, from their makers' data sheets."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """Who takes part: a peer's name, its workload, and the interpreter that has its framework."""

    label: str
    peer: str
    workload: Workload
    python: str = sys.executable
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Contestant:
    """A running worker process."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.seconds_a_step: list[float] = []
        self.cpu_seconds_a_step: list[float] = []
        self.last: dict[str, Any] = {}
        start_s = time.perf_counter()
        self._process = subprocess.Popen(
            [entry.python, "-m", "benchmarks.worker", entry.peer, entry.workload.to_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            cwd=common.ROOT,
            env={**os.environ, **entry.environment},
        )
        try:
            self.facts = self._answer()
            self.facts["start_s"] = time.perf_counter() - start_s
        except BaseException:
            self.stop()
            raise

    def take_turn(self, steps: int) -> float:
        """Seconds a step, which are kept."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{steps}\n")
        self.last = self._answer()
        self.seconds_a_step.append(self.last["seconds"] / steps)
        self.cpu_seconds_a_step.append(self.last["cpu_seconds"] / steps)
        return self.seconds_a_step[-1]

    def stop(self) -> None:
        """Ends the process."""
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise UserError(
                f"{self.entry.label} ended with exit code {self._process.wait()}; its messages "
                "are above (is its framework installed? --python NAME=PATH names another Python)"
            )
        return json.loads(line)


@contextlib.contextmanager
def started(entries: Sequence[Entry]) -> Iterator[list[Contestant]]:
    """Starts contestants one after another, and ends them all."""
    with contextlib.ExitStack() as stack:
        contestants = []
        for entry in entries:
            contestant = Contestant(entry)
            stack.callback(contestant.stop)
            contestants.append(contestant)
        yield contestants


def run(entries: Sequence[Entry], rounds: int, min_turn_s: float) -> list[dict[str, Any]]:
    """What each contestant took, after a turn of one step that is not counted.

    Args:
        entries: who takes part.
        rounds: how many turns each has.
        min_turn_s: a turn is as many steps as take about so long, and at least one.

    Raises:
        UserError: a contestant failed, or is not the same network as the first.
    """
    with started(entries) as contestants:
        check_same_network(contestants)
        steps = {}
        for contestant in contestants:
            once_s = contestant.take_turn(1)
            steps[contestant.entry.label] = max(1, math.ceil(min_turn_s / once_s))
        for number in range(rounds):
            for contestant in contestants[:: -1 if number % 2 else 1]:
                label = contestant.entry.label
                contestant.take_turn(steps[label])
        return [_result(contestant, steps[contestant.entry.label]) for contestant in contestants]


def _result(contestant: Contestant, steps: int) -> dict[str, Any]:
    entry = contestant.entry
    return {
        "label": entry.label,
        "peer": entry.peer,
        "steps_a_turn": steps,
        "seconds_a_step": contestant.seconds_a_step[1:],
        "cpu_seconds_a_step": contestant.cpu_seconds_a_step[1:],
        **contestant.facts,
        **contestant.last,
    }


def check_same_network(contestants: Sequence[Contestant]) -> None:
    """Parameters must be those of the workload, and losses agree wherever the batch does.

    Raises:
        UserError: someone computes another network.
    """
    first = contestants[0]
    for contestant in contestants:
        workload, facts = contestant.entry.workload, contestant.facts
        if facts["num_parameters"] != workload.num_parameters():
            raise UserError(
                f"{contestant.entry.label} has {facts['num_parameters']:,} parameters, not "
                f"{workload.num_parameters():,}"
            )
        same_batch = (workload.size, workload.batch) == (
            first.entry.workload.size,
            first.entry.workload.batch,
        )
        tolerance = LOSS_TOLERANCE[workload.dtype]
        if same_batch and not math.isclose(facts["loss"], first.facts["loss"], rel_tol=tolerance):
            raise UserError(
                f"{contestant.entry.label} is another network: with the same weights its loss is "
                f"{facts['loss']:.6f}, that of {first.entry.label} {first.facts['loss']:.6f}"
            )


def ratio(result: Mapping[str, Any], other: Mapping[str, Any]) -> Spread:
    """How many times as long as `other` a result took: median and spread over rounds."""
    pairs = zip(result["seconds_a_step"], other["seconds_a_step"], strict=True)
    return Spread.of(mine / theirs for mine, theirs in pairs)


def describe(workload: Workload, results: Sequence[Mapping[str, Any]]) -> str:
    """The table of one workload; the last column compares with the fastest other contestant."""
    rows = []
    for result in results:
        step = Spread.of(result["seconds_a_step"])
        others = [other for other in results if other is not result]
        compared = "-"
        if others:
            fastest = min(others, key=lambda other: Spread.of(other["seconds_a_step"]).median)
            compared = f"{ratio(result, fastest):.2f} x {fastest['label']}"
        device_bytes = result.get("peak_device_bytes")
        rows.append(
            [
                result["label"],
                f"{Spread(*(1000 * value for value in step)):.1f}",
                f"{1000 * Spread.of(result['cpu_seconds_a_step']).median:.1f}",
                f"{workload.batch / step.median:.2f}",
                _arithmetic(workload, step.median, result["device"]),
                f"{result['build_s'] + result['first_step_s']:.0f}",
                f"{(device_bytes or result['peak_rss_bytes']) / 1e6:.0f}",
                compared,
            ]
        )
    header = ["", "ms a step", "CPU ms", "images/s", "TFLOP/s", "start, s", "peak MB", "time, as"]
    return common.table(header, rows)


def _arithmetic(workload: Workload, seconds: float, device: str) -> str:
    """TFLOP/s, and their share of the device's peak where it is known."""
    tflops = workload.flops() / seconds / 1e12
    for name, peak in PEAK_TFLOPS.items():
        if name in device:
            return f"{tflops:.1f} ({100 * tflops / peak:.0f} % of {peak:.0f})"
    return f"{tflops:.3f}"


def main(task: str, doc: str, arguments: Sequence[str] | None = None) -> None:
    """The command line of `train_step` and `inference`."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    add_arguments(parser)
    chosen = parser.parse_args(arguments)
    with one_line_errors():
        pythons = interpreters(chosen.python, chosen.peers)
        found = common.machine()
        runs = []
        for workload in workloads(task, chosen):
            entries = [entry(peer, workload, pythons) for peer in chosen.peers]
            results = run(entries, chosen.rounds, chosen.turn_s)
            if not runs:
                versions = {k: v for result in results for k, v in result["versions"].items()}
                print(common.describe_machine(found, versions))
            print(f"\n{title(workload)}, {results[0]['device']}; {chosen.rounds} rounds\n")
            print(describe(workload, results), flush=True)
            runs.append({"workload": dataclasses.asdict(workload), "results": results})
        common.write_json(chosen.json, {"machine": found, "runs": runs})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every contest."""
    parser.add_argument("--size", type=common.integers, default=[256], help="sides: 128,256,512")
    parser.add_argument("--batch", type=common.integers, default=[2], help="batches: 2,8")
    parser.add_argument(
        "--dtype", type=common.names, default=["float32"], help=f"of {','.join(DTYPES)}"
    )
    parser.add_argument("--recipe", default="flexunet", help="a module of configs/")
    parser.add_argument(
        "--peers",
        type=common.names,
        default=common.names(DEFAULT_PEERS),
        help=f"who takes part, of {','.join(PEERS)} (default: {DEFAULT_PEERS})",
    )
    parser.add_argument("--rounds", type=int, default=7, help="turns of each (default: 7)")
    parser.add_argument(
        "--turn_s", type=float, default=2.0, help="about how long a turn takes (default: 2)"
    )
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="PEER=PATH",
        help="the Python that has a peer's framework, where it is another",
    )
    parser.add_argument("--json", type=Path, help="file for all measurements")


def interpreters(given: Sequence[str], peers: Sequence[str]) -> dict[str, str]:
    """{peer: interpreter} from "torch=/path" arguments.

    Raises:
        UserError: a peer is unknown.
    """
    pythons = dict(item.split("=", 1) for item in given if "=" in item)
    if len(pythons) != len(given):
        raise UserError("--python: give PEER=PATH")
    for name in [*peers, *pythons]:
        if name not in PEERS:
            raise UserError(f"no peer {name!r}: one of {', '.join(PEERS)}")
    return pythons


def entry(peer: str, workload: Workload, pythons: Mapping[str, str]) -> Entry:
    """A peer under its own name."""
    return Entry(peer, peer, workload, pythons.get(peer, sys.executable))


def workloads(task: str, chosen: argparse.Namespace) -> list[Workload]:
    """Every dtype, size and batch of the command line."""
    return [
        Workload.from_recipe(chosen.recipe, task, size, batch, dtype)
        for dtype in chosen.dtype
        for size in chosen.size
        for batch in chosen.batch
    ]


def title(workload: Workload) -> str:
    """The workload in a line."""
    return (
        f"{workload.task}, configs/{workload.recipe}.py, {workload.size} x {workload.size}, batch "
        f"{workload.batch}, {workload.dtype}; {workload.num_parameters():,} parameters"
    )
