"""launch/bhsd.sh with a stand-in for Python: what it runs, and wrong options."""

import subprocess

import pytest
from launchers import REPOSITORY, StandIn


def run(stand_in: StandIn, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "launch/bhsd.sh", *arguments],
        cwd=REPOSITORY,
        env=stand_in.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_it_ends_with_the_published_results(stand_in: StandIn) -> None:
    """The stand-in keeps the last of the calls; the first error would have ended the script."""
    ended = run(stand_in, "--fold=3", "--source", "launch", "--name", "twin", "--config.seed=1")
    assert ended.returncode == 0, ended.stderr
    assert stand_in.call()["arguments"] == [
        "-m",
        "benchmarks.published",
        "runs/twin_fold3/evaluation/test/summary.json",
    ]


def test_the_first_step_that_fails_ends_it(stand_in: StandIn) -> None:
    stand_in.plan(p0={"exit": 7})
    assert run(stand_in, "--source", "launch").returncode == 7
    arguments = stand_in.call()["arguments"]
    assert arguments[:2] == ["-m", "data_prep.build_tfrecords"]
    assert arguments[-4:-2] == ["--split", "official"]
    assert run(stand_in).returncode == 7
    assert stand_in.call()["arguments"][:2] == ["-m", "data_prep.download"]


@pytest.mark.parametrize("arguments", [["--fold=5"], ["--fold"], ["--source="]])
def test_wrong_options_are_one_line(stand_in: StandIn, arguments: list[str]) -> None:
    ended = run(stand_in, *arguments)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
