"""A network from its configuration alone, and a trained one from where a run left it.

Neither a dataset nor an optimizer nor TensorFlow is needed here: evaluation, prediction and
`--init_from` begin with these functions.
"""

import json
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from mbh_jax import config as config_keys
from mbh_jax import models
from mbh_jax.data import neighbours, preprocess, spacing
from mbh_jax.data.spacing import TrainingSpacing
from mbh_jax.errors import UserError
from mbh_jax.files import CONFIG_FILE
from mbh_jax.imageio import windows
from mbh_jax.labels import NUM_CLASSES
from mbh_jax.models.ops.convolution import only_plain_convolutions
from mbh_jax.runtime.parallel import Parallel
from mbh_jax.training import bundle

PyTree = Any

NETWORK_KEYS = ("model.", "data.image_size", "data.window", "data.neighbour")
"""Keys, or first parts of keys, that a network with given weights depends on."""


class Network(NamedTuple):
    """A network and its input, as pure functions of its variables.

    Attributes:
        config: the whole configuration; the sections "model" and "data" describe the network.
        model: the Flax module.
    """

    config: ConfigDict
    model: nn.Module

    @property
    def num_slices(self) -> int:
        """Slices that the network sees at once, S; the one that it predicts is in the middle."""
        return neighbours.setting_of(self.config.data).num_slices

    def init(self) -> dict[str, PyTree]:
        """New variables, which depend on `config.seed`."""
        size = self.config.data.image_size
        channels = self.num_slices * len(windows.PRESETS[self.config.data.window])
        image = jnp.zeros((1, size, size, channels))
        return dict(self.model.init(jax.random.key(self.config.seed), image))

    def shapes(self) -> dict[str, PyTree]:
        """Shapes and dtypes of the variables."""
        # They do not depend on how a CPU computes convolutions, which takes longer to trace.
        with only_plain_convolutions():
            return jax.eval_shape(self.init)

    def input_of(self, hu: jax.Array) -> jax.Array:
        """HU (B,H,W,S) of any number type as windows (B,N,N,S*C) float32, N the `image_size`."""
        windowed = preprocess.apply_windows(hu, self.config.data.window)
        return preprocess.resize_image(windowed, self.config.data.image_size)

    def logits(self, variables: PyTree, hu: jax.Array) -> jax.Array:
        """Logits (B,N,N,K) float32 of HU (B,H,W,S)."""
        logits = self.model.apply(variables, self.input_of(hu), train=False)
        assert isinstance(logits, jax.Array)
        return logits

    def predict(self, variables: PyTree, hu: jax.Array) -> jax.Array:
        """Label values (B,H,W) uint8 on the scan's own grid, of HU (B,H,W,S)."""
        return self.labels_of(self.logits(variables, hu), hu).astype(jnp.uint8)

    def labels_of(self, logits: jax.Array, hu: jax.Array) -> jax.Array:
        """The most probable label (B,H,W) of each pixel of HU (B,H,W,S), from logits (B,N,N,K)."""
        return preprocess.resize_logits(logits, *hu.shape[1:3]).argmax(-1)


class TrainedNetwork(NamedTuple):
    """A network with variables.

    Attributes:
        network: with the configuration it was trained with.
        variables: on the devices.
        step: training steps taken.
        dataset: fingerprint of the dataset it was trained on; None where that is not known, as of
            imported weights.
        spacing: of the scans it was trained on; None where that is not known.
    """

    network: Network
    variables: PyTree
    step: int
    dataset: str | None
    spacing: TrainingSpacing | None = None


def create_network(config: ConfigDict, *, axis_name: str | None = None) -> Network:
    """The network that a valid configuration describes.

    Args:
        config: the whole configuration.
        axis_name: device axis that batch statistics are taken over in training, or None.
    """
    num_slices = neighbours.setting_of(config.data).num_slices
    return Network(config, models.create_model(config.model, NUM_CLASSES, axis_name, num_slices))


def describe_network(workdir: epath.Path) -> tuple[Network, PyTree]:
    """The network of a run or of a bundle, and the shapes of its variables; no weights are read.

    Raises:
        UserError: there is no run or bundle, or its configuration cannot be read.
    """
    network = create_network(read_config(workdir))
    return network, network.shapes()


def restore_network(
    workdir: epath.Path,
    parallel: Parallel,
    *,
    checkpoint: str = "best",
    shapes: PyTree | None = None,
) -> TrainedNetwork:
    """The network of a run or of a bundle, on all devices.

    Args:
        workdir: the run's folder, or a bundle.
        parallel: the devices.
        checkpoint: "best" or "last"; of a run that has not been trained, both are the weights
            that it was initialized with. A bundle holds one of them.
        shapes: of the variables, where `describe_network` was called before.

    Raises:
        UserError: there is no run or bundle, no such checkpoint, or it is damaged.
    """
    network = create_network(read_config(workdir))
    if bundle.is_bundle(workdir):
        facts = bundle.read_facts(workdir)
        if checkpoint == "last" != facts.checkpoint:
            raise UserError(f"{workdir} holds the {facts.checkpoint} checkpoint, not the last")
        arrays = bundle.read_variables(workdir, shapes or network.shapes())
        variables = jax.tree.map(parallel.hold, arrays)
        trained_on = spacing.from_json(facts.training_spacing)
        return TrainedNetwork(network, variables, facts.step, facts.dataset, trained_on)
    from mbh_jax.training.checkpoints import Checkpoints  # Orbax, which bundles do not need.

    with Checkpoints(workdir, parallel) as checkpoints:
        restored = checkpoints.restore_variables(checkpoint, shapes or network.shapes())
    record = restored.record
    trained_on = spacing.from_json(record.get("training_spacing"))
    return TrainedNetwork(
        network, restored.arrays, restored.step, record.get("dataset"), trained_on
    )


def read_config(workdir: epath.Path) -> ConfigDict:
    """The configuration of the run in `workdir`, or of a bundle; missing keys get defaults.

    Raises:
        UserError: there is no run or bundle, or its configuration cannot be read.
    """
    path = workdir / CONFIG_FILE
    in_bundle = bundle.is_bundle(workdir)
    if not in_bundle and not path.is_file():
        raise UserError(f"{workdir} holds no run (no {CONFIG_FILE}): give the --workdir of one")
    try:
        text = bundle.read_config(workdir) if in_bundle else path.read_text()
        config = config_keys.complete(json.loads(text))
    except (ValueError, AttributeError):
        raise UserError(f"{path}: damaged: not the configuration that a run writes") from None
    config_keys.validate(config, num_devices=1)
    return config


def check_same_network(config: ConfigDict, workdir: epath.Path) -> None:
    """Refuses a configuration of another network or input than the run in `workdir` has.

    Raises:
        UserError: there is no run in `workdir`, or the networks differ; it names the keys.
    """
    saved = dict(config_keys.flatten(read_config(workdir)))
    given = dict(config_keys.flatten(config))
    without_influence = [
        f"model.{key}" for key in models.NETWORKS[config.model.name].without_influence
    ]
    changed = [
        f"{key}: {saved.get(key)!r} -> {given.get(key)!r}"
        for key in sorted(saved.keys() | given.keys())
        if key.startswith(NETWORK_KEYS)
        and key not in without_influence
        and saved.get(key) != given.get(key)
    ]
    if changed:
        raise UserError(
            f"{workdir} was trained with another network or input ({'; '.join(changed)}): "
            "leave out these keys, or leave out --config: the workdir holds the configuration"
        )


def fit_variables(variables: PyTree, source: PyTree, where: str) -> tuple[PyTree, list[str]]:
    """Puts the arrays of `source` into `variables` wherever they fit.

    Args:
        variables: of the new network; arrays (new values).
        source: of the network that gives its weights; arrays.
        where: what errors call the source.

    Returns:
        The new variables, and the names of arrays that kept their new values: those of the last
        layer, where the two networks have other classes.

    Raises:
        UserError: another array than those of the last layer differs.
    """
    wanted = dict(jax.tree_util.tree_leaves_with_path(variables))
    given = dict(jax.tree_util.tree_leaves_with_path(source))
    left_out: list[str] = []
    wrong: list[str] = []
    for path in sorted(wanted.keys() | given.keys(), key=jax.tree_util.keystr):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        sizes = [
            tuple(np.shape(arrays[path])) if path in arrays else None for arrays in (given, wanted)
        ]
        if sizes[0] != sizes[1]:
            (left_out if "/logits" in f"/{name}" else wrong).append(
                f"{name} {sizes[0] or 'missing'} -> {sizes[1] or 'missing'}"
            )
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(
            f"{where}: its weights do not fit this network ({'; '.join(wrong[:3])}{more}): only "
            "the last layer may differ; give the keys model.*, data.neighbours and the number of "
            "windows it was trained with"
        )
    fitting = jax.tree_util.tree_map_with_path(
        lambda path, new: (
            given[path] if path in given and np.shape(given[path]) == np.shape(new) else new
        ),
        variables,
    )
    return fitting, left_out
