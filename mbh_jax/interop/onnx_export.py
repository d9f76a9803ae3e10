"""A trained network as an ONNX model: HU at the network's image size in, logits out."""

import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from mbh_jax import files
from mbh_jax.errors import UserError
from mbh_jax.interop.model_card import channels_in_words
from mbh_jax.labels import CLASS_NAMES
from mbh_jax.models.ops.convolution import only_plain_convolutions
from mbh_jax.training.network import Network, TrainedNetwork

INPUT, OUTPUT = "hu", "logits"

TOLERANCE = 1e-3
"""Largest difference from JAX, as a fraction of the largest logit, or of 1 where that is less."""

MAX_BYTES = 2**31 - 1
"""Of a protocol buffer, and so of an ONNX model in one file."""

_INSTALL = (
    "--format=onnx needs jax2onnx and onnxruntime: in an environment of its own, without "
    "constraints.txt, pip install -e '.[onnx]' (docs/export.md)"
)


def write(path: epath.PathLike, trained: TrainedNetwork, card: str) -> float:
    """Writes an ONNX model, after comparing it with JAX in onnxruntime.

    It takes `hu` (b,N,N,S) int16, N the network's image size and S the slices that it sees at once,
    and gives `logits` (b,N,N,K) float32; b may be any number. Windows are inside. Resizing is not:
    ONNX exporters lack JAX's.

    Args:
        path: the file; one that is there is replaced.
        trained: the network.
        card: its model card, which becomes the model's description.

    Returns:
        The largest difference between the logits of onnxruntime and of JAX on drawn heads.

    Raises:
        UserError: the packages are missing, the network cannot be written as ONNX, or onnxruntime
            gives other results than JAX.
    """
    try:
        import jax2onnx
        import onnxruntime
    except ImportError as error:
        raise UserError(f"{_INSTALL}; {error}") from None
    # It warns of every constant's shape.
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    config = trained.network.config
    if config.model.get("dtype", "float32") != "float32":
        raise UserError(
            f"--format=onnx: the network computes in {config.model.dtype}, which onnxruntime lacks "
            "on a CPU: use --format=stablehlo"
        )
    size, num_slices = config.data.image_size, trained.network.num_slices

    def logits(hu: jax.Array) -> jax.Array:
        return trained.network.logits(trained.variables, hu)

    with only_plain_convolutions():
        model = jax2onnx.to_onnx(
            logits,
            inputs=[jax.ShapeDtypeStruct(("b", size, size, num_slices), jnp.int16)],
            model_name="mbh_jax",
            input_names=[INPUT],
            output_names=[OUTPUT],
        )
    _describe(model, trained.network, card)
    if model.ByteSize() > MAX_BYTES:
        raise UserError(
            f"{path}: the model has more than 2 GiB, the most that an ONNX file may have: use "
            "--format=stablehlo"
        )
    data = model.SerializeToString(deterministic=True)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    heads = drawn_heads(size, num_slices)
    (found,) = session.run([OUTPUT], {INPUT: heads})
    difference = compare(found, np.asarray(jax.jit(logits)(heads)))
    files.atomic_write_bytes(path, data)
    return difference


def _describe(model: Any, network: Network, card: str) -> None:
    """Writes the model card, the classes and the input's description into the model."""
    model.doc_string = card
    facts = {
        "classes": ", ".join(CLASS_NAMES),
        "input": "Hounsfield units; row 0 is anterior, column 0 the patient's right; "
        + channels_in_words(network),
        "note": "research only: not a medical device",
        "window": f"{network.config.data.window}, inside the model",
    }
    for key, value in facts.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value


def compare(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference of two arrays of logits (b,S,S,K).

    Raises:
        UserError: it is more than `TOLERANCE`, or another label is the most probable one where two
            are not equally probable within it.
    """
    difference = float(np.abs(found - expected).max())
    allowed = TOLERANCE * max(1.0, float(np.abs(expected).max()))
    first_two = np.sort(expected, axis=-1)[..., -2:]
    clear = first_two[..., 1] - first_two[..., 0] > 2 * allowed
    others = int(((found.argmax(-1) != expected.argmax(-1)) & clear).sum())
    if not difference <= allowed or others:
        raise UserError(
            f"--format=onnx: onnxruntime gives other results than JAX: logits differ by "
            f"{difference:.2g} (allowed {allowed:.2g}), {others} pixels have another label. "
            "Nothing was written: use --format=stablehlo, or other versions of jax2onnx and "
            "onnxruntime"
        )
    return difference


def drawn_heads(size: int, num_slices: int = 1) -> np.ndarray:
    """Two heads to compare exporters on: air, skull, noisy brain and blood, (2,N,N,S) int16 HU."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    radius = np.hypot(x / 0.75, y / 0.9)
    slices = []
    for centre, blood_hu in ((0.3, 65), (-0.35, 80)):
        hu = np.where(radius < 1, 1000.0, -1000.0)
        hu = np.where(radius < 0.9, rng.normal(35, 5, (size, size)), hu)
        hu = np.where(np.hypot(x - centre, y) < 0.2, blood_hu, hu)
        slices.append(hu)
    # Slices of one head are unlike each other, so that their order shows.
    moved = [np.roll(np.stack(slices), shift, axis=1) for shift in range(num_slices)]
    return np.stack(moved, axis=-1).astype(np.int16)
