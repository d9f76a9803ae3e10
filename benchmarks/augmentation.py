"""What augmentation costs beside a training step, and what it looks like.

    python -m benchmarks.augmentation --recipe flexunet --size 512 --batch 2
    python -m benchmarks.augmentation --pictures augmentation.png

The first times each augmentation with its defaults, in a program with the windows and nothing else,
and the recipe's training step without augmentation, each a few times in turn. The cost is what an
augmentation takes more than `none`. Every call has other random keys, because on a CPU transforms
that do not act are not computed.

The second draws a page: a row for each transform of `strong` by itself at the probability 1, for
each kind of variant of `original`, and for each augmentation with its defaults; a column for each
random key. The slice is a phantom's.
"""

import argparse
import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from PIL import Image, ImageDraw, ImageFont

from benchmarks import common
from benchmarks.common import Spread
from data_prep.phantom.head import make_head
from mbh_jax import files
from mbh_jax.data.augmentation import AUGMENTATIONS, Augmentation, create_augmentation
from mbh_jax.data.augmentation.presets import STRONG, Preset, Range
from mbh_jax.data.augmentation.registry import create_from_preset
from mbh_jax.data.preprocess import apply_windows
from mbh_jax.errors import one_line_errors
from mbh_jax.imageio.windows import BRAIN
from mbh_jax.reporting.overlays import overlay
from mbh_jax.runtime.parallel import create_parallel, put_batch
from mbh_jax.training.setup import create_training

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


class Cost(NamedTuple):
    """Milliseconds an image by the clock, and of all cores together, one number a repeat."""

    clock: list[float]
    cores: list[float]


def measure(
    config: ConfigDict, windows: Sequence[str], repeats: int, calls: int
) -> dict[str, Cost]:
    """The cost of a training step without augmentation, and of each augmentation by itself.

    Args:
        config: recipe with its size and batch.
        windows: values of `data.window` to measure augmentations with.
        repeats: how often each is timed.
        calls: calls of an augmentation in one timing, each with other keys.

    Returns:
        `step`, and `<augmentation>, <window>` of each.
    """
    size, batch = config.data.image_size, config.train.batch_size
    hu, label = phantom_slice(size)
    hus = jnp.asarray(np.broadcast_to(hu[..., None], (batch, size, size, 1)))
    labels = jnp.asarray(np.broadcast_to(label, (batch, size, size)))
    programs = {"step": (_training_step(config, hus, labels), 1)}
    for window in windows:
        for name in AUGMENTATIONS:
            if name != "basic":
                program = _augmentation(name, window, hus, labels)
                programs[f"{name}, {window}"] = (program, calls)
    found = {name: Cost([], []) for name in programs}
    for i in range(repeats + 1):
        for name, (program, number) in programs.items():
            clock, cores = time.perf_counter(), time.process_time()
            for j in range(number):
                jax.block_until_ready(program(jax.random.key(calls * i + j)))
            if i:  # The first includes compiling.
                images = batch * number / 1e3
                found[name].clock.append((time.perf_counter() - clock) / images)
                found[name].cores.append((time.process_time() - cores) / images)
    return found


def _augmentation(
    name: str, window: str, hus: jax.Array, labels: jax.Array
) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
    defaults = {key: rule.default for key, rule in AUGMENTATIONS[name].keys.items()}
    augmentation = create_augmentation(ConfigDict({"name": name, **defaults}), window)

    @jax.jit
    def apply(key: jax.Array, hus: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        keys = jax.random.split(key, len(labels))
        image = apply_windows(augmentation.augment_hu(keys, hus), window)
        return augmentation.augment_image(keys, image, labels)

    return lambda key: apply(key, hus, labels)


def _training_step(
    config: ConfigDict, hus: jax.Array, labels: jax.Array
) -> Callable[[jax.Array], jax.Array]:
    config = config.copy_and_resolve_references()
    config.augment = ConfigDict({"name": "none"})
    parallel = create_parallel(config.parallel.mode, jax.devices()[:1])
    training = create_training(config, parallel, steps_per_epoch=1)
    state = jax.device_put(training.init(), parallel.replicated)
    batch = put_batch(
        {
            "image": np.asarray(hus),
            "label": np.asarray(labels),
            "weight": np.ones(len(labels), np.float32),
            "example": np.arange(len(labels), dtype=np.int32),
        },
        parallel,
    )
    compiled = training.compile_train(1)

    def step(key: jax.Array) -> jax.Array:
        nonlocal state
        state, sums = compiled(state, batch, key)
        return sums

    return step


def describe(found: dict[str, Cost]) -> str:
    """A Markdown table: what each augmentation adds, and its share of the training step."""
    step = found["step"]
    rows = []
    for name, cost in found.items():
        if name == "step" or name.startswith("none"):
            continue
        none = found[f"none, {name.split(', ')[1]}"]
        row = [name]
        for one, without, whole in zip(cost, none, step, strict=True):
            added = [a - b for a, b in zip(one, without, strict=True)]
            share = Spread.of(a / b for a, b in zip(added, whole, strict=True))
            row += [f"{Spread.of(added):.1f}", f"{100 * share.median:.1f} %"]
        rows.append(row)
    header = ["augmentation, window", "ms an image", "of the step", "CPU ms", "of the step's"]
    clock, cores = (Spread.of(one) for one in step)
    return (
        f"training step without augmentation: {clock:.0f} ms an image, {cores:.0f} CPU ms\n\n"
        + common.table(header, rows)
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=Path, help="draw the page and write it to this PNG")
    parser.add_argument("--recipe", default="flexunet", help="module of configs")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--windows", type=common.names, default=["hu_0_255", "brain_subdural_bone"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--calls", type=int, default=20, help="calls of an augmentation a repeat")
    chosen = parser.parse_args(arguments)
    with one_line_errors():
        if chosen.pictures:
            sheet = page(*phantom_slice(192))
            files.atomic_write_bytes(chosen.pictures, files.png_bytes(sheet))
            print(f"wrote {chosen.pictures}")
            return
        print(common.describe_machine(common.machine(), common.versions("jax", "flax")))
        config = importlib.import_module(f"configs.{chosen.recipe}").get_config()
        config.data.image_size, config.train.batch_size = chosen.size, chosen.batch
        print(describe(measure(config, chosen.windows, chosen.repeats, chosen.calls)))


if __name__ == "__main__":
    main()
