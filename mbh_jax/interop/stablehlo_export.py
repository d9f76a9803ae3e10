"""A trained network as a StableHLO program: HU in, labels out, with no need of this package."""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import traverse_util

from mbh_jax.interop.model_card import DISCLAIMER, channels_in_words
from mbh_jax.labels import CLASS_NAMES
from mbh_jax.training import archive, bundle
from mbh_jax.training.network import Network, TrainedNetwork

PyTree = Any

PLATFORMS = ("cpu", "cuda", "tpu")
PROGRAM_FILE = "program.jax_export"
WEIGHTS_DIR = "weights/"
CARD_FILE = "MODEL_CARD.md"

_LOCATIONS = "jax_traceback_in_locations_limit"
"""JAX's setting of how many lines of the source an operation remembers."""

LOADER = '''\
import zipfile

import jax
import jax.export
import numpy as np


def load(path):
    """A function that takes HU (b, H, W, 1) int16 and returns labels (b, H, W) uint8."""
    with zipfile.ZipFile(path) as file:
        program = jax.export.deserialize(bytearray(file.read("program.jax_export")))
        weights = {
            name: np.load(file.open(name)) for name in file.namelist() if name.endswith(".npy")
        }
    weights = jax.device_put(weights)
    predict = jax.jit(program.call)
    return lambda hu: np.asarray(predict(weights, hu))
'''
"""A program that runs the exported one; docs/export.md and the file itself show it."""


def export_program(
    network: Network, *, platforms: tuple[str, ...] = PLATFORMS
) -> jax.export.Exported:
    """`(weights, HU (b,H,W,S) int16) -> labels (b,H,W) uint8`; b, H and W may be any numbers.

    Args:
        network: whose `predict` it is.
        platforms: that it runs on. A CPU gets what is fast there, others plain convolutions.

    Returns:
        A program whose first argument is a dict of arrays, see `weight_name`.
    """

    def predict(weights: dict[str, jax.Array], hu: jax.Array) -> jax.Array:
        flat = {name.removeprefix(WEIGHTS_DIR)[:-4]: array for name, array in weights.items()}
        return network.predict(traverse_util.unflatten_dict(flat, sep="/"), hu)

    shapes = traverse_util.flatten_dict(network.shapes(), sep="/")
    weights = {weight_name(name): shape for name, shape in shapes.items()}
    hu = jax.ShapeDtypeStruct(
        jax.export.symbolic_shape(f"b, h, w, {network.num_slices}"), jnp.int16
    )
    with _without_source_paths():
        return jax.export.export(jax.jit(predict), platforms=platforms)(weights, hu)


def weight_name(path: str) -> str:
    """The name in the file of a variable, such as params/logits/bias."""
    return f"{WEIGHTS_DIR}{path}.npy"


@contextlib.contextmanager
def _without_source_paths() -> Iterator[None]:
    """Keeps the folders of this machine out of a program."""
    limit = getattr(jax.config, _LOCATIONS)
    jax.config.update(_LOCATIONS, 0)
    try:
        yield
    finally:
        jax.config.update(_LOCATIONS, limit)


def write(path: epath.PathLike, trained: TrainedNetwork, card: str) -> None:
    """Writes a zip file with the program, its weights, how to run it, and the model card.

    Args:
        path: the file; one that is there is replaced.
        trained: the network.
        card: its model card, Markdown.
    """
    members = {
        "README.md": _readme(trained.network).encode(),
        CARD_FILE: card.encode(),
        PROGRAM_FILE: bytes(export_program(trained.network).serialize()),
    }
    for name, array in bundle.flatten(trained.variables).items():
        data = io.BytesIO()
        np.save(data, array, allow_pickle=False)
        members[weight_name(name)] = data.getvalue()
    archive.write(path, members)


def _readme(network: Network) -> str:
    shape = f"(b, H, W, {network.num_slices})"
    loader = LOADER.replace("(b, H, W, 1)", shape)
    beside = f" There are {channels_in_words(network)}." if network.num_slices > 1 else ""
    output = ", ".join(f"{number} {name}" for number, name in enumerate(CLASS_NAMES))
    return f"""\
# A network that segments haemorrhage in head CT, as a StableHLO program

**{DISCLAIMER}** {CARD_FILE} says what it was trained on and how well it does.

Input: Hounsfield units {shape} int16, any number of slices of any size; row 0 is anterior and
column 0 the patient's right.{beside} Output: labels (b, H, W) uint8: {output}. Windows and resizing
are part of the program. It was exported with jax {jax.__version__} and needs nothing but jax:

```python
{loader}```
"""
