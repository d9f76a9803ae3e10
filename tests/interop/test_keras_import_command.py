"""From a Keras file to a workdir that evaluation and training take up."""

import json
from pathlib import Path

import numpy as np
import pytest
import run_commands
from etils import epath
from ml_collections import ConfigDict

from configs import flexunet
from mbh_jax import cli
from mbh_jax.data.loader import Loader
from mbh_jax.errors import UserError
from mbh_jax.interop import keras_import
from mbh_jax.models import create_model
from mbh_jax.training.validation import validate

KERAS_FILE = Path(__file__).parents[1] / "fixtures" / "keras_plain.h5"


@pytest.fixture
def config(tiny_dataset_dir: Path) -> ConfigDict:
    found, _ = keras_import.read_keras_flexunet(KERAS_FILE)
    config = flexunet.get_config()
    config.data.dir = str(tiny_dataset_dir)
    config.data.image_size = found["input_shape"][0]
    config.model.update(found["model"])
    config.train.num_epochs = 1
    config.train.preview_slices = 0
    return config


def import_keras(config: ConfigDict, workdir: Path) -> None:
    keras_import.main(cli.Command(config, epath.Path(workdir), [str(KERAS_FILE)]))


def keras_cross_entropy(config: ConfigDict, split: str, slices: str) -> float:
    """The mean cross-entropy of the Keras weights over a split."""
    _, variables = keras_import.read_keras_flexunet(KERAS_FILE)
    training, loader = run_commands.training_of(config), Loader(config.data)
    batches = loader.eval_batches(loader.index.examples(split, slices), global_batch=4)
    sums = validate(training.validation_step, variables, batches, training.parallel)
    return sums["cross_entropy"] / sums["examples"]


def test_evaluation_evaluates_the_keras_weights(config: ConfigDict, tmp_path: Path) -> None:
    import_keras(config, tmp_path / "imported")
    config.eval.split = "test"
    run_commands.evaluate_split(config, tmp_path / "imported")
    written = json.loads((tmp_path / "imported/evaluation/test/summary.json").read_text())

    assert written["checkpoint_step"] == 0
    expected = keras_cross_entropy(config, "test", "all")
    assert written["cross_entropy"] == pytest.approx(expected, rel=1e-6)


def test_training_goes_on_from_the_keras_weights(config: ConfigDict, tmp_path: Path) -> None:
    import_keras(config, tmp_path / "imported")
    config.optimizer.learning_rate = 1e-12
    run_commands.train_and_evaluate(config, tmp_path / "imported")
    history = json.loads((tmp_path / "imported" / "history.json").read_text())
    expected = keras_cross_entropy(config, "validation", config.data.slices)
    assert history[0]["val_loss"] == pytest.approx(expected, rel=1e-4)


def test_another_network_is_refused_with_the_flags_to_add(
    config: ConfigDict, tmp_path: Path
) -> None:
    wanted = config.model.base_filters
    config.model.base_filters = wanted + 1
    with pytest.raises(UserError, match=f"--config.model.base_filters={wanted}"):
        import_keras(config, tmp_path / "imported")
    assert not (tmp_path / "imported").exists()


def test_a_workdir_with_a_run_is_not_overwritten(config: ConfigDict, tmp_path: Path) -> None:
    import_keras(config, tmp_path / "imported")
    with pytest.raises(UserError, match="already holds a run"):
        import_keras(config, tmp_path / "imported")


def test_imported_network_is_the_one_the_configuration_makes(config: ConfigDict) -> None:
    _, variables = keras_import.read_keras_flexunet(KERAS_FILE)
    image = np.zeros((1, config.data.image_size, config.data.image_size, 3), np.float32)
    logits = create_model(config.model, 6).apply(variables, image)
    assert logits.shape == (*image.shape[:3], 6)
