"""Real training processes on the tiny dataset, for tests that kill, stop and join them."""

import csv
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from configs import smoke
from mbh_jax import predict
from mbh_jax.data.batch import Batch
from mbh_jax.data.loader import Loader
from mbh_jax.inference.split import evaluate
from mbh_jax.runtime.parallel import create_parallel
from mbh_jax.runtime.preemption import StopRequest
from mbh_jax.train import train
from mbh_jax.training.checkpoints import Checkpoints, Restored
from mbh_jax.training.setup import Training, create_training

REPOSITORY = Path(__file__).parents[1]

KEYS = {
    "data.image_size": 32,
    "data.slices": "all",
    "model.num_layers": 2,
    "model.dropout_rate": 0.2,
    "model.norm": "batch",
    "augment.flip": True,
    "train.batch_size": 4,
    "train.log_every_steps": 2,
    "train.checkpoint_every_steps": 1,
    "train.preview_slices": 2,
}


def tiny_config(dataset: Path, **changes: object) -> ConfigDict:
    """What `flags` of the same arguments say; `train__num_epochs=2` stands for a key."""
    config = smoke.get_config()
    config.data.dir = str(dataset)
    for name, value in (KEYS | changes).items():
        section, key = name.replace("__", ".").split(".")
        config[section][key] = value
    return config


def flags(dataset: Path, workdir: Path, **changes: object) -> list[str]:
    """Arguments of mbh_jax.main for a tiny run."""
    keys = {name.replace("__", "."): value for name, value in (KEYS | changes).items()}
    return [
        "--config=configs/smoke.py",
        f"--workdir={workdir}",
        f"--config.data.dir={dataset}",
        *(f"--config.{name}={value}" for name, value in keys.items()),
    ]


def start(arguments: list[str], *, num_devices: int = 1) -> subprocess.Popen[str]:
    """Starts mbh_jax.main with that many simulated devices; its output is on `stderr`."""
    environment = os.environ | {
        "JAX_NUM_CPU_DEVICES": str(num_devices),
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "mbh_jax.main", *arguments],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A test runner started in the background ignores Ctrl-C, and its children with it.
        restore_signals=True,
    )


def wait_for_line(process: subprocess.Popen[str], *words: str) -> str:
    """Reads what a process says until a line holds one of `words`; all it said before is returned.

    Raises:
        AssertionError: the process ended without such a line.
    """
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if any(word in line for word in words):
            return said
    raise AssertionError(f"ended without {words}: {said}")


def finish(process: subprocess.Popen[str], timeout_s: float = 300) -> tuple[int, str]:
    """Exit code, and what the process still said."""
    _, said = process.communicate(timeout=timeout_s)
    return process.returncode, said


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def start_processes(
    arguments: list[str], number: int, *, num_devices: int = 1
) -> list[subprocess.Popen[str]]:
    """Starts the processes of one run, joined on the loopback."""
    port = free_port()
    joined = ["--distributed", f"--coordinator=localhost:{port}", f"--num_processes={number}"]
    return [
        start([*arguments, *joined, f"--process_id={i}"], num_devices=num_devices)
        for i in range(number)
    ]


def train_and_evaluate(config: ConfigDict, workdir: Path) -> None:
    """What `--mode=train` does, in this process."""
    with StopRequest() as stop:
        train(config, epath.Path(workdir), stop)
        evaluate(config, epath.Path(workdir), stop, split="validation", checkpoint="best")


def interrupt_after(monkeypatch: pytest.MonkeyPatch, num_batches: int) -> None:
    """Makes a run fail as the given number of training batches have been read."""
    whole = Loader.train_batches
    left = [num_batches]

    def until_interrupted(self: Loader, order: np.ndarray, **which: int) -> Iterator[Batch]:
        for batch in whole(self, order, **which):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            yield batch

    monkeypatch.setattr(Loader, "train_batches", until_interrupted)


def evaluate_split(config: ConfigDict, workdir: Path) -> None:
    """What `--mode=evaluate` does, in this process."""
    with StopRequest() as stop:
        evaluate(
            config,
            epath.Path(workdir),
            stop,
            split=config.eval.split,
            checkpoint=config.eval.checkpoint,
        )


def training_of(config: ConfigDict) -> Training:
    """What a run of a configuration is made of."""
    return create_training(config, create_parallel(config.parallel.mode), steps_per_epoch=1)


def restore(config: ConfigDict, workdir: Path, which: str = "last") -> Restored:
    """The last state or the best variables of a run."""
    training = training_of(config)
    with Checkpoints(workdir, training.parallel) as checkpoints:
        if which == "last":
            return checkpoints.restore_last(training.template)
        return checkpoints.restore_variables(which, training.template.variables)


def last_record(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """The record beside the last state of a run."""
    with Checkpoints(workdir, create_parallel(config.parallel.mode)) as checkpoints:
        record = checkpoints.last_record()
    assert record is not None
    return record


def num_train_examples(config: ConfigDict) -> int:
    """Slices that a run trains on."""
    return Loader(config.data).index.num_examples("train", config.data.slices)


def results(config: ConfigDict, workdir: Path) -> dict[str, bytes]:
    """All that a finished run must share with any other of its configuration, bit for bit.

    The arrays of its last and best checkpoints, tables of every epoch, pictures and evaluation.
    """
    arrays = {which: restore(config, workdir, which).arrays for which in ("last", "best")}
    leaves = jax.tree_util.tree_leaves_with_path(arrays)
    found = {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves}
    files = [
        *("train_losses.csv", "train_metrics.csv", "evaluation/validation/per_case.csv"),
        *sorted(path.relative_to(workdir) for path in workdir.glob("epoch_change_infer/*/*")),
    ]
    return found | {str(name): (workdir / name).read_bytes() for name in files}


def tables(workdir: Path) -> dict[str, np.ndarray]:
    """The numbers of a run's tables."""
    found = {}
    for name in ("train_losses.csv", "train_metrics.csv", "evaluation/validation/per_case.csv"):
        with (workdir / name).open() as file:
            rows = [list(row.values()) for row in csv.DictReader(file)]
        numbers = [[float(cell) for cell in row if _is_number(cell)] for row in rows]
        found[name] = np.array([number for row in numbers for number in row])
    return found


def _is_number(cell: str) -> bool:
    return cell.replace(".", "").replace("-", "").replace("e", "").isdigit()


def assert_same_numbers(ours: Path, theirs: Path) -> None:
    """The tables of two runs hold the same numbers within rounding."""
    for (name, found), expected in zip(tables(ours).items(), tables(theirs).values(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-5, err_msg=name)


def predict_exit_code(workdir: Path, scans: Path, output: Path, *more: str) -> int:
    """The exit code of mbh_jax.predict, in this process."""
    given = [f"--model={workdir}", f"--input={scans}", f"--output={output}", *more]
    try:
        predict.main(given)
    except SystemExit as end:
        return int(end.code or 0)
    return 0
