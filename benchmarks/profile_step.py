"""Where the time of a training step goes: by part of the network, and the longest operations.

    python -m benchmarks.profile_step --size 512 --batch 16 --dtype bfloat16    # on a GPU

It traces `--steps` steps with the profiler and prints two tables: the parts of the network, forward
and backward, and the longest operations of the compiled program, each with its share of the time of
all operations. With several devices the times are the mean over them. On a GPU they are the times
on the device (give XLA_FLAGS=--xla_gpu_enable_command_buffer= to see operations that CUDA graphs
would hide). On a CPU they are the times of XLA's own threads. Convolutions run in other threads
there and are missing: `conv_lowering` measures them.
"""

import argparse
import collections
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from benchmarks import baselines, common, comparison
from benchmarks.workload import DTYPES, Workload
from mbh_jax.errors import UserError, one_line_errors

_CONTAINERS = ("while", "call", "conditional")
"""Operations that contain others, whose time would be counted twice."""


class Operation(NamedTuple):
    """One operation of the compiled program: the shape of its result and the code it comes from."""

    shape: str
    source: str


def operations(program: str) -> dict[str, Operation]:
    """{name: operation} of a compiled program's text."""
    found = {}
    for line in program.splitlines():
        head = re.match(r"\s*(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ", line)
        if head:
            source = re.search(r'op_name="([^"]*)"', line)
            found[head[1]] = Operation(head[2], source[1] if source else "")
    return found


def part(source: str) -> str:
    """The part of a step that an operation belongs to: "encoder_0 backward", "up_3 forward" ..."""
    layer = re.search(r"\b((?:encoder|decoder|up)_\d+|bridge|logits)\b", source)
    direction = "backward" if "transpose(" in source else "forward"
    return f"{layer[1]} {direction}" if layer else "input, loss, metrics, optimizer"


def durations(trace: Path) -> Iterator[tuple[str, float]]:
    """(operation, milliseconds) of each event of a trace that names an operation of a program.

    If the trace has events of devices, these alone count, divided by the number of devices.
    Otherwise the host's events count.
    """
    (file,) = trace.rglob("*.xplane.pb")
    planes = list(jax.profiler.ProfileData.from_file(str(file)).planes)
    of_devices = [plane for plane in planes if plane.name.startswith("/device:")]
    for plane in of_devices or planes:
        for line in plane.lines:
            for event in line.events:
                name = dict(event.stats).get("hlo_op")
                if name is not None and not str(name).startswith(_CONTAINERS):
                    yield str(name), event.duration_ns / 1e6 / max(len(of_devices), 1)


def measure(workload: Workload, steps: int) -> tuple[dict[str, float], dict[str, Operation]]:
    """Milliseconds per step of each operation, and the operations of the program."""
    ours = baselines.build("ours", workload)
    for _ in range(2):
        ours.step()
        ours.wait()
    milliseconds: dict[str, float] = collections.defaultdict(float)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(steps):
                ours.step()
            ours.wait()
        for name, duration in durations(Path(folder)):
            milliseconds[name] += duration / steps
    if not milliseconds:
        raise UserError("the profiler's trace names no operation on this platform")
    program = ours.program() if ours.program is not None else None
    return milliseconds, operations(program or "")


def describe(milliseconds: dict[str, float], program: dict[str, Operation], lines: int) -> str:
    """Both tables as Markdown, each with at most `lines` lines."""
    total = sum(milliseconds.values())
    unknown = Operation("", "")
    parts: dict[str, float] = collections.defaultdict(float)
    for name, duration in milliseconds.items():
        parts[part(program.get(name, unknown).source)] += duration

    def rows(durations: dict[str, float]) -> list[list[str]]:
        longest = sorted(durations.items(), key=lambda item: -item[1])[:lines]
        return [[name, f"{ms:.2f}", f"{100 * ms / total:.1f}"] for name, ms in longest]

    header = ["ms a step", "%"]
    detailed = [
        [*row, program.get(row[0], unknown).shape, program.get(row[0], unknown).source[-70:]]
        for row in rows(milliseconds)
    ]
    return "\n\n".join(
        [
            common.table(["part", *header], rows(parts)),
            common.table(["operation", *header, "result", "from"], detailed),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", default="flexunet", help="a module of configs/")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--steps", type=int, default=3, help="steps to trace (default: 3)")
    parser.add_argument("--lines", type=int, default=12, help="lines of each table (default: 12)")
    chosen = parser.parse_args(arguments)
    with one_line_errors():
        workload = Workload.from_recipe(
            chosen.recipe, "train", chosen.size, chosen.batch, chosen.dtype
        )
        print(common.describe_machine(common.machine(), common.versions("jax", "jaxlib")))
        milliseconds, program = measure(workload, chosen.steps)
        print(f"\n{comparison.title(workload)}; {jax.devices()[0].device_kind}\n")
        print(describe(milliseconds, program, chosen.lines))


if __name__ == "__main__":
    main()
