"""The weights that come with the package: whole, small, and of the recipe that starts with them."""

import hashlib
from pathlib import Path

import jax
import pytest
from etils import epath

from configs import strong_small
from mbh_jax import config as config_keys
from mbh_jax.inference.arguments import parse_arguments
from mbh_jax.runtime.parallel import create_parallel
from mbh_jax.training import bundle, network, pretrained

SHA256 = {"phantom": "f8c5334fd8c8383543c338249eb68907629cafd0e18d4d75bc37a2c34b3dac08"}
"""Of the files, as `sha256sum mbh_jax/training/*.zip` prints them."""


@pytest.mark.parametrize("name", pretrained.PRETRAINED)
def test_the_file_is_the_one_that_was_made(name: str) -> None:
    content = pretrained.source_path(name, "--init_from").read_bytes()
    assert hashlib.sha256(content).hexdigest() == SHA256[name]
    assert len(content) < 8_000_000


def test_phantom_fits_the_recipe_and_was_trained_on_generated_heads() -> None:
    path = pretrained.source_path("phantom", "--init_from")
    config = config_keys.complete(strong_small.get_config())
    network.check_same_network(config, path)
    trained = network.restore_network(path, create_parallel("pmap"), checkpoint="last")
    assert jax.tree.map(jax.numpy.shape, trained.variables) == jax.tree.map(
        lambda leaf: leaf.shape, network.create_network(config).shapes()
    )
    assert trained.step == bundle.read_facts(path).step > 0
    card = bundle.read_config(path)
    assert "teachers" not in card  # Bundles keep no folder's name.


def test_prediction_takes_it_by_its_name() -> None:
    chosen = parse_arguments(["--model=phantom", "--input=scans", "--output=out"], "")
    assert [path.name for path in chosen.model] == ["phantom.zip"]


def test_a_folder_of_that_name_goes_before_the_weights_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert pretrained.source_path("phantom", "--init_from").name == "phantom.zip"
    Path("phantom").mkdir()
    assert pretrained.source_path("phantom", "--init_from") == epath.Path("phantom")
