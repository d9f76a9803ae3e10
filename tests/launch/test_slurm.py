"""launch/slurm.sbatch on a real SLURM cluster of one node; runs only with `TEST_SLURM=1`.

It needs root and Debian's slurm-wlm and munge.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from launchers import REPOSITORY, StandIn

CLUSTER = Path(__file__).with_name("slurm_cluster.sh")
TWO_TASKS = ("--cpus-per-task=1", "--ntasks-per-node=2", "--time=60")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get("TEST_SLURM"), reason="runs only with TEST_SLURM=1"),
    pytest.mark.skipif(shutil.which("slurmctld") is None, reason="slurm-wlm is not installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="SLURM's daemons need root"),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment variables with which SLURM's commands find the cluster."""
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run(["bash", CLUSTER, "start", folder], check=True, timeout=120)
    yield {"SLURM_CONF": str(folder / "slurm.conf")}
    subprocess.run(["bash", CLUSTER, "stop", folder], check=True, timeout=120)


class Job:
    """A submitted launch/slurm.sbatch."""

    def __init__(self, environment: dict[str, str], log: Path, *arguments: str):
        self._environment = environment
        self._log = log
        recipe = arguments.index("--config=configs/smoke.py")
        options, program = arguments[:recipe], arguments[recipe:]
        command = ["sbatch", "--parsable", f"--output={log}", *options]
        self.number = self.run(*command, "launch/slurm.sbatch", *program).strip()

    def run(self, *command: str) -> str:
        return subprocess.check_output(command, cwd=REPOSITORY, env=self._environment, text=True)

    @property
    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def field(self, name: str) -> str:
        """A field of `scontrol show job`."""
        found = re.search(rf"\b{name}=(\S+)", self.run("scontrol", "show", "job", self.number))
        assert found is not None
        return found[1]

    def wait(self, *states: str, timeout_s: float = 60) -> None:
        """Waits until the job is in one of `states`; fails if it ends in another one."""
        deadline = time.monotonic() + timeout_s
        while (state := self.field("JobState")) not in states:
            ended = state in ("CANCELLED", "COMPLETED", "FAILED", "NODE_FAIL", "TIMEOUT")
            assert not ended and time.monotonic() < deadline, f"{state}\n{self.log}"
            time.sleep(0.2)

    def start_again(self) -> None:
        """Waits until the job is back in the queue, and lets it start without SLURM's delay."""
        self.wait("PENDING", timeout_s=900)
        self.run("scontrol", "update", f"JobId={self.number}", "StartTime=now")


@pytest.mark.parametrize(
    ("options", "devices"),
    [
        (("--ntasks-per-node=1", "--gpus-per-node=4"), ["0,1,2,3"]),
        (("--ntasks-per-node=2", "--gpus-per-node=4"), ["0,1", "2,3"]),
        (("--ntasks-per-node=2", "--gpus-per-task=2"), ["0,1", "0,1"]),
        (("--ntasks-per-node=2",), [None, None]),
    ],
)
def test_each_process_is_given_its_devices(
    cluster: dict[str, str],
    stand_in: StandIn,
    tmp_path: Path,
    options: tuple[str, ...],
    devices: list[str | None],
) -> None:
    arguments = ("--config=configs/smoke.py", "--workdir=a folder")
    environment = stand_in.environment | cluster
    job = Job(environment, tmp_path / "log", "--cpus-per-task=1", *options, *arguments)
    job.wait("COMPLETED")
    calls = [stand_in.call(process) for process in range(len(devices))]
    assert [call["environment"].get("JAX_LOCAL_DEVICE_IDS") for call in calls] == devices
    assert len({call["environment"]["JAX_COORDINATOR_ADDRESS"] for call in calls}) == 1
    for call in calls:
        assert call["arguments"] == ["-m", "mbh_jax.main", "--distributed", *arguments]


def test_stopped_job_is_requeued_a_limited_number_of_times(
    cluster: dict[str, str], stand_in: StandIn, tmp_path: Path
) -> None:
    stand_in.plan(p0={"sigterm": 75}, p1={"sigterm": 75})
    environment = stand_in.environment | cluster | {"MAX_REQUEUES": "1"}
    job = Job(environment, tmp_path / "log", *TWO_TASKS, "--config=configs/smoke.py")
    for restarts in range(2):
        for process in range(2):
            stand_in.call(process)
            (stand_in.folder / f"call-{process}.json").unlink()
        assert job.field("Restarts") == str(restarts)
        job.run("scancel", "--signal=TERM", job.number)  # To the processes, as --signal does.
        if restarts == 0:
            job.start_again()
    job.wait("FAILED")
    assert job.field("ExitCode") == "75:0"
    assert "MAX_REQUEUES=1 is reached" in job.log


def test_cancelled_job_stays_cancelled(
    cluster: dict[str, str], stand_in: StandIn, tmp_path: Path
) -> None:
    stand_in.plan(p0={"sigterm": 75}, p1={"sigterm": 75})
    environment = stand_in.environment | cluster
    job = Job(environment, tmp_path / "log", *TWO_TASKS, "--config=configs/smoke.py")
    for process in range(2):
        stand_in.call(process)
    job.run("scancel", job.number)
    job.wait("CANCELLED")
    assert job.field("Restarts") == "0"


def test_an_error_ends_the_job_with_its_code(
    cluster: dict[str, str], stand_in: StandIn, tmp_path: Path
) -> None:
    stand_in.plan(p0={"exit": 1}, p1={"exit": 1})
    environment = stand_in.environment | cluster
    job = Job(environment, tmp_path / "log", *TWO_TASKS, "--config=configs/smoke.py")
    job.wait("FAILED")
    assert (job.field("ExitCode"), job.field("Restarts")) == ("1:0", "0")


def test_preempted_run_ends_with_the_same_numbers(
    cluster: dict[str, str], stand_in: StandIn, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    python = Path(stand_in.environment["VENV"]) / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    environment = stand_in.environment | cluster

    def submit(name: str) -> Job:
        program = (
            "--config=configs/smoke.py",
            f"--config.data.dir={tiny_dataset_dir}",
            "--config.train.batch_size=2",
            "--config.train.checkpoint_every_steps=1",
            f"--workdir={tmp_path / name}",
        )
        return Job(environment, tmp_path / f"{name}.log", *TWO_TASKS, *program)

    undisturbed = submit("undisturbed")
    undisturbed.wait("COMPLETED", timeout_s=900)
    preempted = submit("preempted")
    while not (tmp_path / "preempted" / "checkpoints" / "last" / "2").exists():
        assert preempted.field("JobState") in ("PENDING", "RUNNING"), preempted.log
        time.sleep(0.1)
    urgent = ("--wait", "--partition=urgent", "--ntasks=2", "--output=/dev/null", "--wrap=sleep 1")
    preempted.run("sbatch", *urgent)
    preempted.start_again()
    preempted.wait("COMPLETED", timeout_s=900)
    assert preempted.field("Restarts") == "1"
    assert "going on after step" in preempted.log
    for name in ("train_losses.csv", "train_metrics.csv", "evaluation/validation/per_case.csv"):
        expected = (tmp_path / "undisturbed" / name).read_bytes()
        assert (tmp_path / "preempted" / name).read_bytes() == expected, name
