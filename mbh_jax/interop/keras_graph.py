"""Reads a Keras model's graph, and compares it with FlexUNet's layer by layer."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py

from mbh_jax.errors import UserError
from mbh_jax.models.flexunet import FlexUNet
from mbh_jax.models.norms import BATCH_NORM_MOMENTUM, NORM_EPSILON

KERAS_ACTIVATIONS = {"relu": "relu", "elu": "elu", "silu": "silu", "swish": "silu"}
"""Our names of the activations that have the same formula in Keras."""


class KerasLayer(NamedTuple):
    """One layer of a Keras graph.

    Attributes:
        kind: Keras's class name.
        name: the layer's name in the file.
        settings: Keras's configuration of it.
        inputs: names of the layers it takes, in order.
    """

    kind: str
    name: str
    settings: Mapping[str, Any]
    inputs: tuple[str, ...]


class ExpectedLayer(NamedTuple):
    """What a layer of FlexUNet must be in a Keras graph.

    Attributes:
        kind: Keras's class name.
        settings: for each setting the values that are FlexUNet's.
        inputs: positions, in FlexUNet's order, of the layers it takes.
        path: its module's path in the Flax parameters; empty for a layer without weights.
    """

    kind: str
    settings: Mapping[str, tuple]
    inputs: tuple[int, ...]
    path: tuple[str, ...] = ()


def read_graph(file: h5py.File, path: Path) -> list[KerasLayer]:
    """The layers of the model in the graph's order."""
    if "model_config" not in file.attrs or "model_weights" not in file:
        raise UserError(
            f"{path} holds no model configuration, only weights perhaps: "
            "save the whole model (ModelCheckpoint with save_weights_only=False)"
        )
    model = json.loads(file.attrs["model_config"])
    if model["class_name"] not in ("Functional", "Model"):
        raise UserError(f"{path} holds a {model['class_name']} model, not FlexUNet's graph")
    return [
        KerasLayer(
            layer["class_name"],
            layer["config"]["name"],
            layer["config"],
            tuple(_input_names(layer["inbound_nodes"])),
        )
        for layer in model["config"]["layers"]
    ]


def _input_names(node: Any) -> Iterator[str]:
    """Names of the layers in a layer's `inbound_nodes`.

    Keras 2 writes each input as `[name, node, tensor, {}]`, Keras 3 as a dict with the same first
    three in `keras_history`.
    """
    if isinstance(node, Mapping):
        if "keras_history" in node:
            yield node["keras_history"][0]
        else:
            yield from _input_names(list(node.values()))
    elif isinstance(node, list):
        if len(node) >= 3 and isinstance(node[0], str) and isinstance(node[1], int):
            yield node[0]
        else:
            for part in node:
                yield from _input_names(part)


def derive_config(graph: list[KerasLayer], path: Path) -> dict[str, Any]:
    """The configuration that a graph must have if it is a FlexUNet."""
    kinds = [layer.kind for layer in graph]
    convs = [layer.settings for layer in graph if layer.kind == "Conv2D"]
    rates = [layer.settings["rate"] for layer in graph if layer.kind == "Dropout"]
    if kinds[:2] != ["InputLayer", "Conv2D"] or "MaxPooling2D" not in kinds or len(rates) < 2:
        raise UserError(
            f"{path} is not a FlexUNet: no encoder of Conv2D, Dropout and MaxPooling2D layers"
        )
    first, last = convs[0], convs[-1]
    if first["activation"] not in KERAS_ACTIVATIONS:
        raise UserError(
            f"{path}: activation {first['activation']!r} of layer {first['name']!r} is not one of "
            + ", ".join(KERAS_ACTIVATIONS)
        )
    inputs = graph[0].settings
    return {
        "model": {
            "name": "flexunet",
            "base_filters": first["filters"],
            "base_kernel": first["kernel_size"][0],
            "num_layers": kinds.count("MaxPooling2D") + 1,
            "dropout_rate": rates[1],
            "dilation": first["dilation_rate"][0],
            "activation": KERAS_ACTIVATIONS[first["activation"]],
            "norm": "batch" if "BatchNormalization" in kinds else "none",
            "dtype": "float32",
        },
        "num_classes": last["filters"],
        "input_shape": tuple((inputs.get("batch_shape") or inputs["batch_input_shape"])[1:]),
    }


def network(config: Mapping[str, Any]) -> FlexUNet:
    """The Flax network of a configuration that `derive_config` gave."""
    fields = {key: value for key, value in config["model"].items() if key not in ("name", "dtype")}
    return FlexUNet(num_classes=config["num_classes"], **fields)


def flexunet_layers(config: Mapping[str, Any]) -> Iterator[ExpectedLayer]:
    """FlexUNet's layers in the order of a Keras graph."""
    unet = network(config)
    activations = tuple(
        keras for keras, ours in KERAS_ACTIVATIONS.items() if ours == unet.activation
    )
    position = 0

    def block(i: int, name: str) -> Iterator[ExpectedLayer]:
        nonlocal position
        level = unet.level(i)
        for conv in range(2):
            yield ExpectedLayer(
                "Conv2D",
                {
                    "filters": (level.filters,),
                    "kernel_size": ([level.kernel_size] * 2,),
                    "dilation_rate": ([level.dilation] * 2,),
                    "strides": ([1, 1],),
                    "padding": ("same",),
                    "activation": activations,
                    "data_format": ("channels_last",),
                },
                (position,),
                (name, f"conv_{conv}"),
            )
            position += 1
            if unet.norm == "batch":
                settings = {"momentum": (BATCH_NORM_MOMENTUM,), "epsilon": (NORM_EPSILON,)}
                norm_path = (name, f"norm_{conv}")
                yield ExpectedLayer("BatchNormalization", settings, (position,), norm_path)
                position += 1
            if conv == 0:
                yield ExpectedLayer("Dropout", {"rate": (level.dropout_rate,)}, (position,))
                position += 1

    yield ExpectedLayer("InputLayer", {}, ())
    skips = []
    for i in range(unet.num_layers - 1):
        yield from block(i, f"encoder_{i}")
        skips.append(position)
        window = {"pool_size": ([2, 2],), "strides": ([2, 2],)}
        yield ExpectedLayer("MaxPooling2D", window, (position,))
        position += 1
    yield from block(unet.num_layers - 1, "bridge")
    for i in reversed(range(unet.num_layers - 1)):
        upsampling = {
            "filters": (unet.level(i).filters,),
            "kernel_size": ([2, 2],),
            "strides": ([2, 2],),
            "activation": ("linear",),
        }
        yield ExpectedLayer("Conv2DTranspose", upsampling, (position,), (f"up_{i}",))
        position += 1
        yield ExpectedLayer("Concatenate", {"axis": (-1, 3)}, (position, skips[i]))
        position += 1
        yield from block(i, f"decoder_{i}")
    head = {"kernel_size": ([1, 1],), "strides": ([1, 1],), "activation": ("softmax", "linear")}
    yield ExpectedLayer("Conv2D", head, (position,), ("logits",))


def check_graph(graph: list[KerasLayer], expected: list[ExpectedLayer], path: Path) -> None:
    """Raises a UserError where a graph first differs from FlexUNet's."""

    def differs(what: str) -> UserError:
        return UserError(f"{path} is not a FlexUNet: {what}")

    for layer, wanted in zip(graph, expected, strict=False):
        if layer.kind != wanted.kind:
            raise differs(f"layer {layer.name!r} is a {layer.kind}, not a {wanted.kind}")
        for key, values in wanted.settings.items():
            if not any(_equal(layer.settings.get(key), value) for value in values):
                raise differs(
                    f"{key} of layer {layer.name!r} is {layer.settings.get(key)}, not {values[0]}"
                )
        inputs = tuple(graph[position].name for position in wanted.inputs)
        if layer.inputs != inputs:
            raise differs(f"layer {layer.name!r} takes {layer.inputs}, not {inputs}")
    if len(graph) != len(expected):
        raise differs(f"it has {len(graph)} layers, not {len(expected)}")


def _equal(value: Any, wanted: Any) -> bool:
    if isinstance(value, float) and isinstance(wanted, float):
        return math.isclose(value, wanted, rel_tol=1e-6, abs_tol=1e-9)
    return value == wanted
