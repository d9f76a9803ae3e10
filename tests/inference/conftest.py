"""A run whose network predicts, for all tests of prediction."""

from pathlib import Path

import jax
import pytest
import run_commands
from etils import epath

from mbh_jax.runtime.parallel import create_parallel
from mbh_jax.training import network
from mbh_jax.training.initialize import initialize_workdir


@pytest.fixture(scope="package")
def workdir(tiny_dataset_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was initialized and not trained; its masks hold several classes."""
    config = run_commands.tiny_config(tiny_dataset_dir, model__norm="none")
    path = tmp_path_factory.mktemp("model") / "run"
    variables = jax.tree.map(lambda leaf: leaf + 0.05, network.create_network(config).init())
    initialize_workdir(config, epath.Path(path), variables, create_parallel("jit"))
    return path
