"""FlexUNet: a U-Net whose depth, kernels and dilation shrink level by level from a base.

Level i has `base_filters * 2**i` filters, a kernel of `max(base_kernel - 2*i, 3)`, a dilation of
`max(dilation - i, 1)` and dropout of rate `dropout_rate * i`. The last of `num_layers` levels is
the bridge. The network is that of the TensorFlow FlexUNet project, layer for layer, so that its
trained weights can be brought over (`mbh_jax.interop.keras_import`).
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from mbh_jax import keys
from mbh_jax.models import layers, norms, ops, slices
from mbh_jax.models.architecture import Architecture


class Level(NamedTuple):
    """What one level of the network is made of."""

    filters: int
    kernel_size: int
    dilation: int
    dropout_rate: float


class FlexUNet(nn.Module):
    """U-Net (Ronneberger et al., 2015, arXiv:1505.04597) with FlexUNet's rules for its levels.

    Attributes:
        num_classes: channels of the logits.
        base_filters: filters of level 0; they double at each level.
        base_kernel: kernel side of level 0; it shrinks by 2 a level, to 3.
        num_layers: levels, the bridge included.
        dropout_rate: dropout rate added a level; level 0 has none.
        dilation: dilation of level 0; it shrinks by 1 a level, to 1.
        activation: a key of `layers.ACTIVATIONS`, applied to every 'same' convolution.
        norm: one of `norms.NORMS`, applied after every activation.
        attention: weight the skip connections by attention gates.
        patch_size: side of the squares of pixels that are the channels of one pixel of level 0, in
            the input as in the logits (Shi et al., 2016, arXiv:1609.05158).
        slice_fusion: one of `slices.FUSIONS`.
        num_slices: slices that are channels of the input, the predicted one in the middle.
        dtype: of the computation; parameters, statistics and logits are float32.
        remat: recompute the inside of each level in the backward pass instead of keeping it, for
            less memory and one more forward pass (Chen et al., 2016, arXiv:1604.06174). XLA's CPU
            compiler finds that the same is computed twice, and keeps it after all.
        axis_name: device axis that batch statistics are taken over under pmap, or None.
    """

    num_classes: int
    base_filters: int = 16
    base_kernel: int = 7
    num_layers: int = 8
    dropout_rate: float = 0.05
    dilation: int = 1
    activation: str = "relu"
    norm: str = "none"
    attention: bool = False
    patch_size: int = 1
    slice_fusion: str = "channels"
    num_slices: int = 1
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    axis_name: str | None = None

    def level(self, i: int) -> Level:
        """The rules of level `i`, from 0 (full resolution) to `num_layers - 1` (the bridge)."""
        return Level(
            filters=self.base_filters * 2**i,
            kernel_size=max(self.base_kernel - 2 * i, 3),
            dilation=max(self.dilation - i, 1),
            dropout_rate=self.dropout_rate * i,
        )

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        train: bool = False,
        weight: jax.Array | None = None,
        dropout_keys: jax.Array | None = None,
    ) -> jax.Array:
        """Logits of every pixel.

        Args:
            x: (B, H, W, C), H and W multiples of `size_divisor(num_layers, patch_size)`.
            train: use dropout and the batch's own statistics, and update their running means.
            weight: (B,), 0 for padding examples, which batch statistics leave out; None: all count.
            dropout_keys: (B,) PRNG keys. An example's dropout depends on its own key alone, so that
                it is the same however a batch is divided over devices. None: no dropout.

        Returns:
            (B, H, W, num_classes) float32.

        Raises:
            ValueError: if H or W is no such multiple.
        """
        divisor = size_divisor(self.num_layers, self.patch_size)
        if x.shape[1] % divisor or x.shape[2] % divisor:
            raise ValueError(f"image of {x.shape[1:3]}: both sides must be multiples of {divisor}")

        # Argument 2 of the call is `train`; the module itself counts as argument 0.
        block_of = nn.remat(layers.ConvBlock, static_argnums=2) if self.remat else layers.ConvBlock
        # That pass through the first level one by one.
        num_slices = self.num_slices if self.slice_fusion == "convolution" else 1

        def block(x: jax.Array, level: Level, name: str, num_slices: int = 1) -> jax.Array:
            return block_of(
                level.filters,
                level.kernel_size,
                level.dilation,
                level.dropout_rate,
                self.activation,
                self.norm,
                self.dtype,
                self.axis_name,
                name=name,
            )(x, train, *(slices.repeat(rows, num_slices) for rows in (weight, dropout_keys)))

        def across_slices(x: jax.Array, name: str) -> jax.Array:
            x = layers.Conv(self.base_filters, 1, dtype=self.dtype, name=name)(x)
            return layers.ACTIVATIONS[self.activation](x)

        *outer_levels, bridge = (self.level(i) for i in range(self.num_layers))

        x = slices.to_batch(x.astype(self.dtype), num_slices)
        x = _to_patches(x, self.patch_size)
        skips = []
        for i, level in enumerate(outer_levels):
            x = block(x, level, f"encoder_{i}", 1 if i else num_slices)
            if i == 0:
                x = slices.fuse(x, num_slices, across_slices)
            skips.append(x)
            x = ops.max_pool(x)

        x = block(x, bridge, "bridge")

        for i, level in reversed(list(enumerate(outer_levels))):
            x = layers.UpConv(level.filters, self.dtype, name=f"up_{i}")(x)
            skip = skips[i]
            if self.attention:
                compared = max(level.filters // 2, 1)
                skip = layers.AttentionGate(compared, self.dtype, name=f"gate_{i}")(skip, x)
            x = jnp.concatenate([x, skip], axis=-1)
            x = block(x, level, f"decoder_{i}")

        logits = layers.Conv(
            self.num_classes * self.patch_size**2,
            kernel_size=1,
            kernel_init=nn.initializers.glorot_uniform(),
            name="logits",
        )(x.astype(jnp.float32))
        return _from_patches(logits, self.patch_size)


def _to_patches(x: jax.Array, size: int) -> jax.Array:
    """(B, H, W, C) -> (B, H / size, W / size, size * size * C)."""
    if size == 1:
        return x
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // size, size, width // size, size, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // size, width // size, -1)


def _from_patches(x: jax.Array, size: int) -> jax.Array:
    """The inverse of `_to_patches`."""
    if size == 1:
        return x
    batch, height, width, _ = x.shape
    x = x.reshape(batch, height, width, size, size, -1)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height * size, width * size, -1)


def size_divisor(num_layers: int, patch_size: int = 1) -> int:
    """The number that must divide an image's sides for `num_layers - 1` halvings of its patches."""
    return patch_size * 2 ** (num_layers - 1)


def _problem(config: ConfigDict) -> str | None:
    deepest = config.dropout_rate * (config.num_layers - 1)
    if deepest < 1:
        return None
    return (
        f"model.dropout_rate={config.dropout_rate} is multiplied by the number of the level, to "
        f"{deepest:g} in the last of {config.num_layers}: give less than "
        f"{1 / (config.num_layers - 1):.3g}"
    )


ARCHITECTURE = Architecture(
    create=FlexUNet,
    keys={
        "base_filters": keys.integer(16, 1, "filters of the first level; they double at each"),
        "base_kernel": keys.integer(
            7, 1, "side of the first level's kernels; 2 less at each level, down to 3"
        ),
        "num_layers": keys.integer(8, 2, "levels, the deepest (the bridge) included"),
        "dropout_rate": keys.number(
            0.05, 0, "dropout rate that each level adds; the first has none", below=1
        ),
        "dilation": keys.integer(
            1, 1, "dilation of the first level's kernels; 1 less at each level, down to 1"
        ),
        "activation": keys.choice(
            "relu", layers.ACTIVATIONS, "applied after every 3 x 3 or larger convolution"
        ),
        "norm": keys.choice("none", norms.NORMS, "normalisation after every activation"),
        "attention": keys.switch(
            False,
            "attention gates on the skip connections, one weight a pixel (Oktay et al., 2018), "
            "after Lin et al. (2025)",
        ),
        "patch_size": keys.integer(
            1,
            1,
            "side of the squares of pixels that the network takes as one; a greater one makes a "
            "step faster",
            maximum=16,
        ),
        "slice_fusion": slices.KEY,
        "dtype": keys.choice(
            "float32",
            ("float32", "bfloat16"),
            "of the computation; parameters, statistics and logits stay float32",
        ),
        "remat": keys.switch(
            False, "compute levels again for their gradients: less memory, more time"
        ),
    },
    meaning="the TensorFlow FlexUNet, layer for layer: a U-Net whose levels follow from a base",
    size_divisor=lambda config: size_divisor(config.num_layers, config.patch_size),
    problem=_problem,
    without_influence=("remat",),
    has_batch_statistics=lambda config: config.norm == "batch",
)
