"""Seconds and memory of prediction, from scan files to result files, with its phases.

    python -m benchmarks.predict
    python -m benchmarks.predict --python torch=/path/to/python --python onnx=/other/python

It makes a bundle of random weights and phantom scans in a temporary folder, and measures

- the command on one scan, with an empty and with a filled cache of compiled programs;
- the command on one and on `--scans` scans: the seconds that each further scan takes, and whether
  memory grows with their number;
- the phases of one process (`benchmarks.predict_phases`);
- the same network in other frameworks, from images in memory to label maps, side by side with ours
  (`benchmarks.runner`), as seconds for the slices of one scan. A framework that its Python lacks is
  left out, with a note.
"""

import argparse
import functools
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import common, comparison, runner
from benchmarks.common import Spread
from benchmarks.workload import Workload
from mbh_jax.errors import UserError, one_line_errors
from mbh_jax.runtime import huge_pages
from mbh_jax.runtime.workers import worker_processes

MODULES = {"torch": "torch", "onnx": "onnxruntime", "keras": "keras", "flax": "flax"}
"""What a baseline's Python must have."""


BLOOD_FRACTION = 0.01
"""Of a slice's pixels: about what real scans with a haemorrhage have."""


class Run(NamedTuple):
    """A command that has ended: its seconds by the clock and on all cores, and its peak memory."""

    wall_s: float
    cpu_s: float
    peak_mb: float


def make_bundle(recipe: str, size: int, path: Path) -> None:
    """Writes a network with random weights, which finds blood in `BLOOD_FRACTION` of a slice.

    Random weights alone find it everywhere, and its many lesions take long to measure.
    """
    import jax
    import numpy as np

    from data_prep.phantom.head import make_head
    from mbh_jax.training import bundle, network

    config = importlib.import_module(f"configs.{recipe}").get_config()
    config.data.image_size = size
    described = network.create_network(config)
    variables = jax.tree.map(np.array, jax.jit(described.init)())
    slices = make_head(0, 0, size, "even", 3).hu.transpose(2, 1, 0)
    logits = np.asarray(jax.jit(described.logits)(variables, slices[1:2, :, :, np.newaxis]))
    lead = logits[..., 1:].max(-1) - logits[..., 0]
    variables["params"]["logits"]["bias"][0] += np.quantile(lead, 1 - BLOOD_FRACTION)
    facts = bundle.Facts("best", 0, None, "benchmark")
    bundle.write(path, config, variables, facts, "# Random weights\n")


def make_scans(folder: Path, number: int, size: int, slices: int) -> None:
    """Writes a phantom scan `number` times."""
    import nibabel

    from data_prep.phantom.head import make_head

    head = make_head(0, 0, size, "even", slices)
    folder.mkdir()
    nibabel.save(nibabel.Nifti1Image(head.hu, head.affine), folder / "scan_0.nii.gz")
    for index in range(1, number):
        os.link(folder / "scan_0.nii.gz", folder / f"scan_{index}.nii.gz")


def start_process(module: str, arguments: Sequence[str], cache: Path) -> tuple[Run, str]:
    """Runs a module to its end; returns what it took and what it printed.

    Raises:
        UserError: it failed.
    """
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    start_s = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=common.ROOT,
            env=environment,
            stdout=said,
            stderr=errors,
        )
        _, status, used = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - start_s
        process.returncode = os.waitstatus_to_exitcode(status)
        for file in (said, errors):
            file.seek(0)
        if process.returncode:
            raise UserError(f"{module} ended with {process.returncode}: {errors.read()[-500:]}")
        return Run(wall_s, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6), said.read()


def measure_command(folder: Path, num_scans: int, repeats: int) -> dict[str, list[Run]]:
    """The command with an empty cache (once), then alternately on one and on all scans."""
    cache, all_scans = folder / "cache", folder / "scans"

    def predict(scans: Path) -> Run:
        output = folder / "out"
        given = [f"--model={folder / 'model.zip'}", f"--input={scans}", f"--output={output}"]
        return start_process("mbh_jax.predict", [*given, "--overwrite"], cache)[0]

    one = all_scans / "scan_0.nii.gz"
    found: dict[str, list[Run]] = {"one scan, empty cache": [predict(one)]}
    many = f"{num_scans} scans, cached"
    found |= {"one scan, cached": [], many: []}
    for _ in range(repeats):
        found["one scan, cached"].append(predict(one))
        found[many].append(predict(all_scans))
    return found


def describe_command(found: Mapping[str, Sequence[Run]], num_scans: int) -> str:
    """The table of commands, and the line of each further scan."""
    rows = [
        [
            name,
            f"{Spread.of(run.wall_s for run in runs):.1f}",
            f"{Spread.of(run.cpu_s for run in runs):.1f}",
            f"{max(run.peak_mb for run in runs):.0f}",
        ]
        for name, runs in found.items()
    ]
    one, many = list(found.values())[1:]
    further = [
        [(b - a) / (num_scans - 1) for a, b in zip(few[:2], all_of_them[:2], strict=True)]
        for few, all_of_them in zip(one, many, strict=True)
    ]
    cells = [f"{Spread.of(values):.1f}" for values in zip(*further, strict=True)]
    rows.append(["each further scan", *cells, ""])
    return common.table(["command", "s", "CPU s", "peak MB"], rows)


def describe_phases(phases: Mapping[str, Any]) -> str:
    """The table of phases."""
    rows = [
        [name, f"{Spread.of(value):.2f}" if isinstance(value, list) else f"{value:.2f}"]
        for name, value in phases.items()
    ]
    return common.table(["phase", "s"], rows)


def compare(
    workload: Workload, baselines: Sequence[str], pythons: Mapping[str, str], repeats: int
) -> list[dict[str, Any]]:
    """Times the network in each framework that is installed."""
    cases = [comparison.make_case("ours", workload, pythons)]
    for name in baselines:
        case = comparison.make_case(name, workload, pythons)
        check = f"import importlib.util as u; raise SystemExit(not u.find_spec({MODULES[name]!r}))"
        if subprocess.run([case.python, "-c", check], check=False).returncode:
            print(f"\n{name}: {MODULES[name]} is not installed in {case.python}: left out")
        else:
            cases.append(case)
    return runner.run(cases, repeats, seconds=1.0)


def describe_comparison(results: Sequence[Mapping[str, Any]], num_batches: int) -> str:
    """The table of frameworks."""
    rows = []
    for result in results:
        scan_s = Spread.of(num_batches * seconds for seconds in result["seconds_per_step"])
        ratio = "-" if result is results[0] else f"{runner.ratio(results[0], result):.2f}"
        start_s = f"{result['start_s']:.1f}"
        peak_mb = f"{result['peak_rss_bytes'] / 1e6:.0f}"
        rows.append([result["label"], f"{scan_s:.1f}", start_s, peak_mb, ratio])
    return common.table(["", "s a scan", "start, s", "peak MB", "ours / this"], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.predict", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--recipe", default="flexunet", help="a module of configs/")
    parser.add_argument("--size", type=int, default=512, help="rows and columns (default: 512)")
    parser.add_argument("--slices", type=int, default=32, help="of a scan (default: 32)")
    parser.add_argument("--scans", type=int, default=4, help="at least 2 (default: 4)")
    parser.add_argument("--repeats", type=int, default=3, help="of each timing (default: 3)")
    parser.add_argument("--batch", type=int, default=4, help="of the frameworks (default: 4)")
    parser.add_argument(
        "--baselines",
        type=common.names,
        default=["torch", "onnx"],
        help=f"some of {','.join(MODULES)} (default: torch,onnx)",
    )
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="the Python that has the framework of a baseline, if it is not this one",
    )
    parser.add_argument("--json", type=Path, help="file for all measurements")
    chosen = parser.parse_args(arguments)
    with one_line_errors(), tempfile.TemporaryDirectory() as name:
        if chosen.scans < 2 or chosen.slices % chosen.batch:
            raise UserError(
                "give --scans of 2 or more, and --slices that are a multiple of --batch"
            )
        if unknown := [one for one in chosen.baselines if one not in MODULES]:
            raise UserError(f"no baseline {unknown[0]!r}: choose from {', '.join(MODULES)}")
        pythons = comparison.interpreters(chosen.python, chosen.baselines)
        machine, folder = common.machine(), Path(name)
        print(
            common.describe_machine(machine, common.versions("jax", "jaxlib", "flax")), end="\n\n"
        )
        # In another process: the peak memory of a process begins with that of its parent.
        with worker_processes(2) as map_in_order:
            make = functools.partial(make_bundle, chosen.recipe, chosen.size)
            list(map_in_order(make, [folder / "model.zip"]))
        make_scans(folder / "scans", chosen.scans, chosen.size, chosen.slices)
        command = measure_command(folder, chosen.scans, chosen.repeats)
        print(describe_command(command, chosen.scans), flush=True)
        given: list[Any] = [
            folder / "model.zip",
            folder / "scans" / "scan_0.nii.gz",
            folder / "out",
        ]
        given += [chosen.repeats, time.time()]
        _, said = start_process(
            "benchmarks.predict_phases", [str(one) for one in given], folder / "cache"
        )
        phases = json.loads(said.splitlines()[-1])
        print("\n" + describe_phases(phases), flush=True)
        workload = Workload.from_recipe(
            chosen.recipe, "inference", chosen.size, chosen.batch, "float32"
        )
        compared = compare(workload, chosen.baselines, pythons, chosen.repeats)
        print("\n" + describe_comparison(compared, chosen.slices // chosen.batch))
    found = {"machine": machine, "command": command, "phases": phases, "compared": compared}
    common.write_json(chosen.json, found)


if __name__ == "__main__":
    huge_pages.use_huge_pages()
    main()
