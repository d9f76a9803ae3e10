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
def parallel() -> Parallel:
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
def two_checkpoints(parallel: Parallel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workdir with the checkpoints of steps `OLDER` and `NEWEST`; do not change it."""
    workdir = tmp_path_factory.mktemp("checkpoints") / "run"
    with Checkpoints(workdir, parallel) as checkpoints:
        for step in (OLDER, NEWEST):
            checkpoints.save_last(make_state(step), step, {"epoch": step})
    return workdir


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [Path.unlink, truncate, flip_a_bit])
def test_a_damaged_file_never_gives_wrong_numbers(
    parallel: Parallel, two_checkpoints: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    newest = two_checkpoints / "checkpoints" / "last" / str(NEWEST)
    files = sorted(path.relative_to(newest) for path in newest.rglob("*") if path.is_file())
    assert len(files) > 5
    fallen_back = []
    for number, file in enumerate(files):
        workdir = tmp_path / str(number)
        shutil.copytree(two_checkpoints, workdir)
        damage(workdir / "checkpoints" / "last" / str(NEWEST) / file)
        with Checkpoints(workdir, parallel) as checkpoints:
            checkpoints.last_record()
            restored = checkpoints.restore_last(make_state(0))
        assert restored.record == {"epoch": restored.step}, file
        assert is_state_of(restored.step, restored.arrays), file
        if restored.step == OLDER:
            fallen_back.append(file)
            assert (workdir / "checkpoints" / "damaged" / f"last-{NEWEST}").is_dir()
    assert any("variables" in str(file) for file in fallen_back)
    assert any("training" in str(file) for file in fallen_back)
    assert any("record" in str(file) for file in fallen_back)


def test_falling_back_is_said_and_what_follows_is_saved_again(
    parallel: Parallel, two_checkpoints: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(two_checkpoints, workdir)
    shutil.rmtree(workdir / "checkpoints" / "last" / str(NEWEST) / "variables")
    with caplog.at_level(logging.WARNING), Checkpoints(workdir, parallel) as checkpoints:
        assert checkpoints.restore_last(make_state(0)).step == OLDER
        assert f"last/{NEWEST}: damaged" in caplog.text
        checkpoints.save_last(make_state(NEWEST), NEWEST, {"epoch": NEWEST})
    with Checkpoints(workdir, parallel) as checkpoints:
        assert checkpoints.restore_last(make_state(0)).step == NEWEST


def test_when_every_checkpoint_is_damaged_there_is_none(
    parallel: Parallel, two_checkpoints: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(two_checkpoints, workdir)
    for step in (OLDER, NEWEST):
        shutil.rmtree(workdir / "checkpoints" / "last" / str(step) / "variables")
    with (
        Checkpoints(workdir, parallel) as checkpoints,
        pytest.raises(UserError, match="no last checkpoint"),
    ):
        checkpoints.restore_last(make_state(0))


def test_another_state_of_the_same_step_takes_the_place_of_the_first(
    parallel: Parallel, tmp_path: Path
) -> None:
    with Checkpoints(tmp_path, parallel) as checkpoints:
        checkpoints.save_last(make_state(NEWEST), NEWEST, {"epoch": 0})
        checkpoints.save_last(make_state(NEWEST), NEWEST, {"epoch": 1})
    with Checkpoints(tmp_path, parallel) as checkpoints:
        assert checkpoints.last_record() == {"epoch": 1}


def test_initial_weights_stand_for_the_best_ones_only_before_the_first_step(
    parallel: Parallel, tmp_path: Path
) -> None:
    wanted = make_state(0).variables
    with Checkpoints(tmp_path, parallel) as checkpoints:
        checkpoints.save_initial(make_state(1).variables, {})
        checkpoints.save_last(make_state(1), 0, {})
        checkpoints.wait()
        for which in ("best", "last"):
            restored = checkpoints.restore_variables(which, wanted)
            assert np.array_equal(
                restored.arrays["params"]["kernel"], make_state(1).params["kernel"]
            )
        checkpoints.save_last(make_state(OLDER), OLDER, {})
        checkpoints.wait()
        with pytest.raises(UserError, match="no best checkpoint"):
            checkpoints.restore_variables("best", wanted)


def test_arrays_of_another_shape_are_not_taken_for_damage(
    parallel: Parallel, two_checkpoints: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(two_checkpoints, workdir)
    other = make_state(0).replace(params={"kernel": jnp.zeros((40, 31))})
    with (
        Checkpoints(workdir, parallel) as checkpoints,
        pytest.raises(UserError, match="does not fit"),
    ):
        checkpoints.restore_last(other)
    assert not (workdir / "checkpoints" / "damaged").exists()


@pytest.mark.parametrize("name", ["out[1]", "[!a]", "a*", "a?b", "~", "a b", "ü#%20"])
def test_no_character_of_a_path_is_a_pattern(
    parallel: Parallel, two_checkpoints: Path, tmp_path: Path, name: str
) -> None:
    shutil.copytree(two_checkpoints, tmp_path / "a1b")
    with Checkpoints(tmp_path / name, parallel) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save_last(make_state(step), step, {"epoch": step})
    with Checkpoints(tmp_path / name, parallel) as checkpoints:
        restored = checkpoints.restore_last(make_state(0))
    assert restored.step == 3
    assert is_state_of(3, restored.arrays)
    assert {path.name for path in tmp_path.iterdir()} == {name, "a1b"}


@pytest.mark.parametrize("name", ["a\\b", "logs:/run"])
def test_a_path_that_the_storage_library_would_change_is_refused_before_anything_is_made(
    parallel: Parallel, tmp_path: Path, name: str
) -> None:
    with pytest.raises(UserError, match="checkpoints cannot be stored in a folder whose path"):
        Checkpoints(tmp_path / name, parallel)
    assert not list(tmp_path.iterdir())
