"""launch/local.sh with a stand-in for Python: the processes it starts, and its exit codes."""

import os
import signal
import subprocess

import pytest
from launchers import REPOSITORY, StandIn

RECIPE = "--config=configs/smoke.py"


def start(stand_in: StandIn, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        # A shell cannot trap a signal that was ignored when it started.
        ["env", "--default-signal=INT", "bash", "launch/local.sh", *arguments],
        cwd=REPOSITORY,
        env=stand_in.environment | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(launcher: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and stderr."""
    _, stderr = launcher.communicate(timeout=60)
    return launcher.returncode, stderr


def test_one_process_gets_the_arguments(stand_in: StandIn) -> None:
    stand_in.plan(p0={"exit": 74})
    assert end(start(stand_in, RECIPE, "--workdir=a folder", SLURM_NTASKS="8"))[0] == 74
    call = stand_in.call()
    assert call["arguments"] == ["-m", "mbh_jax.main", RECIPE, "--workdir=a folder"]
    assert not [name for name in call["environment"] if name.startswith(("SLURM_", "JAX_"))]


def test_simulated_devices_are_on_the_cpu(stand_in: StandIn) -> None:
    launcher = start(stand_in, "--simulate=4", RECIPE, XLA_FLAGS="--xla_dump_to=x")
    assert end(launcher)[0] == 0
    environment = stand_in.call()["environment"]
    assert environment["JAX_PLATFORMS"] == "cpu"
    assert environment["XLA_FLAGS"].split() == [
        "--xla_dump_to=x",
        "--xla_force_host_platform_device_count=4",
    ]


def test_processes_divide_the_gpus_and_meet_on_localhost(stand_in: StandIn) -> None:
    launcher = start(
        stand_in, "--processes", "2", RECIPE, CUDA_VISIBLE_DEVICES="4,5,6,7", http_proxy="web:1"
    )
    assert end(launcher) == (0, "")
    flags = [stand_in.call(process)["arguments"][2:] for process in range(2)]
    coordinator = flags[0][1]
    assert coordinator.startswith("--coordinator=localhost:")
    assert flags == [
        ["--distributed", coordinator, "--num_processes=2", f"--process_id={process}", RECIPE]
        for process in range(2)
    ]
    for process, gpus in enumerate(("0,1", "2,3")):
        environment = stand_in.call(process)["environment"]
        assert environment["JAX_LOCAL_DEVICE_IDS"] == gpus
        assert "localhost" in environment["no_proxy"].split(",")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_to_stop_reaches_every_process_once(stand_in: StandIn, number: int) -> None:
    stand_in.plan(p0={"sigterm": 75}, p1={"sigterm": 75})
    launcher = start(stand_in, "--processes", "2", RECIPE)
    for process in range(2):
        stand_in.call(process)
    os.killpg(launcher.pid, number)  # As a terminal does on Ctrl-C.
    assert end(launcher)[0] == 75


def test_a_second_request_kills(stand_in: StandIn) -> None:
    stand_in.plan(p0={"sigterm": None}, p1={"sigterm": None})
    launcher = start(stand_in, "--processes", "2", RECIPE)
    for process in range(2):
        stand_in.call(process)
    launcher.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        launcher.wait(timeout=1)
    launcher.send_signal(signal.SIGTERM)
    assert end(launcher)[0] == 128 + signal.SIGKILL


def test_no_process_outlives_one_that_failed(stand_in: StandIn) -> None:
    stand_in.plan(p0={"sigterm": None}, p1={"exit": 1}, p2={"exit": 74})
    code, stderr = end(start(stand_in, "--processes", "3", RECIPE, GRACE="1"))
    assert code == 1
    assert "process 1 ended with exit code 1" in stderr
    with pytest.raises(ProcessLookupError):
        os.kill(stand_in.call(0)["pid"], 0)


@pytest.mark.parametrize(("ends", "worst"), [((0, 75), 75), ((75, 74), 74), ((1, 74), 1)])
def test_the_worst_exit_code_is_returned(
    stand_in: StandIn, ends: tuple[int, int], worst: int
) -> None:
    stand_in.plan(p0={"exit": ends[0]}, p1={"exit": ends[1]})
    assert end(start(stand_in, "--processes", "2", RECIPE))[0] == worst


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "usage: bash launch/local.sh"),
        (["--processes"], "error: --processes: nothing is not a whole number of at least 1"),
        (["--simulate", "0", RECIPE], "error: --simulate: 0 is not a whole number of at least 1"),
        (["--processes=3", RECIPE], "error: --processes 3: cannot divide 4 GPUs evenly"),
    ],
)
def test_wrong_use_is_one_line(stand_in: StandIn, arguments: list[str], message: str) -> None:
    code, stderr = end(start(stand_in, *arguments, CUDA_VISIBLE_DEVICES="0,1,2,3"))
    assert code == 2
    assert stderr.startswith(message)
