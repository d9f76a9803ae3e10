"""Real training processes, killed and stopped: the same numbers as of one that was let be."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import run_commands
from run_commands import finish, flags, start, wait_for_line

from mbh_jax.errors import EXIT_STOPPED

OVERRIDES = {"train__num_epochs": 8, "data__neighbours": 1}
"""Of every run here. A network that sees neighbouring slices depends on more of what is read."""
NUM_KILLS = int(os.environ.get("TEST_KILLS", "4"))
"""A kill takes some eight seconds. TEST_KILLS=20 was passed too."""


@pytest.fixture(scope="module")
def undisturbed(
    tiny_dataset_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """The results of a run that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    code, said = finish(start(flags(tiny_dataset_dir, workdir, **OVERRIDES)))
    assert code == 0, said
    config = run_commands.tiny_config(tiny_dataset_dir, **OVERRIDES)
    return run_commands.results(config, workdir)


def newest_step(workdir: Path) -> int:
    """The step of the newest whole checkpoint, 0 where there is none."""
    folders = (workdir / "checkpoints" / "last").glob("*")
    return max((int(path.name) for path in folders if path.name.isdigit()), default=0)


@pytest.mark.slow
def test_a_run_killed_many_times_ends_with_the_numbers_of_one_that_was_not(
    tiny_dataset_dir: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    """Kills fall into steps, checkpoints, validation, pictures and the last evaluation."""
    workdir = tmp_path / "run"
    arguments = flags(tiny_dataset_dir, workdir, **OVERRIDES)
    rng = np.random.default_rng(0)
    killed_after = []
    for number in range(NUM_KILLS):
        process = start(arguments)
        wait_for_line(process, "memory: ", "evaluating")
        # Later and later, the last ones after a checkpoint, so that the run gets on however slow
        # the machine is.
        while number >= NUM_KILLS // 2 and not newest_step(workdir) and process.poll() is None:
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 0.5 + 5 * number / NUM_KILLS))
        process.kill()
        code, said = finish(process)
        assert code in {-signal.SIGKILL, 0}, said
        killed_after += [newest_step(workdir)] if code else []
    print("killed with checkpoints of step", killed_after)
    assert len(killed_after) > NUM_KILLS / 2
    assert max(killed_after) > 0
    code, said = finish(start(arguments))
    assert code == 0, said
    config = run_commands.tiny_config(tiny_dataset_dir, **OVERRIDES)
    assert run_commands.results(config, workdir) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "line"),
    [
        (signal.SIGTERM, "epoch 2: loss"),
        (signal.SIGINT, "training: step"),
        (signal.SIGTERM, "wrote"),
    ],
)
def test_a_run_that_is_asked_to_stop_saves_and_goes_on(
    tiny_dataset_dir: Path,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    number: signal.Signals,
    line: str,
) -> None:
    workdir = tmp_path / "run"
    # Saved at the end of an epoch, or because it was asked to stop.
    changes = OVERRIDES | {"train__checkpoint_every_steps": 0}
    arguments = flags(tiny_dataset_dir, workdir, **changes)
    process = start(arguments)
    wait_for_line(process, line)
    process.send_signal(number)
    code, said = finish(process)
    if line != "wrote":
        assert code == EXIT_STOPPED, said
    if code == EXIT_STOPPED:  # Perhaps also between the last line and the end.
        assert "stopped on request: the same command goes on from here" in said
        code, said = finish(start(arguments))
    assert code == 0, said
    config = run_commands.tiny_config(tiny_dataset_dir, **changes)
    assert run_commands.results(config, workdir) == undisturbed
