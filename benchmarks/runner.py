"""Runs implementations of one workload side by side and compares the time of their steps.

Each implementation runs in its own worker process and sleeps while another one is timed. The timing
is repeated: in each repeat every worker runs a few timed steps, after one step that is not counted,
and the order of the workers is reversed from one repeat to the next. A ratio is the median of the
ratios within each repeat, so that a machine whose speed changes slowly affects both sides alike.
"""

import contextlib
import dataclasses
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks import common
from benchmarks.common import Spread
from benchmarks.workload import Workload
from mbh_jax.errors import UserError

LOSS_TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}
"""The largest relative difference between two implementations' losses, by the dtype."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One line of a benchmark's table.

    Attributes:
        label: the line's name, unique within the table.
        implementation: a key of `benchmarks.baselines.IMPLEMENTATIONS`.
        workload: what is computed.
        python: the interpreter that has the implementation's framework.
        environment: additional environment variables of the worker.
    """

    label: str
    implementation: str
    workload: Workload
    python: str = sys.executable
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Worker:
    """A running `benchmarks.worker` process.

    Attributes:
        case: what it runs.
        facts: what the worker reported after its first step, and "start_s", the seconds from the
            start of the process to that report.
        seconds_per_step: one number for each call of `time_steps`.
        cpu_seconds_per_step: the same, summed over all cores.
        last: what the worker reported after the latest timed steps.

    Raises:
        UserError: the process ended before its first report.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.seconds_per_step: list[float] = []
        self.cpu_seconds_per_step: list[float] = []
        self.last: dict[str, Any] = {}
        start_s = time.perf_counter()
        self._process = subprocess.Popen(
            [case.python, "-m", "benchmarks.worker", case.implementation, case.workload.to_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            cwd=common.ROOT,
            env={**os.environ, **case.environment},
        )
        try:
            self.facts = self._read_report()
            self.facts["start_s"] = time.perf_counter() - start_s
        except BaseException:
            self.stop()
            raise

    def time_steps(self, steps: int) -> float:
        """Runs that many timed steps; records and returns the seconds per step."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{steps}\n")
        self.last = self._read_report()
        self.seconds_per_step.append(self.last["seconds"] / steps)
        self.cpu_seconds_per_step.append(self.last["cpu_seconds"] / steps)
        return self.seconds_per_step[-1]

    def stop(self) -> None:
        """Ends the process."""
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()

    def _read_report(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise UserError(
                f"{self.case.label} ended with exit code {self._process.wait()}; its messages "
                "are above (is its framework installed? --python NAME=PATH names another Python)"
            )
        return json.loads(line)


@contextlib.contextmanager
def started(cases: Sequence[Case]) -> Iterator[list[Worker]]:
    """Starts a worker for each case, one after another; ends all of them on leaving."""
    with contextlib.ExitStack() as stack:
        workers = []
        for case in cases:
            worker = Worker(case)
            stack.callback(worker.stop)
            workers.append(worker)
        yield workers


def run(cases: Sequence[Case], repeats: int, seconds: float) -> list[dict[str, Any]]:
    """Measures cases side by side.

    Args:
        cases: what to measure.
        repeats: how often each case is timed.
        seconds: how long the timed steps of one repeat should take; there is at least one step.

    Returns:
        For each case its label, implementation, "seconds_per_step" and "cpu_seconds_per_step" (a
        number for each repeat), and what its worker reported.

    Raises:
        UserError: a worker failed, or does not compute the same network as the first.
    """
    with started(cases) as workers:
        check_same_network(workers)
        steps = {}
        for worker in workers:
            one_step_s = worker.time_steps(1)  # Only to choose the number of steps.
            steps[worker.case.label] = max(1, math.ceil(seconds / one_step_s))
        for repeat in range(repeats):
            for worker in workers[:: -1 if repeat % 2 else 1]:
                worker.time_steps(steps[worker.case.label])
        return [_result(worker, steps[worker.case.label]) for worker in workers]


def _result(worker: Worker, steps: int) -> dict[str, Any]:
    return {
        "label": worker.case.label,
        "implementation": worker.case.implementation,
        "steps_per_repeat": steps,
        "seconds_per_step": worker.seconds_per_step[1:],
        "cpu_seconds_per_step": worker.cpu_seconds_per_step[1:],
        **worker.facts,
        **worker.last,
    }


def check_same_network(workers: Sequence[Worker]) -> None:
    """Checks parameter counts against the workload's, and losses where the batch is the same.

    Raises:
        UserError: a worker computes another network.
    """
    first = workers[0]
    for worker in workers:
        workload, facts = worker.case.workload, worker.facts
        if facts["num_parameters"] != workload.num_parameters():
            raise UserError(
                f"{worker.case.label} has {facts['num_parameters']:,} parameters, not "
                f"{workload.num_parameters():,}"
            )
        same_batch = (workload.size, workload.batch) == (
            first.case.workload.size,
            first.case.workload.batch,
        )
        tolerance = LOSS_TOLERANCE[workload.dtype]
        if same_batch and not math.isclose(facts["loss"], first.facts["loss"], rel_tol=tolerance):
            raise UserError(
                f"{worker.case.label} is another network: with the same weights its loss is "
                f"{facts['loss']:.6f}, that of {first.case.label} is {first.facts['loss']:.6f}"
            )


def ratio(result: Mapping[str, Any], other: Mapping[str, Any]) -> Spread:
    """A result's time divided by that of `other`: median and spread over the repeats."""
    pairs = zip(result["seconds_per_step"], other["seconds_per_step"], strict=True)
    return Spread.of(mine / theirs for mine, theirs in pairs)
