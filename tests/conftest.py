"""Synthetic sources in BHSD's layout, and a small converted dataset, for all tests."""

import os
from collections.abc import Callable
from pathlib import Path

import jax
import pytest
from tiny_ct import write_tiny_source

from mbh_jax.log import log

# Tests compile many programs and run each for a few steps. Their processes inherit it. With
# XLA_FLAGS="" in the environment they are compiled as users' are, in twice the time.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compiles a step once a session, however many runs take it."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("xla")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture(autouse=True)
def log_reaches_caplog(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command called in this process would have turned that off."""
    monkeypatch.setattr(log, "propagate", True)


@pytest.fixture
def make_source(tmp_path: Path) -> Callable[..., Path]:
    """Writes a tiny source below `tmp_path`; takes the arguments of `write_tiny_source`."""
    return lambda **options: write_tiny_source(tmp_path / "source", **options)


@pytest.fixture(scope="session")
def tiny_source_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in BHSD's layout with 8 volumes of 64 x 64, of 7 patients; do not change it."""
    return write_tiny_source(tmp_path_factory.mktemp("tiny") / "source")


@pytest.fixture(scope="session")
def tiny_dataset_dir(tiny_source_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a conversion of `tiny_source_dir`; do not change it."""
    from data_prep import build_tfrecords

    output = tmp_path_factory.mktemp("tiny_dataset")
    build_tfrecords.build(tiny_source_dir, output)
    return output
