"""shellcheck on every shell script."""

import shutil
import subprocess

import pytest
from launchers import REPOSITORY

SCRIPTS = sorted(
    str(path.relative_to(REPOSITORY))
    for pattern in ("launch/*.sh", "launch/*.sbatch", "tests/launch/*.sh", "benchmarks/*.sh")
    for path in REPOSITORY.glob(pattern)
    if path.name != "venv.sh"  # Checked where the others source it.
)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_scripts_have_no_finding() -> None:
    done = subprocess.run(
        ["shellcheck", "--external-sources", *SCRIPTS],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
