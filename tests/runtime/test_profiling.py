"""Traces of training steps."""

from pathlib import Path

import jax.numpy as jnp
import pytest

from mbh_jax.runtime.profiling import StepProfiler


def take_steps(profiler: StepProfiler, number: int) -> None:
    with profiler:
        for step in range(1, number + 1):
            profiler.before_step(step)
            profiler.after_step(step, jnp.ones(8) * step)


def test_the_steps_asked_for_are_traced(tmp_path: Path) -> None:
    take_steps(StepProfiler("2:3", tmp_path), 4)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_a_run_that_ends_early_leaves_its_trace(tmp_path: Path) -> None:
    take_steps(StepProfiler("2:30", tmp_path), 4)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_nothing_is_traced_unless_asked_for(tmp_path: Path) -> None:
    take_steps(StepProfiler("", tmp_path), 2)
    take_steps(StepProfiler("10:12", tmp_path), 4)
    assert not (tmp_path / "profile").exists()


def test_a_trace_that_cannot_be_written_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "profile").write_text("a file where a folder belongs")
    take_steps(StepProfiler("2:3", tmp_path), 4)
    assert "warning: the profile could not be written, the run goes on" in caplog.text
