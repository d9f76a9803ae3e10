"""Every recipe is valid and runs a step; what is wrong in one is named with its fix."""

import importlib
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

import configs
from configs import flexunet
from mbh_jax import config as config_keys
from mbh_jax import models
from mbh_jax.errors import UserError
from mbh_jax.labels import NUM_CLASSES
from mbh_jax.runtime.parallel import create_parallel, put_batch
from mbh_jax.training.run_state import differences
from mbh_jax.training.setup import create_training

RECIPES = sorted(
    path.stem for path in Path(configs.__path__[0]).glob("*.py") if path.stem != "__init__"
)


@pytest.fixture
def config() -> ConfigDict:
    return flexunet.get_config()


def recipe(name: str) -> ConfigDict:
    """As a run has it: what it leaves out has its default."""
    return config_keys.complete(importlib.import_module(f"configs.{name}").get_config())


def test_there_are_recipes() -> None:
    assert {"flexunet", "quickstart", "smoke"} <= set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_valid_and_its_docstring_holds_its_command(name: str) -> None:
    config_keys.validate(recipe(name), num_devices=1)
    docstring = importlib.import_module(f"configs.{name}").__doc__ or ""
    assert f"python -m mbh_jax.main --config=configs/{name}.py" in docstring


@pytest.mark.parametrize("name", ["flexunet", "quickstart", "strong", "strong_small"])
def test_recipe_runs_a_step(name: str) -> None:
    """Of the recipes that bring components; the others change their sizes and rates."""
    config = recipe(name)
    # The network of the recipe with fewer filters and levels, on the smallest image it takes.
    levels = "num_layers" if config.model.name == "flexunet" else "num_stages"
    config.model.update({"base_filters": 2, levels: 2})
    config.data.image_size = size = models.size_divisor(config.model)
    config.train.batch_size = 2
    parallel = create_parallel(config.parallel.mode)
    training = create_training(config, parallel, steps_per_epoch=10)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(-20, 90, (2, size, size, 1)).astype(np.int16),
        "label": rng.integers(0, NUM_CLASSES, (2, size, size)).astype(np.uint8),
        "weight": np.ones(2, np.float32),
        "example": np.arange(2, dtype=np.int32),
        "draw": np.arange(2, dtype=np.int32),
    }
    step = training.compile_train(1)
    state, sums = step(training.init(), put_batch(batch, parallel), jax.random.key(1))
    assert int(state.step) == 1
    assert np.isfinite(training.loss.objective(sums))
    assert int(sums["confusion"].sum()) == 2 * size * size


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train.batch_size", 0, "train.batch_size must be a whole number of 1 or more, not 0"),
        ("train.batch_size", True, "train.batch_size must be a whole number"),
        ("model.dropout_rate", 1.0, "model.dropout_rate must be a number from 0 to below 1"),
        ("optimizer.learning_rate", 0.0, "optimizer.learning_rate must be a number above 0"),
        ("optimizer.learning_rate", float("nan"), "optimizer.learning_rate must be a number"),
        ("optimizer.learning_rate", 5e-324, "above 0, not 5e-324, which is 0 in float32"),
        # Not 0 in NumPy, but on a device, which has no numbers below 2**-126.
        ("optimizer.learning_rate", 1e-40, "above 0, not 1e-40, which is 0 in float32"),
        ("optimizer.learning_rate", 1e39, "above 0, not 1e\\+39, which is inf in float32"),
        ("optimizer.beta1", 1 - 1e-10, "to below 1, not 0.9999999999, which is 1 in float32"),
        ("optimizer.clip_norm", 1e39, "must be a number from 0, not 1e\\+39, which is inf"),
        ("seed", 2**32, "seed must be a whole number from 0 to 4294967295, not 4294967296"),
        ("seed", -1, "seed must be a whole number from 0"),
        ("optimizer.plateau_patience", 2**31, "must be a whole number from 0 to 2147483647"),
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
    *sections, name = key.split(".")
    section = config[sections[0]] if sections else config
    with section.ignore_type():
        section[name] = value
    with pytest.raises(UserError, match=message):
        config_keys.validate(config, num_devices=1)


def test_a_whole_number_beyond_any_float_is_refused() -> None:
    rule = config_keys.SHARED_KEYS["optimizer.learning_rate"]
    assert not rule.accepts(10**400)
    assert rule.accepts(10**30)


def test_the_largest_seeds_differ() -> None:
    """JAX takes 32 bits of a seed: what more there is would be left out without a word."""
    accepted = [seed for seed in (0, 1, 2**32 - 1) if config_keys.SHARED_KEYS["seed"].accepts(seed)]
    keys = {tuple(jax.random.key_data(jax.random.key(seed)).tolist()) for seed in accepted}
    assert len(keys) == 3


def test_an_unknown_key_is_refused_with_the_nearest_name(config: ConfigDict) -> None:
    with config.unlocked():
        config.train.batchsize = 4
    with pytest.raises(UserError, match=r"train\.batchsize, did you mean train\.batch_size\?"):
        config_keys.validate(config, num_devices=1)


def test_a_missing_key_is_named(config: ConfigDict) -> None:
    with config.unlocked():
        del config.loss["name"]
    with pytest.raises(UserError, match=r"loss\.name is missing"):
        config_keys.validate(config, num_devices=1)


def test_a_batch_must_divide_over_the_devices(config: ConfigDict) -> None:
    with pytest.raises(UserError, match=r"--config\.train\.batch_size=8"):
        config_keys.validate(config, num_devices=8)


def test_microbatches_must_divide_over_the_devices(config: ConfigDict) -> None:
    config.train.batch_size = 20
    config.train.accumulate_steps = 3
    message = r"batch_size=20 does not divide over 4 devices and train\.accumulate_steps=3: .*=24"
    with pytest.raises(UserError, match=message):
        config_keys.validate(config, num_devices=4)
    config.train.batch_size = 24
    config_keys.validate(config, num_devices=4)


def test_a_range_of_steps_to_profile_is_taken(config: ConfigDict) -> None:
    config.profile.steps = "9:15"
    config_keys.validate(config, num_devices=1)


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
    assert differences(saved, config) == []
    config.model.dilation = 3
    assert differences(saved, config) == ["model.dilation: 1 -> 3"]


def test_steps_of_a_call_may_not_change_on_resuming(config: ConfigDict) -> None:
    saved = config.to_dict()
    config.train.steps_per_call = 4
    assert differences(saved, config) == ["train.steps_per_call: 1 -> 4"]


def test_microbatches_may_not_change_on_resuming_with_batch_statistics(config: ConfigDict) -> None:
    config.model.norm = "batch"
    saved = config.to_dict()
    config.train.accumulate_steps = 2
    assert differences(saved, config) == ["train.accumulate_steps: 1 -> 2"]


def test_the_length_may_not_change_where_the_schedule_ends_with_it(config: ConfigDict) -> None:
    config.optimizer.schedule = "cosine"
    saved = config.to_dict()
    config.train.num_epochs = 7
    assert differences(saved, config) == ["train.num_epochs: 100 -> 7"]


def test_a_key_of_another_component_is_refused_with_its_name(config: ConfigDict) -> None:
    with config.unlocked():
        config.loss.dice_weight = 1.0
    with pytest.raises(UserError, match=r"loss\.dice_weight belongs to cross_entropy_dice, and"):
        config_keys.validate(config, num_devices=1)


def test_a_component_that_nobody_knows_is_named_before_the_keys_of_another(
    config: ConfigDict,
) -> None:
    config.augment.name = "strng"
    with pytest.raises(UserError, match=r"augment\.name must be one of basic, .*, not 'strng'"):
        config_keys.validate(config, num_devices=1)


def test_a_configuration_of_an_earlier_version_is_completed(config: ConfigDict) -> None:
    old = config.to_dict()
    old["loss"] |= {"dice_weight": 1.0, "dice_smooth": 1.0}
    old["optimizer"]["weight_decay"] = 0.0
    del old["train"]["steps_per_call"]
    assert config_keys.complete(old).to_dict() == config.to_dict()
    assert differences(old, config) == []
    old["unheard_of"] = {"key": 1}
    with pytest.raises(UserError, match=r"unknown key unheard_of\.key"):
        config_keys.validate(config_keys.complete(old), num_devices=1)


def test_another_component_brings_its_keys(config: ConfigDict) -> None:
    config.optimizer.name = "adamw"
    config.optimizer.beta1 = 0.8
    completed = config_keys.complete(config)
    assert (completed.optimizer.weight_decay, completed.optimizer.beta1) == (0.0, 0.8)
    config_keys.validate(completed, num_devices=1)


def test_every_default_meets_its_rule() -> None:
    for name, key in config_keys.every_key().items():
        assert key.accepts(key.default), name


def test_the_page_of_the_configuration_is_up_to_date() -> None:
    page = Path(__file__).parents[1] / "docs" / "configuration.md"
    assert page.read_text() == config_keys.markdown(), (
        "python -m mbh_jax.config --markdown > docs/configuration.md"
    )
