"""Runs of several processes on this machine, joined as the processes of several hosts are."""

import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import run_commands
from run_commands import assert_same_numbers, finish, flags, start, start_processes, wait_for_line

from mbh_jax.errors import EXIT_LOST_PROCESS, EXIT_STOPPED, UserError
from mbh_jax.runtime import distributed

CHANGES = {"train__num_epochs": 2, "train__checkpoint_every_steps": 5}
LONGEST_END_S = 90
"""Heartbeats tell of a lost process after 60 seconds, broken connections at once."""


@pytest.fixture(scope="module")
def one_process(tiny_dataset_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a run of one process with four devices."""
    workdir = tmp_path_factory.mktemp("one_process") / "run"
    code, said = finish(start(flags(tiny_dataset_dir, workdir, **CHANGES), num_devices=4))
    assert code == 0, said
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize("layout", [("pmap", 2, 2), ("jit", 2, 2)], ids=str)
def test_processes_give_the_numbers_of_one_process_with_all_devices(
    tiny_dataset_dir: Path, one_process: Path, tmp_path: Path, layout: tuple[str, int, int]
) -> None:
    mode, number, num_devices = layout
    workdir = tmp_path / "run"
    arguments = flags(tiny_dataset_dir, workdir, parallel__mode=mode, **CHANGES)
    for process in start_processes(arguments, number, num_devices=num_devices):
        code, said = finish(process)
        assert code == 0, said
    assert_same_numbers(workdir, one_process)
    # Process 0 alone writes: no file twice, none under a passing name.
    assert len(list((workdir / "tensorboard").iterdir())) == 1
    assert not [path for path in workdir.rglob("*") if ".partial-" in path.name]


@pytest.mark.slow
def test_when_a_process_is_killed_the_others_end_and_one_process_can_go_on(
    tiny_dataset_dir: Path, one_process: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    arguments = flags(tiny_dataset_dir, workdir, **CHANGES)
    first, second = start_processes(arguments, 2, num_devices=2)
    wait_for_line(first, "epoch 1: loss")
    second.kill()
    killed = time.monotonic()
    code, said = finish(first)
    assert time.monotonic() - killed < LONGEST_END_S
    finish(second)
    assert code in {EXIT_LOST_PROCESS, -signal.SIGABRT}, said
    if code == EXIT_LOST_PROCESS:
        assert "lost another process of this run: start all of them again" in said
    code, said = finish(start(arguments, num_devices=4))
    assert code == 0, said
    assert "going on after step" in said
    assert_same_numbers(workdir, one_process)


@pytest.mark.slow
def test_processes_agree_on_the_step_at_which_they_stop(
    tiny_dataset_dir: Path, one_process: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    changes = CHANGES | {"train__checkpoint_every_steps": 0, "train__num_epochs": 40}
    arguments = flags(tiny_dataset_dir, workdir, **changes)
    processes = start_processes(arguments, 2, num_devices=2)
    wait_for_line(processes[0], "epoch 1: loss")
    processes[1].terminate()
    for process in processes:
        code, said = finish(process)
        assert code == EXIT_STOPPED, said
    config = run_commands.tiny_config(tiny_dataset_dir, **changes)
    record = run_commands.last_record(config, workdir)
    restored = run_commands.restore(config, workdir)
    batches_an_epoch = restored.arrays.step // max(record["epoch"], 1)
    assert restored.step == int(restored.arrays.step)
    assert 0 < record["epoch"] < 40
    assert batches_an_epoch > 0


def test_several_processes_must_be_joined() -> None:
    with pytest.raises(UserError, match="SLURM_STEP_NUM_TASKS=2: each of these processes"):
        distributed.refuse_unjoined_processes({"SLURM_STEP_NUM_TASKS": "2"})
    distributed.refuse_unjoined_processes({"SLURM_STEP_NUM_TASKS": "1"})
    distributed.refuse_unjoined_processes({})


def test_joining_without_being_told_whom_is_one_line(
    tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    code, said = finish(start([*flags(tiny_dataset_dir, tmp_path), "--distributed"]))
    assert code == 1
    assert "error: --distributed: cannot join the processes of the run" in said


def test_rows_of_one_process_are_all_rows() -> None:
    rows = {"example": np.arange(3)}
    assert distributed.gather_rows(rows) is rows
    assert distributed.is_primary() is (jax.process_index() == 0)
