"""What a configuration names: the same for an example wherever it is, within its windows."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from mbh_jax import config as config_keys
from mbh_jax.data.augmentation import AUGMENTATIONS, create_augmentation, draws, presets
from mbh_jax.data.augmentation.presets import Preset, Range
from mbh_jax.data.augmentation.registry import create_from_preset
from mbh_jax.data.preprocess import apply_windows

KEYS = jax.vmap(lambda n: jax.random.fold_in(jax.random.key(7), n))(jnp.arange(6))
QUICK = dict.fromkeys(AUGMENTATIONS["original"].keys, 0.0) | {"hflip": True, "brightening": True}


def slices(number: int = 6, size: int = 32) -> tuple[jax.Array, jax.Array]:
    """HU (B,H,W,1) int16 and labels: a head of 35 HU with blood of 65 HU in it."""
    row, column = np.mgrid[:size, :size] - size / 2
    label = np.where(np.hypot(row + 4, column - 5) < 5, 2, 0).astype(np.uint8)
    hu = np.where(np.hypot(row, column) < size / 2 - 2, 35, -1000) + 30 * (label > 0)
    noise = np.random.default_rng(0).normal(0, 3, (number, size, size))
    labels = jnp.asarray(np.broadcast_to(label, noise.shape))
    return jnp.asarray((hu + noise).astype(np.int16)[..., None]), labels


@functools.cache
def compiled(name: str, window: str, parts: tuple[tuple[str, bool], ...]) -> Callable:
    defaults = {key: rule.default for key, rule in AUGMENTATIONS[name].keys.items()}
    config = ConfigDict({"name": name, **defaults, **dict(parts)})
    augmentation = create_augmentation(config, window)

    @jax.jit
    def apply(keys: jax.Array, hu: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
        image = apply_windows(augmentation.augment_hu(keys, hu), window)
        return augmentation.augment_image(keys, image, label)

    return apply


def augmented(
    name: str,
    keys: jax.Array,
    hu: jax.Array,
    label: jax.Array,
    window: str = "brain",
    **parts: bool,
) -> tuple[jax.Array, jax.Array]:
    return compiled(name, window, tuple(parts.items()))(keys, hu, label)


@pytest.mark.parametrize("name", ["original", "strong"])
def test_an_example_does_not_depend_on_its_place_in_the_batch(name: str) -> None:
    hu, label = slices()
    together = augmented(name, KEYS, hu, label)
    order = np.array([3, 5, 0, 1, 4, 2])
    shuffled = augmented(name, KEYS[order], hu[order], label[order])
    np.testing.assert_array_equal(together[0][order], shuffled[0])
    np.testing.assert_array_equal(together[1][order], shuffled[1])
    assert len({np.asarray(image).tobytes() for image in together[0]}) == len(KEYS)


@pytest.mark.parametrize("name", ["original", "strong"])
def test_one_example_after_another_gives_what_all_at_once_give(name: str) -> None:
    """A CPU computes the first, accelerators the second; `jax.vmap` of batches of one is it."""
    hu, label = slices()
    in_turn = augmented(name, KEYS, hu, label)
    batches_of_one = [array[:, None] for array in (KEYS, hu, label)]
    at_once = jax.jit(jax.vmap(compiled(name, "brain", ())))(*batches_of_one)
    np.testing.assert_allclose(in_turn[0], at_once[0][:, 0], atol=1e-5)
    np.testing.assert_array_equal(in_turn[1], at_once[1][:, 0])


def test_strong_keeps_image_and_label_together_and_within_the_window() -> None:
    hu, label = slices()
    image, moved = augmented("strong", KEYS, hu, label)
    assert image.min() >= 0 and image.max() <= 1
    assert set(np.unique(moved)) == {0, 2}
    for one, mask in zip(np.asarray(image)[..., 0], np.asarray(moved) > 0, strict=True):
        head = (one > 0.1) & ~mask
        assert one[mask].mean() > one[head].mean() + 0.1


def test_strong_shows_the_lowest_value_of_a_slice_outside() -> None:
    """Scans of BHSD are clamped: their air is at 0 HU, above the lowest value of two windows."""
    hu, label = slices()
    image, _ = augmented("strong", KEYS, hu.clip(0), label, "brain_subdural_bone", intensity=False)
    air = apply_windows(jnp.zeros((1, 1, 1, 1)), "brain_subdural_bone")[0, 0, 0]
    np.testing.assert_allclose(np.asarray(image).min((1, 2)), [air] * len(KEYS), atol=1e-5)
    assert air.max() > 0.2


def test_equal_windows_stay_equal_and_several_are_moved_alike() -> None:
    hu, label = slices()
    clamped, _ = augmented("strong", KEYS, hu, label, "hu_0_255", intensity=False)
    np.testing.assert_array_equal(clamped[..., 0], clamped[..., 2])
    assert clamped.max() > 40
    several, _ = augmented("strong", KEYS, hu, label, "brain_subdural_bone", intensity=False)
    brain, _ = augmented("strong", KEYS, hu, label, intensity=False)
    np.testing.assert_allclose(several[..., 0], brain[..., 0], atol=1e-5)


def test_parts_can_be_left_out() -> None:
    hu, label = slices()
    image, moved = augmented("strong", KEYS, hu, label, spatial=False)
    np.testing.assert_array_equal(moved, label)
    assert not np.allclose(image, apply_windows(hu, "brain"), atol=0.01)
    augmentation = create_augmentation(ConfigDict({"name": "strong", "intensity": False}), "brain")
    assert augmentation.augment_hu(KEYS, hu) is hu


NNUNET = {
    # Probability of acting on an image of one channel, lowest and highest value, read from the
    # source of nnU-Net and batchgeneratorsv2.
    "rotation_degrees": (0.2, -180, 180),
    "scale": (0.2, 0.7, 1.4),
    "noise": (0.1, 0, 0.1),
    "blur": (0.1, 0.5, 1),
    "brightness": (0.15, 0.75, 1.25),
    "contrast": (0.15, 0.75, 1.25),
    "low_resolution": (0.125, 0.5, 1),
    "inverted_gamma": (0.1, 0.7, 1.5),
    "gamma": (0.3, 0.7, 1.5),
}


def test_nnunet_draws_what_nnunet_draws() -> None:
    numbers = jax.random.uniform(jax.random.key(3), (10_000, 4, 1))
    for name in Preset._fields:
        bounds = getattr(presets.NNUNET, name)
        if not isinstance(bounds, Range):
            continue
        probability, low, high = NNUNET.get(name, (0, 0, 0))
        two_sided = name in ("brightness", "contrast", "inverted_gamma", "gamma")
        draw = draws.factor if two_sided else functools.partial(draws.uniform, off=1.0)
        values = np.asarray(jax.vmap(draw, in_axes=(0, None))(numbers, bounds))
        drawn = values[values != 1.0]
        assert drawn.size / 10_000 == pytest.approx(probability, abs=0.015), name
        if drawn.size:
            extent = [drawn.min(), drawn.max()]
            np.testing.assert_allclose(extent, [low, high], atol=0.02 * (high - low))
    assert (presets.NNUNET.flip_horizontal, presets.NNUNET.flip_vertical) == (0.5, 0.5)


def test_nnunet_shows_the_mean_of_blood_outside_and_keeps_what_leaves_the_window() -> None:
    assert not presets.NNUNET.fill_with_lowest and not presets.NNUNET.clip
    turned = Preset(rotation_degrees=Range(1.0, 45.0, 45.0), fill_with_lowest=False, clip=False)
    image, label = jnp.full((1, 16, 16, 1), 35 / 80), jnp.zeros((1, 16, 16), int)
    changed, _ = create_from_preset(turned, "brain").augment_image(KEYS[:1], image, label)
    assert changed[0, 0, 0, 0] == pytest.approx(52 / 80, abs=1e-5)
    assert changed[0, 8, 8, 0] == pytest.approx(35 / 80, abs=1e-5)
    brighter = Preset(brightness=Range(1.0, 1.25, 1.25), clip=False)
    changed, _ = create_from_preset(brighter, "brain").augment_image(KEYS[:1], image + 1, label)
    # 115 HU are 63 HU above the mean of blood, which become up to 1.25 times as many.
    assert 115 / 80 < changed[0, 8, 8, 0] <= (52 + 1.25 * 63) / 80


def test_none_returns_the_inputs_themselves() -> None:
    hu, label = slices()
    augmentation = create_augmentation(ConfigDict({"name": "none"}), "brain")
    assert augmentation.augment_hu(KEYS, hu) is hu
    image, moved = augmentation.augment_image(KEYS, hu, label)
    assert image is hu and moved is label


def test_bfloat16_stays_bfloat16() -> None:
    hu, label = slices()
    augmentation = create_augmentation(ConfigDict({"name": "original", **QUICK}), "brain")
    image = apply_windows(hu, "brain")
    augment = jax.jit(augmentation.augment_image)
    half, _ = augment(KEYS, image.astype(jnp.bfloat16), label)
    whole, _ = augment(KEYS, image, label)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), whole, atol=0.01)


def test_a_configuration_without_a_name_is_basic() -> None:
    old = {"augment": {"flip": True, "hu_noise_hu": 2.0}}
    completed = config_keys.complete(old).augment
    assert (completed.name, completed.flip, completed.scale) == ("basic", True, 0.0)
    completed.name = "strong"
    assert set(config_keys.complete({"augment": completed}).augment) == {
        "name", "spatial", "intensity",
    }  # fmt: skip
