"""The compiled step of prediction: a batch of slices in, label values and probabilities out."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mbh_jax.data import neighbours, preprocess
from mbh_jax.inference import tiles
from mbh_jax.labels import NUM_CLASSES
from mbh_jax.training.network import Network

PyTree = Any


def create_prediction_step(
    networks: Sequence[Network],
    *,
    mirror: bool = False,
    use_tiles: bool = False,
    with_probabilities: bool = False,
) -> Callable[[list[PyTree], PyTree], dict[str, jax.Array]]:
    """A step `(variables of each network, batch) -> arrays`, all on the scan's own grid.

    One network without mirroring predicts what evaluation scores: the most probable class of its
    resized logits. Otherwise probabilities are averaged, each resized to the scan's grid.

    Args:
        networks: they may have different image sizes, windows and neighbouring slices; see
            `neighbours.channels_of` for the channels of the batch's image.
        mirror: also predict every slice mirrored left to right, and average.
        use_tiles: predict slices that are larger than a network's image size in tiles of that size
            (`mbh_jax.inference.tiles`) instead of resizing them.
        with_probabilities: return them too.

    Returns:
        The step; it returns "mask" (B,H,W) uint8 label values and, where they are asked for,
        "probabilities" (B,K,H,W) float16.
    """

    def uses_tiles(network: Network, hu: jax.Array) -> bool:
        _, height, width, _ = hu.shape
        return use_tiles and tiles.is_tiled(height, width, network.config.data.image_size)

    def probabilities_of(network: Network, variables: PyTree, hu: jax.Array) -> jax.Array:
        if uses_tiles(network, hu):
            return jax.nn.softmax(logits_of(network, variables, hu))
        found = jax.nn.softmax(network.logits(variables, hu))
        return preprocess.resize_logits(found, *hu.shape[1:3])

    def logits_of(network: Network, variables: PyTree, hu: jax.Array) -> jax.Array:
        if uses_tiles(network, hu):
            size = network.config.data.image_size
            return tiles.tiled_logits(
                lambda tile: network.logits(variables, tile), hu, size, NUM_CLASSES
            )
        return preprocess.resize_logits(network.logits(variables, hu), *hu.shape[1:3])

    def mean_probabilities(variables: list[PyTree], image: jax.Array) -> jax.Array:
        settings, parts = neighbours.channels_of(
            [neighbours.setting_of(network.config.data) for network in networks]
        )
        found = []
        for network, weights, part in zip(networks, variables, parts, strict=True):
            hu = image[..., part] if len(settings) > 1 else image
            found.append(probabilities_of(network, weights, hu))
            if mirror:
                mirrored = probabilities_of(network, weights, hu[:, :, ::-1])
                found.append(mirrored[:, :, ::-1])
        return sum(found[1:], found[0]) / len(found)

    def step(variables: list[PyTree], batch: PyTree) -> dict[str, jax.Array]:
        hu = batch["image"]
        is_single = len(networks) == 1 and not mirror
        scores = (
            logits_of(networks[0], variables[0], hu)
            if is_single
            else mean_probabilities(variables, hu)
        )
        found = {"mask": scores.argmax(-1).astype(jnp.uint8)}
        if with_probabilities:
            probabilities = jax.nn.softmax(scores) if is_single else scores
            found["probabilities"] = probabilities.transpose(0, 3, 1, 2).astype(jnp.float16)
        return found

    return step
