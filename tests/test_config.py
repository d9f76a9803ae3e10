"""Every recipe is valid and runs a step; what is wrong in one is named with a way out."""

import importlib
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

import configs
from configs import flexunet
from mbh_jax import config as config_rules
from mbh_jax import models
from mbh_jax.data import preprocess
from mbh_jax.errors import UserError
from mbh_jax.labels import NUM_CLASSES
from mbh_jax.runtime.parallel import compile_train_step, create_parallel, put_batch
from mbh_jax.training import losses, optimizers, steps
from mbh_jax.training.train_state import TrainState

RECIPES = sorted(
    path.stem for path in Path(configs.__path__[0]).glob("*.py") if path.stem != "__init__"
)


@pytest.fixture
def config() -> ConfigDict:
    return flexunet.get_config()


def recipe(name: str) -> ConfigDict:
    return importlib.import_module(f"configs.{name}").get_config()


def test_there_are_recipes() -> None:
    assert {"flexunet", "quickstart", "smoke"} <= set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_valid_and_its_docstring_holds_its_command(name: str) -> None:
    config_rules.validate(recipe(name), num_devices=1)
    docstring = importlib.import_module(f"configs.{name}").__doc__ or ""
    assert f"python -m mbh_jax.main --config=configs/{name}.py" in docstring


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_runs_a_step(name: str) -> None:
    config = recipe(name)
    # The network of the recipe with fewer filters, on the smallest image it takes.
    config.model.base_filters = 2
    config.data.image_size = models.size_divisor(config.model.num_layers)
    config.train.batch_size = 2
    how = create_parallel(config.parallel.mode)
    model = models.create_model(config.model, NUM_CLASSES, axis_name=how.axis_name)
    loss = losses.create_loss(config.loss)
    schedule = optimizers.create_schedule(config.optimizer, 10, 10)
    optimizer = optimizers.create_optimizer(config.optimizer, schedule)
    size, channels = config.data.image_size, preprocess.num_channels(config.data.window)
    variables = model.init(jax.random.key(0), np.zeros((1, size, size, channels), np.float32))
    state = TrainState.create(
        dict(variables), optimizer, optimizers.create_plateau(config.optimizer)
    )
    train_step = compile_train_step(steps.create_steps(config, model, loss, optimizer).train, how)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(-20, 90, (2, size, size, 1)).astype(np.int16),
        "label": rng.integers(0, NUM_CLASSES, (2, size, size)).astype(np.uint8),
        "weight": np.ones(2, np.float32),
        "example": np.arange(2, dtype=np.int32),
    }
    state, sums = train_step(state, put_batch(batch, how), jax.random.key(1))
    assert int(state.step) == 1
    assert np.isfinite(loss.objective(sums))
    assert int(sums["confusion"].sum()) == 2 * size * size


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train.batch_size", 0, "train.batch_size must be a whole number of 1 or more, not 0"),
        ("train.batch_size", True, "train.batch_size must be a whole number"),
        ("model.dropout_rate", 1.0, "model.dropout_rate must be a number from 0 to below 1"),
        ("optimizer.learning_rate", 0.0, "optimizer.learning_rate must be a number above 0"),
        ("optimizer.learning_rate", float("nan"), "optimizer.learning_rate must be a number"),
        ("data.window", "bone", "one of hu_0_255, brain, brain_subdural_bone"),
        ("parallel.mode", "xmap", "parallel.mode must be one of pmap, jit"),
        ("data.image_size", 500, "multiple of 128, such as 384"),
        ("augment.flip", 1, "augment.flip must be True or False"),
        ("model.remat", "yes", "model.remat must be True or False"),
        ("train.accumulate_steps", 0, "train.accumulate_steps must be a whole number of 1 or more"),
        ("train.steps_per_call", 0, "train.steps_per_call must be a whole number of 1 or more"),
        ("data.resident", 1, "data.resident must be True or False"),
        ("train.max_nonfinite_steps", -1, "max_nonfinite_steps must be a whole number of 0"),
        ("profile.steps", "15:10", "profile.steps must be empty, or a first and a later last step"),
        ("profile.steps", "0:10", "profile.steps must be empty"),
        ("profile.steps", "10", "profile.steps must be empty"),
        ("profile.steps", 10, "profile.steps must be empty"),
    ],
)
def test_a_wrong_value_is_named_with_what_it_must_be(
    config: ConfigDict, key: str, value: object, message: str
) -> None:
    section, name = key.split(".")
    with config.ignore_type():
        config[section][name] = value
    with pytest.raises(UserError, match=message):
        config_rules.validate(config, num_devices=1)


def test_an_unknown_key_is_refused_with_the_nearest_name(config: ConfigDict) -> None:
    with config.unlocked():
        config.train.batchsize = 4
    with pytest.raises(UserError, match=r"train\.batchsize, did you mean train\.batch_size\?"):
        config_rules.validate(config, num_devices=1)


def test_a_missing_key_is_named(config: ConfigDict) -> None:
    with config.unlocked():
        del config.loss["name"]
    with pytest.raises(UserError, match=r"loss\.name is missing"):
        config_rules.validate(config, num_devices=1)


def test_a_batch_must_divide_over_the_devices(config: ConfigDict) -> None:
    with pytest.raises(UserError, match=r"--config\.train\.batch_size=8"):
        config_rules.validate(config, num_devices=8)


def test_parts_of_a_batch_must_divide_over_the_devices(config: ConfigDict) -> None:
    config.train.batch_size = 20
    config.train.accumulate_steps = 3
    message = r"batch_size=20 does not divide over 4 devices and train\.accumulate_steps=3: .*=24"
    with pytest.raises(UserError, match=message):
        config_rules.validate(config, num_devices=4)
    config.train.batch_size = 24
    config_rules.validate(config, num_devices=4)


def test_a_range_of_steps_to_profile_is_taken(config: ConfigDict) -> None:
    config.profile.steps = "9:15"
    config_rules.validate(config, num_devices=1)


def test_differences_leave_out_what_may_change_on_resuming(config: ConfigDict) -> None:
    saved = config.to_dict()
    config.train.num_epochs = 7
    config.eval.split = "validation"
    config.parallel.mode = "jit"
    config.model.remat = True
    config.data.resident = True
    config.train.accumulate_steps = 2
    config.train.max_nonfinite_steps = 3
    config.profile.steps = "10:15"
    assert config_rules.differences(saved, config) == []
    config.model.dilation = 3
    assert config_rules.differences(saved, config) == ["model.dilation: 1 -> 3"]


def test_steps_of_a_call_may_not_change_on_resuming(config: ConfigDict) -> None:
    saved = config.to_dict()
    config.train.steps_per_call = 4
    assert config_rules.differences(saved, config) == ["train.steps_per_call: 1 -> 4"]


def test_parts_may_not_change_on_resuming_with_batch_statistics(config: ConfigDict) -> None:
    config.model.norm = "batch"
    saved = config.to_dict()
    config.train.accumulate_steps = 2
    assert config_rules.differences(saved, config) == ["train.accumulate_steps: 1 -> 2"]


def test_the_length_may_not_change_where_the_schedule_ends_with_it(config: ConfigDict) -> None:
    config.optimizer.schedule = "cosine"
    saved = config.to_dict()
    config.train.num_epochs = 7
    assert config_rules.differences(saved, config) == ["train.num_epochs: 100 -> 7"]
