"""What a training run's time goes to: start, epochs, what lies between them, and the end.

    python -m benchmarks.phases --data data/phantom
    python -m benchmarks.phases --data data/bhsd --recipe flexunet --config.train.num_epochs=2

Runs `mbh_jax.main` twice with a cache of compiled programs that is empty the first time, and times
the lines that it prints. "to the first step" ends when the first training step has been compiled
and started; "between epochs" is what an epoch takes beyond its training and its validation: the
pictures and tables, and what the checkpoint holds up. Further arguments go to the command.
"""

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import common
from benchmarks.common import Spread
from mbh_jax.errors import UserError, one_line_errors

_EPOCH = re.compile(r"epoch \d+: loss ")


def timed_lines(command: Sequence[str], environment: dict[str, str]) -> list[tuple[float, str]]:
    """(seconds since the start, line) of everything that a command prints, and ("", its end).

    Raises:
        UserError: it failed.
    """
    start_s = time.perf_counter()
    with subprocess.Popen(
        command,
        cwd=common.ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = [(time.perf_counter() - start_s, line) for line in process.stdout]
    if process.returncode:
        print("".join(line for _, line in lines[-20:]), file=sys.stderr)
        raise UserError(f"the command ended with exit code {process.returncode}; see above")
    return [*lines, (time.perf_counter() - start_s, "")]


def phases(lines: Sequence[tuple[float, str]], history: Sequence[dict]) -> dict[str, list[float]]:
    """Seconds of each phase, one number for each epoch where it comes back.

    Args:
        lines: of a whole run, as `timed_lines` gives them.
        history: the run's history.json.
    """

    def first(part: str) -> float:
        return next(at_s for at_s, line in lines if part in line)

    epochs_s = [at_s for at_s, line in lines if _EPOCH.search(line)]
    between = [
        end_s - begin_s - entry["train_seconds"] - entry["validation_seconds"]
        for (begin_s, end_s), entry in zip(itertools.pairwise(epochs_s), history[1:], strict=True)
    ]
    return {
        "start, data and network": [first(" parameters, ")],
        "to the first step": [first("training: step ") - first(" parameters, ")],
        "training, an epoch": [entry["train_seconds"] for entry in history],
        "validation, an epoch": [entry["validation_seconds"] for entry in history],
        "between epochs": between,
        "last checkpoint and evaluation": [lines[-1][0] - epochs_s[-1]],
        "in all": [lines[-1][0]],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="converted dataset")
    parser.add_argument("--recipe", default="quickstart", help="a module of configs/")
    parser.add_argument("--json", type=Path, help="file for all measurements")
    chosen, further = parser.parse_known_args(arguments)
    with one_line_errors(), tempfile.TemporaryDirectory() as folder:
        machine = common.machine()
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": f"{folder}/cache"}
        found = {}
        for name in ("cold", "cached"):
            workdir = Path(folder, name)
            command = [sys.executable, "-m", "mbh_jax.main", f"--workdir={workdir}"]
            command += [f"--config=configs/{chosen.recipe}.py"]
            command += [f"--config.data.dir={chosen.data.resolve()}", *further]
            lines = timed_lines(command, environment)
            found[name] = phases(lines, json.loads((workdir / "history.json").read_text()))
        print(common.describe_machine(machine, common.versions("jax", "flax", "tensorflow")))
        print(f"\nconfigs/{chosen.recipe}.py {' '.join(further)}\n")
        rows = [
            [
                phase,
                *(f"{Spread.of(run[phase]):.1f}" if run[phase] else "-" for run in found.values()),
            ]
            for phase in found["cold"]
        ]
        print(common.table(["seconds", *found], rows))
        common.write_json(chosen.json, {"machine": machine, "runs": found})


if __name__ == "__main__":
    main()
