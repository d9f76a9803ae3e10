"""launch/tpu_vm.sh with a stand-in for gcloud that copies to a local folder and runs there."""

import subprocess
from pathlib import Path

import pytest
from launchers import REPOSITORY, StandIn

GCLOUD = """#!/bin/bash
printf '%s\\n' "$@" > "$STAND_IN/gcloud-$4.txt"
for argument; do
  case $argument in
    *.tar.gz) [ -f "$argument" ] && cp "$argument" "$WORKER/mbh_jax.tar.gz" ;;
    --command=*) cd "$WORKER" && exec bash -c "${argument#--command=}" ;;
  esac
done
exit 0
"""


def launch(stand_in: StandIn, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the launcher with one worker, whose home folder is `tmp_path`/worker."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "gcloud").write_text(GCLOUD)
    (programs / "gcloud").chmod(0o755)
    (tmp_path / "worker").mkdir()
    environment = stand_in.environment | {
        "PATH": f"{programs}:{stand_in.environment['PATH']}",
        "WORKER": str(tmp_path / "worker"),
        "PYTHON": "python3",
    }
    return subprocess.run(
        ["bash", "launch/tpu_vm.sh", *arguments],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_workers_get_the_working_tree_and_run_it(stand_in: StandIn, tmp_path: Path) -> None:
    stand_in.plan(p0={"exit": 75})
    arguments = ["--config=configs/flexunet.py", "--workdir=/mnt/a 'b' $HOME", "--mode=evaluate"]
    done = launch(stand_in, tmp_path, "pod", "europe-west4-b", *arguments)
    assert done.returncode == 75, done.stderr
    assert stand_in.call()["arguments"] == ["-m", "mbh_jax.main", "--distributed", *arguments]
    assert stand_in.call()["environment"]["PWD"] == str(tmp_path / "worker" / "mbh_jax")
    for verb in ("scp", "ssh"):
        flags = (stand_in.folder / f"gcloud-{verb}.txt").read_text().splitlines()
        assert flags[:4] == ["compute", "tpus", "tpu-vm", verb]
        assert {"--worker=all", "--zone=europe-west4-b"} <= set(flags)
    copied = tmp_path / "worker" / "mbh_jax"
    assert (copied / "mbh_jax/main.py").read_bytes() == (
        REPOSITORY / "mbh_jax/main.py"
    ).read_bytes()
    assert not (copied / ".venv").exists()


@pytest.mark.parametrize("arguments", [(), ("pod", "zone"), ("pod", "--config=x", "--workdir=y")])
def test_wrong_use_calls_nothing(
    stand_in: StandIn, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    done = launch(stand_in, tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: bash launch/tpu_vm.sh NAME ZONE")
    assert not list(stand_in.folder.glob("gcloud-*"))
