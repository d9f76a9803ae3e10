"""The command line that compares implementations of a task, and the table that it prints."""

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import common, runner
from benchmarks.baselines import IMPLEMENTATIONS
from benchmarks.common import Spread
from benchmarks.runner import Case
from benchmarks.workload import DTYPES, Workload
from mbh_jax.errors import UserError, one_line_errors

DEFAULT_BASELINES = "ours,torch,keras,flax"

PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0}
"""Dense bfloat16 peaks of accelerators by a part of their names, from their makers' data sheets."""


def describe(workload: Workload, results: Sequence[Mapping[str, Any]]) -> str:
    """The table of one workload; the last column compares with the fastest other line."""
    rows = []
    for result in results:
        step = Spread.of(result["seconds_per_step"])
        others = [other for other in results if other is not result]
        compared = "-"
        if others:
            fastest = min(others, key=lambda other: Spread.of(other["seconds_per_step"]).median)
            compared = f"{runner.ratio(result, fastest):.2f} x {fastest['label']}"
        device_bytes = result.get("peak_device_bytes")
        rows.append(
            [
                result["label"],
                f"{Spread(*(1000 * value for value in step)):.1f}",
                f"{1000 * Spread.of(result['cpu_seconds_per_step']).median:.1f}",
                f"{workload.batch / step.median:.2f}",
                _arithmetic(workload, step.median, result["device"]),
                f"{result['build_s'] + result['first_step_s']:.0f}",
                f"{(device_bytes or result['peak_rss_bytes']) / 1e6:.0f}",
                compared,
            ]
        )
    header = ["", "ms a step", "CPU ms", "images/s", "TFLOP/s", "start, s", "peak MB", "time"]
    return common.table(header, rows)


def _arithmetic(workload: Workload, seconds: float, device: str) -> str:
    """TFLOP/s, and the share of the device's peak where that is known."""
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
        pythons = interpreters(chosen.python, chosen.baselines)
        found = common.machine()
        runs = []
        for workload in workloads(task, chosen):
            cases = [make_case(name, workload, pythons) for name in chosen.baselines]
            results = runner.run(cases, chosen.repeats, chosen.seconds)
            if not runs:
                versions = {k: v for result in results for k, v in result["versions"].items()}
                print(common.describe_machine(found, versions))
            print(f"\n{title(workload)}, {results[0]['device']}; {chosen.repeats} repeats\n")
            print(describe(workload, results), flush=True)
            runs.append({"workload": dataclasses.asdict(workload), "results": results})
        common.write_json(chosen.json, {"machine": found, "runs": runs})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `train_step`, `inference` and `compile_time` have in common."""
    parser.add_argument(
        "--size", type=common.integers, default=[256], help="image sides, such as 128,256,512"
    )
    parser.add_argument(
        "--batch", type=common.integers, default=[2], help="batch sizes, such as 2,8"
    )
    parser.add_argument(
        "--dtype", type=common.names, default=["float32"], help=f"some of {','.join(DTYPES)}"
    )
    parser.add_argument("--recipe", default="flexunet", help="a module of configs/")
    parser.add_argument(
        "--baselines",
        type=common.names,
        default=common.names(DEFAULT_BASELINES),
        help=f"what to measure, some of {','.join(IMPLEMENTATIONS)} (default: {DEFAULT_BASELINES})",
    )
    parser.add_argument(
        "--repeats", type=int, default=7, help="how often each one is timed (default: 7)"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=2.0,
        help="about how long the timed steps of one repeat take (default: 2)",
    )
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="the Python that has the framework of a baseline, if it is not this one",
    )
    parser.add_argument("--json", type=Path, help="file for all measurements")


def interpreters(given: Sequence[str], baselines: Sequence[str]) -> dict[str, str]:
    """{baseline: interpreter} from arguments such as "torch=/path/to/python".

    Raises:
        UserError: an argument is not NAME=PATH, or a name is unknown.
    """
    pythons = dict(item.split("=", 1) for item in given if "=" in item)
    if len(pythons) != len(given):
        raise UserError("--python: give NAME=PATH, such as torch=/path/to/python")
    for name in [*baselines, *pythons]:
        if name not in IMPLEMENTATIONS:
            raise UserError(f"no baseline {name!r}: choose from {', '.join(IMPLEMENTATIONS)}")
    return pythons


def make_case(name: str, workload: Workload, pythons: Mapping[str, str]) -> Case:
    """The case of an implementation under its own name, with its interpreter of `pythons`.

    Raises:
        UserError: the implementation does not have the workload's network.
    """
    others = ("ours", "torch", "torch_compile")
    is_original = workload.network.get("patch_size") == 1
    if name not in others and not is_original:
        raise UserError(
            f"configs/{workload.recipe}.py: {name} has only FlexUNet with model.patch_size=1: "
            f"give --baselines={','.join(others)}"
        )
    return Case(name, name, workload, pythons.get(name, sys.executable))


def workloads(task: str, chosen: argparse.Namespace) -> list[Workload]:
    """Every dtype, size and batch of the command line."""
    return [
        Workload.from_recipe(chosen.recipe, task, size, batch, dtype)
        for dtype in chosen.dtype
        for size in chosen.size
        for batch in chosen.batch
    ]


def title(workload: Workload) -> str:
    """The workload in one line."""
    return (
        f"{workload.task}, configs/{workload.recipe}.py, {workload.size} x {workload.size}, batch "
        f"{workload.batch}, {workload.dtype}; {workload.num_parameters():,} parameters"
    )
