"""launch/predict_slurm.sbatch and launch/predict_k8s.yaml: what each task runs, and how it ends."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from launchers import REPOSITORY, StandIn

from mbh_jax import errors

JOB = yaml.safe_load((REPOSITORY / "launch" / "predict_k8s.yaml").read_text())
ARRAY = {
    "SLURM_JOB_ID": "17",
    "SLURM_ARRAY_TASK_ID": "3",
    "SLURM_ARRAY_TASK_MAX": "8",
    "SLURM_ARRAY_TASK_COUNT": "8",
    "SLURM_CPUS_PER_TASK": "4",
}


@pytest.fixture
def task(stand_in: StandIn, tmp_path: Path) -> Any:
    """Runs one task of the array job, with programs in place of SLURM's; returns how it ended."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, does in {
        "srun": 'while [ "${1#--}" != "$1" ]; do echo "$1" >> "$STAND_IN/srun"; shift; done; "$@"',
        "squeue": "echo RUNNING",
        "scontrol": 'echo "$@" > "$STAND_IN/scontrol"',
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{does}\n")
        (programs / name).chmod(0o755)

    def run(**environment: str | None) -> subprocess.CompletedProcess[str]:
        given = stand_in.environment | ARRAY | environment
        given["PATH"] = f"{programs}:{given['PATH']}"
        return subprocess.run(
            ["bash", "launch/predict_slurm.sbatch", "--model=a model", "--output=out"],
            cwd=REPOSITORY,
            env={name: value for name, value in given.items() if value is not None},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def test_each_task_of_an_array_predicts_its_shard(task: Any, stand_in: StandIn) -> None:
    assert task().returncode == 0
    arguments = ["-m", "mbh_jax.predict", "--shard=3/8", "--model=a model", "--output=out"]
    assert stand_in.call()["arguments"] == arguments
    assert (stand_in.folder / "srun").read_text().split() == ["--ntasks=1", "--cpus-per-task=4"]


def test_tasks_that_are_submitted_again_keep_their_shards(task: Any, stand_in: StandIn) -> None:
    some = {"SLURM_ARRAY_TASK_COUNT": "2"}
    refused = task(**some)
    assert refused.returncode == 2 and "set SHARDS" in refused.stderr
    assert task(**some, SHARDS="64").returncode == 0
    assert stand_in.call()["arguments"][2] == "--shard=3/64"


def test_a_job_without_array_is_refused(task: Any) -> None:
    refused = task(SLURM_ARRAY_TASK_ID=None)
    assert refused.returncode == 2 and "--array=1-N" in refused.stderr


def test_a_stopped_task_is_requeued_a_limited_number_of_times(task: Any, stand_in: StandIn) -> None:
    stand_in.plan(p0={"exit": errors.EXIT_STOPPED})
    assert task(SLURM_RESTART_COUNT="99").returncode == 0
    assert (stand_in.folder / "scontrol").read_text() == "requeue 17\n"
    (stand_in.folder / "scontrol").unlink()
    ended = task(SLURM_RESTART_COUNT="100")
    assert ended.returncode == errors.EXIT_STOPPED and "MAX_REQUEUES=100" in ended.stderr
    stand_in.plan(p0={"exit": 1})
    assert task().returncode == 1
    assert not (stand_in.folder / "scontrol").exists()


def test_pods_predict_every_shard_once(stand_in: StandIn, tmp_path: Path) -> None:
    """The pod's command, run by a shell with a stand-in for Python."""
    (container,) = JOB["spec"]["template"]["spec"]["containers"]
    python = Path(stand_in.environment["VENV"]) / "bin"
    total = JOB["spec"]["completions"]
    for index in (0, total - 1):
        environment = stand_in.environment | {"JOB_COMPLETION_INDEX": str(index)}
        environment["PATH"] = f"{python}:{environment['PATH']}"
        subprocess.run(
            [*container["command"], *container["args"]], env=environment, check=True, timeout=60
        )
        called = json.loads((stand_in.folder / "call-0.json").read_text())["arguments"]
        assert called[:3] == ["-m", "mbh_jax.predict", f"--shard={index + 1}/{total}"]
        (volume,) = container["volumeMounts"]
        assert all(flag.split("=")[1].startswith(volume["mountPath"]) for flag in called[3:])


def test_errors_end_a_shard_and_everything_else_restarts_it() -> None:
    spec = JOB["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # Else podFailurePolicy is refused.
    disruption, failure = spec["podFailurePolicy"]["rules"]
    assert disruption["action"] == "Ignore"
    assert failure["action"] == "FailIndex"
    assert failure["onExitCodes"]["values"] == [errors.EXIT_ERROR, 2]
    assert spec["backoffLimitPerIndex"] > 0 and spec["maxFailedIndexes"] == spec["completions"]
