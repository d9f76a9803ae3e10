"""What a configuration names: the same for an example wherever it is, within its windows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from mbh_jax import config as config_keys
from mbh_jax.data.augmentation import AUGMENTATIONS, create_augmentation
from mbh_jax.data.preprocess import apply_windows

KEYS = jax.vmap(lambda n: jax.random.fold_in(jax.random.key(7), n))(jnp.arange(6))
PRESETS = [name for name in AUGMENTATIONS if name not in ("basic", "none")]


def slices(number: int = 6, size: int = 32) -> tuple[jax.Array, jax.Array]:
    """HU (B,H,W,1) int16 and labels: a head of 35 HU with blood of 65 HU in it."""
    row, column = np.mgrid[:size, :size] - size / 2
    label = np.where(np.hypot(row + 4, column - 5) < 5, 2, 0).astype(np.uint8)
    hu = np.where(np.hypot(row, column) < size / 2 - 2, 35, -1000) + 30 * (label > 0)
    noise = np.random.default_rng(0).normal(0, 3, (number, size, size))
    labels = jnp.asarray(np.broadcast_to(label, noise.shape))
    return jnp.asarray((hu + noise).astype(np.int16)[..., None]), labels


def augmented(
    name: str,
    keys: jax.Array,
    hu: jax.Array,
    label: jax.Array,
    window: str = "brain",
    **parts: bool,
) -> tuple[jax.Array, jax.Array]:
    augmentation = create_augmentation(ConfigDict({"name": name, **parts}), window)

    @jax.jit
    def apply(keys: jax.Array, hu: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
        image = apply_windows(augmentation.augment_hu(keys, hu), window)
        return augmentation.augment_image(keys, image, label)

    return apply(keys, hu, label)


@pytest.mark.parametrize("name", PRESETS)
def test_an_example_does_not_depend_on_its_place_in_the_batch(name: str) -> None:
    hu, label = slices()
    together = augmented(name, KEYS, hu, label)
    alone = augmented(name, KEYS[4:5], hu[4:5], label[4:5])
    np.testing.assert_allclose(together[0][4], alone[0][0], atol=1e-5)
    np.testing.assert_array_equal(together[1][4], alone[1][0])
    assert len({np.asarray(image).tobytes() for image in together[0]}) == len(KEYS)


def test_strong_keeps_image_and_label_together_and_within_the_window() -> None:
    hu, label = slices()
    image, moved = augmented("strong", KEYS, hu, label)
    assert image.min() >= 0 and image.max() <= 1
    assert set(np.unique(moved)) == {0, 2}
    for one, mask in zip(np.asarray(image)[..., 0], np.asarray(moved) > 0, strict=True):
        head = (one > 0.1) & ~mask
        assert one[mask].mean() > one[head].mean() + 0.1


def test_equal_windows_stay_equal_and_several_are_moved_alike() -> None:
    hu, label = slices()
    clamped, _ = augmented("strong", KEYS, hu, label, "hu_0_255")
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
    same, moved = augmented("strong", KEYS, hu, label, spatial=False, intensity=False)
    np.testing.assert_allclose(same, apply_windows(hu, "brain"), atol=1e-5)
    augmentation = create_augmentation(ConfigDict({"name": "strong", "intensity": False}), "brain")
    assert augmentation.augment_hu(KEYS, hu) is hu


def test_none_returns_the_inputs_themselves() -> None:
    hu, label = slices()
    augmentation = create_augmentation(ConfigDict({"name": "none"}), "brain")
    assert augmentation.augment_hu(KEYS, hu) is hu
    image, moved = augmentation.augment_image(KEYS, hu, label)
    assert image is hu and moved is label


def test_bfloat16_stays_bfloat16() -> None:
    hu, label = slices()
    augmentation = create_augmentation(ConfigDict({"name": "strong"}), "brain")
    image = apply_windows(hu, "brain")
    augment = jax.jit(augmentation.augment_image)
    half, _ = augment(KEYS, image.astype(jnp.bfloat16), label)
    whole, _ = augment(KEYS, image, label)
    assert half.dtype == jnp.bfloat16
    assert np.abs(half.astype(jnp.float32) - whole).mean() < 0.01


def test_a_configuration_without_a_name_is_basic() -> None:
    old = {"augment": {"flip": True, "hu_noise_hu": 2.0}}
    completed = config_keys.complete(old).augment
    assert (completed.name, completed.flip, completed.scale) == ("basic", True, 0.0)
    completed.name = "strong"
    assert set(config_keys.complete({"augment": completed}).augment) == {
        "name", "spatial", "intensity",
    }  # fmt: skip
