"""What augmentation costs beside a training step, and what it looks like.

    python -m benchmarks.augmentation --size 512 --batch 2
    python -m benchmarks.augmentation --pictures augmentation.png

The first times the augmentations by themselves and training steps with and without them, in turns.
The second draws a page: a row for each transform of `strong` by itself at the probability 1, for
each kind of variant of `original`, and for each augmentation with its defaults; a column for each
random key. The slice is a phantom's.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from PIL import Image, ImageDraw, ImageFont

from data_prep.phantom.head import make_head
from mbh_jax import files
from mbh_jax.data.augmentation import AUGMENTATIONS, Augmentation, create_augmentation
from mbh_jax.data.augmentation.presets import STRONG, Preset, Range
from mbh_jax.data.augmentation.registry import create_from_preset
from mbh_jax.data.preprocess import apply_windows
from mbh_jax.errors import one_line_errors
from mbh_jax.imageio.windows import BRAIN
from mbh_jax.reporting.overlays import overlay

_TEXT_WIDTH = 150


def alone(preset: Preset) -> Iterator[tuple[str, Preset]]:
    """Each transform of a preset by itself, on every example and every channel."""
    for name in Preset._fields:
        value = getattr(preset, name)
        if isinstance(value, Range) and value.probability:
            always = value._replace(probability=1.0, channel_probability=1.0)
            yield name, Preset(**{name: always})
        elif name.startswith("flip") and value:
            yield name, Preset(**{name: 1.0})


def rows() -> Iterator[tuple[str, Augmentation]]:
    """Name and augmentation of each row of the page, for the brain window."""
    for name, preset in alone(STRONG):
        yield name, create_from_preset(preset, "brain")
    keys = AUGMENTATIONS["original"].keys
    off = dict.fromkeys(keys, 0.0)
    for name, rule in keys.items():
        one = {name: True if isinstance(rule.default, bool) else rule.default or 0.2}
        yield name, create_augmentation(ConfigDict({"name": "original", **off, **one}), "brain")
    for name, component in AUGMENTATIONS.items():
        defaults = {key: rule.default for key, rule in component.keys.items()}
        if name != "basic":
            yield name, create_augmentation(ConfigDict({"name": name, **defaults}), "brain")


def page(hu: np.ndarray, label: np.ndarray, columns: int = 6) -> np.ndarray:
    """The page of one slice.

    Args:
        hu: (H,W) Hounsfield units.
        label: (H,W) integer label values.
        columns: random keys.

    Returns:
        (height, width, 3) uint8.
    """
    keys = jax.random.split(jax.random.key(0), columns)
    hus = jnp.broadcast_to(jnp.asarray(hu)[..., None], (columns, *hu.shape, 1))
    labels = jnp.broadcast_to(jnp.asarray(label), (columns, *label.shape))
    strips = []
    for name, augmentation in rows():

        @jax.jit
        def apply(augmentation: Augmentation = augmentation) -> tuple[jax.Array, jax.Array]:
            image = apply_windows(augmentation.augment_hu(keys, hus), "brain")
            return augmentation.augment_image(keys, image, labels)

        images, moved = apply()
        shown_hu = np.asarray(images[..., 0]) * BRAIN.width_hu
        tiles = [overlay(*one, alpha=0.0) for one in zip(shown_hu, np.asarray(moved), strict=True)]
        title = Image.new("RGB", (_TEXT_WIDTH, hu.shape[0]))
        draw = ImageDraw.Draw(title)
        draw.text((8, hu.shape[0] // 2 - 8), name, font=ImageFont.load_default(15))
        strips.append(np.concatenate([np.asarray(title), *tiles], axis=1))
    return np.concatenate(strips)


def phantom_slice(size: int) -> tuple[np.ndarray, np.ndarray]:
    """HU and label (size, size) of the slice of a phantom that has most blood."""
    head = make_head(seed=0, index=3, size=size, prevalence="even", max_slices=12)
    k = int((head.label > 0).sum((0, 1)).argmax())
    return head.hu[:, ::-1, k].T, head.label[:, ::-1, k].T.astype(np.uint8)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=Path, help="draw the page and write it to this PNG")
    chosen = parser.parse_args(arguments)
    with one_line_errors():
        if chosen.pictures:
            sheet = page(*phantom_slice(192))
            files.atomic_write_bytes(chosen.pictures, files.png_bytes(sheet))
            print(f"wrote {chosen.pictures}")


if __name__ == "__main__":
    main()
