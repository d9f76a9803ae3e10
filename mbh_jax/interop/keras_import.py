"""Reads the weights of a FlexUNet that was trained with Keras.

`best_model.h5` is a whole model as Keras's ModelCheckpoint saves it: the graph as JSON and each
layer's weights. The configuration is read off the graph, the graph is compared with FlexUNet's
layer by layer, and the weights are taken in the graph's order. Neither Keras nor TensorFlow is
needed, and files of Keras 2 and Keras 3 are read alike.
"""

from mbh_jax.errors import end_at_first_signal

if __name__ == "__main__":
    end_at_first_signal()  # Before the imports, which take a while.

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import jax
import jax.numpy as jnp
import numpy as np

from mbh_jax import cli
from mbh_jax.errors import UserError
from mbh_jax.imageio import windows
from mbh_jax.interop.keras_graph import (
    ExpectedLayer,
    KerasLayer,
    check_graph,
    derive_config,
    flexunet_layers,
    network,
    read_graph,
)
from mbh_jax.labels import NUM_CLASSES
from mbh_jax.models.flexunet import size_divisor

Variables = dict[str, Any]


def read_keras_flexunet(path: str | Path) -> tuple[dict[str, Any], Variables]:
    """Reads a Keras FlexUNet's configuration and weights.

    Args:
        path: a `.h5` file that holds a whole model.

    Returns:
        `(config, variables)`: `config["model"]` holds what `create_model` takes (with dtype
        "float32"), `config["num_classes"]` the classes and `config["input_shape"]` the image's
        (height, width, channels), None where the file leaves them open. `variables` has `params`
        and, for a network with batch normalisation, `batch_stats`, all NumPy float32.

    Raises:
        UserError: if the file is missing, not such a file, or not a FlexUNet; it says where the
            graph first differs.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file: give the best_model.h5 of a Keras FlexUNet")
    if zipfile.is_zipfile(path):
        raise UserError(
            f"{path} is a .keras archive: save the model as .h5 with model.save('x.h5')"
        )
    if not h5py.is_hdf5(path):
        raise UserError(f"{path} is not an HDF5 file: give a best_model.h5 that Keras has saved")
    try:
        with h5py.File(path) as file:
            graph = read_graph(file, path)
            config = derive_config(graph, path)
            expected = list(flexunet_layers(config))
            check_graph(graph, expected, path)
            variables = _read_variables(file["model_weights"], graph, expected, path)
    except OSError as error:
        raise UserError(f"{path}: truncated or damaged: fetch it again ({error})") from None
    _check_shapes(variables, config, path)
    return config, variables


def _read_variables(
    weights: h5py.Group, graph: list[KerasLayer], expected: list[ExpectedLayer], path: Path
) -> Variables:
    """The Flax variables of a graph that has been checked."""
    variables: Variables = {"params": {}}
    for layer, wanted in zip(graph, expected, strict=True):
        if not wanted.path:
            continue
        arrays = _layer_weights(weights, layer.name)
        try:
            collections = _to_flax(wanted.kind, arrays)
        except KeyError as error:
            raise UserError(
                f"{path}: layer {layer.name!r} has no weight {error}: the file is damaged, or the "
                "layer was made without it"
            ) from None
        for collection, values in collections.items():
            *parents, leaf = wanted.path
            node = variables.setdefault(collection, {})
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = values
    return variables


def _layer_weights(weights: h5py.Group, name: str) -> dict[str, np.ndarray]:
    """A layer's weights by Keras's own names for them ("kernel", "gamma", ...)."""
    arrays: dict[str, np.ndarray] = {}

    def collect(full_name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[full_name.rsplit("/", 1)[-1].removesuffix(":0")] = item[()].astype(np.float32)

    if name in weights:
        weights[name].visititems(collect)
    return arrays


def _to_flax(kind: str, arrays: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """A Keras layer's weights as Flax collections, in Flax's names and shapes."""
    if kind == "BatchNormalization":
        return {
            "params": {"scale": arrays["gamma"], "bias": arrays["beta"]},
            "batch_stats": {"mean": arrays["moving_mean"], "var": arrays["moving_variance"]},
        }
    kernel = arrays["kernel"]
    if kind == "Conv2DTranspose":
        kernel = kernel.swapaxes(2, 3)
    return {"params": {"kernel": kernel, "bias": arrays["bias"]}}


def _check_shapes(variables: Variables, config: Mapping[str, Any], path: Path) -> None:
    """Raises a UserError if the weights are not those of the network that `config` describes."""
    side = size_divisor(config["model"]["num_layers"])
    image = jnp.zeros((1, side, side, config["input_shape"][2]))
    wanted = jax.eval_shape(network(config).init, jax.random.key(0), image)
    wanted_shapes = dict(jax.tree_util.tree_leaves_with_path(wanted))
    for leaf_path, array in jax.tree_util.tree_leaves_with_path(variables):
        if array.shape != wanted_shapes[leaf_path].shape:
            raise UserError(
                f"{path}: weights {jax.tree_util.keystr(leaf_path)} are {array.shape}, where the "
                f"file's own configuration makes them {wanted_shapes[leaf_path].shape}"
            )


def main(command: cli.Command) -> None:
    """Writes a workdir whose checkpoints hold the weights of a Keras FlexUNet.

        python -m mbh_jax.interop.keras_import best_model.h5 --config=configs/flexunet.py
            --workdir=runs/imported

    `--mode=evaluate` then evaluates the weights, and training starts with them.

    Raises:
        UserError: the file is no Keras FlexUNet, is not the configuration's network, or the workdir
            already holds a run.
    """
    from mbh_jax import config as config_keys
    from mbh_jax.runtime import run_lock
    from mbh_jax.runtime.distributed import start_devices
    from mbh_jax.runtime.parallel import create_parallel
    from mbh_jax.training.initialize import initialize_workdir

    config, arguments = command.config, command.arguments
    if len(arguments) != 1:
        raise UserError("give one file: python -m mbh_jax.interop.keras_import best_model.h5 ...")
    config_keys.validate(config, num_devices=1)
    start_devices()
    if config.data.neighbours:
        raise UserError(
            f"config: data.neighbours={config.data.neighbours}: a Keras FlexUNet sees single "
            "slices: leave it out"
        )
    found, variables = read_keras_flexunet(arguments[0])
    differences = [
        f"--config.model.{key}={value!r}"
        for key, value in found["model"].items()
        if key != "dtype" and config.model.get(key) != value
    ]
    height, width, channels = found["input_shape"]
    if height is not None and (height, width) != (config.data.image_size,) * 2:
        differences.append(f"--config.data.image_size={height}")
    if channels != len(windows.PRESETS[config.data.window]):
        differences.append(
            "--config.data.window=hu_0_255"
            if channels == 3
            else f"a window with {channels} channels"
        )
    if found["num_classes"] != NUM_CLASSES:
        raise UserError(f"{arguments[0]} has {found['num_classes']} classes, not {NUM_CLASSES}")
    if differences:
        raise UserError(f"{arguments[0]} is another network; add {' '.join(differences)}")
    parallel = create_parallel(config.parallel.mode)
    with run_lock.locked(command.workdir):
        initialize_workdir(config, command.workdir, variables, parallel)


if __name__ == "__main__":
    cli.run(main)
