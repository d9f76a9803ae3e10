"""What the benchmark of learning makes of a variant's text, of counts and of a history."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.learning import Variant
from benchmarks.learning_tables import dice_table, print_table, row_of, seconds_to
from mbh_jax.errors import UserError


def test_a_variant_is_a_recipe_with_overrides_of_equal_length() -> None:
    variant = Variant.parse("mine: smoke data.image_size=32 init_from=runs/a model.norm=batch")
    assert (variant.name, variant.recipe, variant.init_from) == ("mine", "smoke", "runs/a")
    config = variant.config(Path("fold"), seed=3, steps=200)
    assert (config.seed, config.data.image_size, config.model.norm) == (3, 32, "batch")
    assert config.train.num_epochs * config.train.steps_per_epoch == 200


@pytest.mark.parametrize("text", ["smoke", "a:", "a: smoke batch"])
def test_a_variant_written_otherwise_is_one_line(text: str) -> None:
    with pytest.raises(UserError, match="name: recipe key=value"):
        Variant.parse(text)


def test_keras_takes_a_size_alone() -> None:
    assert Variant.parse("k: keras size=256").overrides == {"size": "256"}
    with pytest.raises(UserError, match="nothing but size"):
        Variant.parse("k: keras data.image_size=256")


@pytest.mark.parametrize(
    ("text", "said"),
    [("a: smok", "smok.py is not there"), ("a: smoke seeds=1", "unknown key seeds")],
)
def test_a_recipe_or_key_that_is_not_there_is_one_line(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Variant.parse(text).config(Path("fold"), seed=0, steps=10)


def test_dice_of_classes_and_of_any_blood() -> None:
    """Blood of the wrong kind is found as blood, and wrong in both classes."""
    first, second = np.zeros((6, 6), int), np.zeros((6, 6), int)
    first[1, 1], first[1, 2], first[0, 1] = 6, 2, 2
    second[2, 2], second[2, 0] = 5, 5
    found = dice_table([first, second])
    np.testing.assert_allclose(found["pooled"]["EDH"], 12 / 16)
    np.testing.assert_allclose(found["pooled"]["IPH"], 10 / 17)
    np.testing.assert_allclose(found["pooled"]["any"], 2 * 13 / (18 + 15))
    np.testing.assert_allclose(found["present"]["IPH"], 10 / 15)
    np.testing.assert_allclose(found["present"]["any"], (16 / 18 + 10 / 15) / 2)


def test_a_quality_counts_from_when_it_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    values = [0.6, None, 0.5, 0.7]
    history = [{"val_dice_any": value, "train_seconds": 10.0} for value in values]
    assert seconds_to(0.5, history) == 30.0
    assert seconds_to(0.6, history) == 40.0
    assert seconds_to(0.8, history) == float("inf")
    cases = {"one": np.ones((6, 6), int)}
    print_table([row_of("a", seed, [9], cases, [history]) for seed in (0, 1)])
    lines = capsys.readouterr().out.splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert "| a | 2 seeds | 9 | 1 | pooled |" in lines[-2]
    assert "0.167 (0.167-0.167)" in lines[-2]
    assert "| 30 | 40 |" in lines[2]
