"""The whole quickstart command: ours against a plain Keras `fit` of the same network.

    python -m benchmarks.end_to_end --data data/phantom
    python -m benchmarks.end_to_end --num_volumes 12 --epochs 1 --repeats 1

Both are commands that run alternately and are timed from start to end, with the same slices,
network, batch size and number of epochs. Ours is `mbh_jax.main` with `configs/quickstart.py` and
everything it does: three windows, augmentation, Dice loss, checkpoints, curves, pictures, tables.
Keras is `benchmarks.baselines.keras_fit`: tf.data with one window, cross-entropy, `fit` with
validation, and the best weights kept.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import common
from benchmarks.common import Spread
from benchmarks.input_pipeline import make_phantoms
from mbh_jax.errors import UserError, one_line_errors


def run_ours(data: Path, workdir: Path, epochs: int) -> list[float]:
    """Trains ours; returns the seconds of each epoch, training and validation together."""
    _run(
        "mbh_jax.main",
        "--config=configs/quickstart.py",
        f"--config.data.dir={data}",
        f"--config.train.num_epochs={epochs}",
        f"--workdir={workdir}",
    )
    history = json.loads((workdir / "history.json").read_text())
    return [entry["train_seconds"] + entry["validation_seconds"] for entry in history]


def run_keras(data: Path, workdir: Path, epochs: int) -> list[float]:
    """Trains Keras; returns the seconds of each epoch, training and validation together."""
    workdir.mkdir()
    _run("benchmarks.baselines.keras_fit", f"--data={data}", f"--epochs={epochs}", str(workdir))
    return json.loads((workdir / "epochs.json").read_text())


COMMANDS: dict[str, Callable[[Path, Path, int], list[float]]] = {
    "ours": run_ours,
    "keras": run_keras,
}


def _run(module: str, *arguments: str) -> None:
    """Runs a module to its end; what it prints is shown only if it fails."""
    command = [sys.executable, "-m", module, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(common.ROOT)}
    ended = subprocess.run(
        command, cwd=common.ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        print(ended.stdout[-2000:], ended.stderr[-4000:], sep="\n", file=sys.stderr)
        raise UserError(f"{module} ended with exit code {ended.returncode}; see above")


def measure(data: Path, scratch: Path, epochs: int, repeats: int) -> dict[str, list[dict]]:
    """For each command and repeat: its seconds from start to end, and those of each epoch."""
    found: dict[str, list[dict]] = {name: [] for name in COMMANDS}
    for repeat in range(repeats):
        for name in list(COMMANDS)[:: -1 if repeat % 2 else 1]:
            start_s = time.perf_counter()
            epoch_s = COMMANDS[name](data, scratch / f"{name}_{repeat}", epochs)
            found[name].append({"total_s": time.perf_counter() - start_s, "epoch_s": epoch_s})
    return found


def describe(found: dict[str, list[dict]]) -> str:
    """The result as a Markdown table; the last line has the ratios within each repeat."""
    columns: dict[str, Callable[[dict], float]] = {
        "command, s": lambda one: one["total_s"],
        "first epoch, s": lambda one: one["epoch_s"][0],
        "last epoch, s": lambda one: one["epoch_s"][-1],
        "outside epochs, s": lambda one: one["total_s"] - sum(one["epoch_s"]),
    }
    rows = [
        [name, *(f"{Spread.of(value(one) for one in ones):.1f}" for value in columns.values())]
        for name, ones in found.items()
    ]
    ratios = [
        Spread.of(
            value(ours) / value(theirs)
            for ours, theirs in zip(found["ours"], found["keras"], strict=True)
        )
        for value in columns.values()
    ]
    rows.append(["ours / keras", *(f"{one:.2f}" for one in ratios)])
    return common.table(["", *columns], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="converted dataset (default: makes phantoms)")
    parser.add_argument("--num_volumes", type=int, default=60, help="phantoms (default: 60)")
    parser.add_argument("--epochs", type=int, default=2, help="the first one compiles (default: 2)")
    parser.add_argument("--repeats", type=int, default=3, help="of each command (default: 3)")
    parser.add_argument("--json", type=Path, help="file for all measurements")
    chosen = parser.parse_args(arguments)
    with one_line_errors(), tempfile.TemporaryDirectory() as folder:
        machine = common.machine()
        scratch = Path(folder)
        data = chosen.data or make_phantoms(scratch, chosen.num_volumes, size=128)
        found = measure(data.resolve(), scratch, chosen.epochs, chosen.repeats)
        versions = common.versions("jax", "flax", "keras", "tensorflow")
        print(common.describe_machine(machine, versions))
        print(f"\n{chosen.epochs} epochs, {chosen.repeats} repeats\n")
        print(describe(found))
        common.write_json(chosen.json, {"machine": machine, "runs": found})


if __name__ == "__main__":
    main()
