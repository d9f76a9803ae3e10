"""Checkpoints on disk: what damage does to them, and what it must not do."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mbh_jax.errors import UserError
from mbh_jax.runtime.parallel import Parallel, create_parallel
from mbh_jax.training.checkpoints import Checkpoints
from mbh_jax.training.train_state import TrainState

OLDER, NEWEST = 4, 7


@pytest.fixture(scope="module")
def how() -> Parallel:
    return create_parallel("jit")


def make_state(step: int) -> TrainState:
    values = jax.random.normal(jax.random.key(step), (40, 30))
    optimizer, plateau = optax.adam(1e-3), optax.contrib.reduce_on_plateau()
    state = TrainState.create({"params": {"kernel": values}}, optimizer, plateau)
    return state.replace(step=jnp.int32(step))


def is_state_of(step: int, state: TrainState) -> bool:
    return all(
        np.array_equal(ours, theirs)
        for ours, theirs in zip(
            jax.tree.leaves(state), jax.tree.leaves(make_state(step)), strict=True
        )
    )


@pytest.fixture(scope="module")
def two_checkpoints(how: Parallel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workdir with the checkpoints of steps `OLDER` and `NEWEST`; do not change it."""
    workdir = tmp_path_factory.mktemp("checkpoints") / "run"
    with Checkpoints(workdir, how) as saved:
        for step in (OLDER, NEWEST):
            saved.save_last(make_state(step), step, {"epoch": step})
    return workdir


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [Path.unlink, truncate, flip_a_bit])
def test_a_damaged_file_never_gives_wrong_numbers(
    how: Parallel, two_checkpoints: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    newest = two_checkpoints / "checkpoints" / "last" / str(NEWEST)
    files = sorted(path.relative_to(newest) for path in newest.rglob("*") if path.is_file())
    assert len(files) > 5
    fallen_back = []
    for number, file in enumerate(files):
        workdir = tmp_path / str(number)
        shutil.copytree(two_checkpoints, workdir)
        damage(workdir / "checkpoints" / "last" / str(NEWEST) / file)
        with Checkpoints(workdir, how) as saved:
            saved.last_record()
            restored = saved.restore_last(make_state(0))
        assert restored.record == {"epoch": restored.step}, file
        assert is_state_of(restored.step, restored.arrays), file
        if restored.step == OLDER:
            fallen_back.append(file)
            assert (workdir / "checkpoints" / "damaged" / f"last-{NEWEST}").is_dir()
    assert any("variables" in str(file) for file in fallen_back)
    assert any("training" in str(file) for file in fallen_back)
    assert any("record" in str(file) for file in fallen_back)


def test_falling_back_is_said_and_what_follows_is_saved_again(
    how: Parallel, two_checkpoints: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(two_checkpoints, workdir)
    shutil.rmtree(workdir / "checkpoints" / "last" / str(NEWEST) / "variables")
    with caplog.at_level(logging.WARNING), Checkpoints(workdir, how) as saved:
        assert saved.restore_last(make_state(0)).step == OLDER
        assert f"last/{NEWEST}: damaged" in caplog.text
        saved.save_last(make_state(NEWEST), NEWEST, {"epoch": NEWEST})
    with Checkpoints(workdir, how) as saved:
        assert saved.restore_last(make_state(0)).step == NEWEST


def test_when_every_checkpoint_is_damaged_there_is_none(
    how: Parallel, two_checkpoints: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(two_checkpoints, workdir)
    for step in (OLDER, NEWEST):
        shutil.rmtree(workdir / "checkpoints" / "last" / str(step) / "variables")
    with (
        Checkpoints(workdir, how) as saved,
        pytest.raises(UserError, match="no last checkpoint"),
    ):
        saved.restore_last(make_state(0))


def test_another_state_of_the_same_step_takes_the_place_of_the_first(
    how: Parallel, tmp_path: Path
) -> None:
    with Checkpoints(tmp_path, how) as saved:
        saved.save_last(make_state(NEWEST), NEWEST, {"epoch": 0})
        saved.save_last(make_state(NEWEST), NEWEST, {"epoch": 1})
    with Checkpoints(tmp_path, how) as saved:
        assert saved.last_record() == {"epoch": 1}


def test_arrays_of_another_shape_are_not_taken_for_damage(
    how: Parallel, two_checkpoints: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(two_checkpoints, workdir)
    other = make_state(0).replace(params={"kernel": jnp.zeros((40, 31))})
    with Checkpoints(workdir, how) as saved, pytest.raises(UserError, match="does not fit"):
        saved.restore_last(other)
    assert not (workdir / "checkpoints" / "damaged").exists()
