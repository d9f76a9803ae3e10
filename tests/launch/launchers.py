"""A virtual environment with a stand-in for Python, to run launchers without training."""

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class StandIn:
    """A folder that launchers accept as an installed .venv.

    Attributes:
        environment: environment variables for the launcher.
        folder: where each call of the stand-in writes a file.
    """

    environment: dict[str, str]
    folder: Path

    def plan(self, **ends: dict[str, int | None]) -> None:
        """Sets how the processes p0, p1, ... end; see stand_in.py."""
        plan = {name.removeprefix("p"): end for name, end in ends.items()}
        (self.folder / "plan.json").write_text(json.dumps(plan))

    def call(self, process: int = 0) -> dict[str, Any]:
        """Arguments, environment and pid of a process; waits until it has started."""
        path = self.folder / f"call-{process}.json"
        deadline = time.monotonic() + 30
        while not path.exists():
            assert time.monotonic() < deadline, f"process {process} did not start"
            time.sleep(0.05)
        return json.loads(path.read_text())


def make_stand_in(tmp_path: Path) -> StandIn:
    """A stand-in below `tmp_path` whose processes end with 0 unless `plan` changes that."""
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    python = venv / "bin" / "python"
    script = Path(__file__).with_name("stand_in.py")
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    python.chmod(0o755)
    for stamp in (".installed", ".installed-gpu-", ".installed-tpu-"):
        (venv / stamp).touch()
    folder = tmp_path / "calls"
    folder.mkdir()
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SLURM_", "CUDA_", "JAX_", "XLA_")) and "proxy" not in name.lower()
    }
    environment |= {"VENV": str(venv), "STAND_IN": str(folder)}
    made = StandIn(environment, folder)
    made.plan()
    return made
