"""A trained network in one file, to be copied and shared. It holds no pickles and runs no code.

A bundle is a zip file with

    README.md             the model card
    SHA256SUMS            checksums of the others
    bundle.json           facts about the weights, see `Facts`
    config.json           the configuration, without `data.dir`
    weights.safetensors   every variable under its path, such as params/bridge/conv_0/kernel
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from etils import epath
from flax import traverse_util
from ml_collections import ConfigDict

from mbh_jax.data import spacing
from mbh_jax.errors import UserError
from mbh_jax.files import CONFIG_FILE
from mbh_jax.labels import CLASS_NAMES
from mbh_jax.training import archive

PyTree = Any

FORMAT = 1
CARD_FILE = "README.md"
FACTS_FILE = "bundle.json"
WEIGHTS_FILE = "weights.safetensors"
MEMBERS = (CARD_FILE, FACTS_FILE, CONFIG_FILE, WEIGHTS_FILE)


class Facts(NamedTuple):
    """What a bundle states about its weights.

    Attributes:
        checkpoint: "best" or "last", of the run that they come from.
        step: training steps taken.
        dataset: fingerprint of the dataset they were trained on, or None where they were not
            trained by this program.
        version: of mbh_jax, which wrote the bundle.
        training_spacing: of the scans they were trained on, as `mbh_jax.data.spacing.to_json` gives
            it; None where it is not known.
    """

    checkpoint: str
    step: int
    dataset: str | None
    version: str
    training_spacing: dict[str, list[float]] | None = None


def is_bundle(path: epath.PathLike) -> bool:
    """Whether `path` names a bundle, there or not, and not a workdir."""
    path = epath.Path(path)
    return path.is_file() or (path.suffix == ".zip" and not path.is_dir())


def write(
    path: epath.PathLike, config: ConfigDict, variables: PyTree, facts: Facts, card: str
) -> None:
    """Writes a bundle; the same content gives the same bytes.

    Args:
        path: the file; one that is there is replaced.
        config: the run's. `data.dir`, a folder of this machine, is left out.
        variables: the network's, arrays.
        facts: about them.
        card: the model card, Markdown.
    """
    shared = config.to_dict()
    shared["data"] = {key: value for key, value in shared["data"].items() if key != "dir"}
    archive.write(
        path,
        {
            CARD_FILE: card.encode(),
            FACTS_FILE: _json({"format": FORMAT, "classes": CLASS_NAMES, **facts._asdict()}),
            CONFIG_FILE: _json(shared),
            WEIGHTS_FILE: safetensors.numpy.save(flatten(variables)),
        },
    )


def flatten(variables: PyTree) -> dict[str, np.ndarray]:
    """Variables as arrays on the host, by their paths joined by "/"."""
    flat = traverse_util.flatten_dict(variables, sep="/")
    return {name: np.ascontiguousarray(value) for name, value in sorted(flat.items())}


def read_config(path: epath.PathLike) -> str:
    """The text of a bundle's config.json.

    Raises:
        UserError: there is no such file, it is not a bundle, or it is damaged.
    """
    (config,) = archive.read(path, MEMBERS, CONFIG_FILE)
    return config.decode()


def read_card(path: epath.PathLike) -> str:
    """The model card of a bundle, Markdown. Errors are those of `read_config`."""
    (card,) = archive.read(path, MEMBERS, CARD_FILE)
    return card.decode()


def read_facts(path: epath.PathLike) -> Facts:
    """What a bundle states about its weights.

    Raises:
        UserError: as `read_config`; also of a bundle of another version or of other classes.
    """
    (text,) = archive.read(path, MEMBERS, FACTS_FILE)
    try:
        stated = dict(json.loads(text))
        version, classes = stated.pop("format"), stated.pop("classes")
        stated.setdefault("training_spacing", None)  # Of a bundle from before it was known.
        facts = Facts(**{name: stated[name] for name in Facts._fields})
        spacing.from_json(facts.training_spacing)
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: {FACTS_FILE} is not what an export writes") from None
    if version != FORMAT:
        raise UserError(
            f"{path}: a bundle of format {version}, and this version of mbh_jax reads {FORMAT}: "
            f"install mbh_jax {facts.version}, which wrote it"
        )
    if classes != [*CLASS_NAMES]:
        raise UserError(f"{path}: its classes are {classes}, not {[*CLASS_NAMES]}")
    return facts


def read_variables(path: epath.PathLike, shapes: PyTree) -> PyTree:
    """The variables of a bundle, NumPy arrays laid out like `shapes`.

    Args:
        path: the file.
        shapes: of the network that the bundle's configuration describes.

    Raises:
        UserError: as `read_config`; also if the arrays are not those of the network.
    """
    (data,) = archive.read(path, MEMBERS, WEIGHTS_FILE)
    try:
        arrays = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{path}: {WEIGHTS_FILE} cannot be read ({error})") from None
    wanted = traverse_util.flatten_dict(shapes, sep="/")
    for name in sorted(wanted.keys() | arrays.keys()):
        found, expected = (_describe(side.get(name)) for side in (arrays, wanted))
        if found != expected:
            raise UserError(
                f"{path}: {name} is {found} in {WEIGHTS_FILE} and {expected} by its {CONFIG_FILE}"
            )
    return traverse_util.unflatten_dict(arrays, sep="/")


def _describe(array: Any) -> str:
    return "missing" if array is None else f"{array.dtype} {tuple(array.shape)}"


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()
