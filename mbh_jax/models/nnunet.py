"""The 2D networks of nnU-Net v2, by its planner's rules: plain, and with a residual encoder.

The rules are those of nnU-Net's `PlainConvUNet` and `ResidualEncoderUNet` (Isensee et al., 2024,
arXiv:2404.09556): filters double at each stage up to a maximum, a convolution of stride 2 halves
the image, normalisation is by instance, the activation is a leaky ReLU. Parameter counts are equal
to nnU-Net's where `deep_supervision` is on, since its networks always hold a head at each stage.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from mbh_jax import keys
from mbh_jax.models import layers, norms, ops, slices
from mbh_jax.models.architecture import Architecture

ENCODERS = ("plain", "residual")
"""Kinds of encoders."""

RESIDUAL_BLOCKS = (1, 3, 4, 6)
"""Residual blocks of the first stages of an encoder; every further one has as many as the last."""

PLAIN_CONVOLUTIONS = 2
"""Convolutions in a stage of a plain encoder and of its decoder; a residual one's decoder has 1."""

NEGATIVE_SLOPE = 0.01
"""Of the leaky ReLU."""


class ConvNorm(nn.Module):
    """Convolution, instance normalisation and, unless it ends a residual block, leaky ReLU.

    Attributes:
        filters: channels of the output.
        kernel_size: 1 or 3.
        stride: 1 or 2.
        activate: whether the activation follows.
        use_bias: whether the convolution has a bias.
        scale_init: initialiser of the normalisation's scale.
        dtype: of the computation.
    """

    filters: int
    kernel_size: int = 3
    stride: int = 1
    activate: bool = True
    use_bias: bool = True
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, C) -> (B, H / stride, W / stride, filters)."""
        x = layers.Conv(
            self.filters,
            self.kernel_size,
            stride=self.stride,
            use_bias=self.use_bias,
            dtype=self.dtype,
            name="conv",
        )(x)
        x = norms.InstanceNorm(self.scale_init, self.dtype, name="norm")(x)
        return nn.leaky_relu(x, NEGATIVE_SLOPE) if self.activate else x


class ResidualBlock(nn.Module):
    """Two convolutions beside a skip connection, which is pooled and projected where it must be.

    The scale of the last normalisation starts at 0, so that a new block passes its input on.

    Attributes:
        filters: channels of the output.
        stride: of the first convolution, 1 or 2.
        dtype: of the computation.
    """

    filters: int
    stride: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, C) -> (B, H / stride, W / stride, filters)."""
        skip = x if self.stride == 1 else ops.mean_pool(x)
        if x.shape[-1] != self.filters:
            skip = ConvNorm(
                self.filters, 1, activate=False, use_bias=False, dtype=self.dtype, name="skip"
            )(skip)
        x = ConvNorm(self.filters, stride=self.stride, dtype=self.dtype, name="conv_0")(x)
        x = ConvNorm(
            self.filters,
            activate=False,
            scale_init=nn.initializers.zeros,
            dtype=self.dtype,
            name="conv_1",
        )(x)
        return nn.leaky_relu(x + skip, NEGATIVE_SLOPE)


class Stage(nn.Module):
    """The blocks of one stage, the first of which may halve the image.

    Attributes:
        kind: one of `ENCODERS`.
        filters: channels of the output.
        num_blocks: residual blocks, or convolutions.
        stride: of the first one, 1 or 2.
        dtype: of the computation.
    """

    kind: str
    filters: int
    num_blocks: int
    stride: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, C) -> (B, H / stride, W / stride, filters)."""
        for i in range(self.num_blocks):
            stride = self.stride if i == 0 else 1
            if self.kind == "residual":
                x = ResidualBlock(self.filters, stride, self.dtype, name=f"block_{i}")(x)
            else:
                x = ConvNorm(self.filters, stride=stride, dtype=self.dtype, name=f"conv_{i}")(x)
        return x


class NNUNet(nn.Module):
    """A 2D U-Net by nnU-Net's rules.

    Attributes:
        num_classes: channels of the logits.
        encoder: one of `ENCODERS`.
        base_filters: filters of the first stage; they double at each, up to `max_filters`.
        max_filters: most filters of a stage.
        num_stages: resolutions, the deepest included.
        deep_supervision: in training, logits at every resolution but the deepest.
        slice_fusion: one of `slices.FUSIONS`.
        num_slices: slices that are channels of the input, the predicted one in the middle.
        dtype: of the computation; parameters, statistics and logits are float32.
        remat: recompute the inside of each stage in the backward pass instead of keeping it.
        axis_name: not used: nothing is normalised over a batch.
    """

    num_classes: int
    encoder: str = "residual"
    base_filters: int = 32
    max_filters: int = 512
    num_stages: int = 8
    deep_supervision: bool = False
    slice_fusion: str = "channels"
    num_slices: int = 1
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        train: bool = False,
        weight: jax.Array | None = None,
        dropout_keys: jax.Array | None = None,
    ) -> jax.Array | tuple[jax.Array, ...]:
        """Logits of every pixel.

        Args:
            x: (B, H, W, C), H and W multiples of `2 ** (num_stages - 1)`.
            train: whether logits of deep supervision are wanted, where it is on.
            weight, dropout_keys: not used: examples do not meet, and there is no dropout.

        Returns:
            (B, H, W, num_classes) float32. With deep supervision in training a tuple of the logits
            at full, half, quarter, ... resolution.

        Raises:
            ValueError: H or W cannot be halved `num_stages - 1` times.
        """
        del weight, dropout_keys
        divisor = 2 ** (self.num_stages - 1)
        if x.shape[1] % divisor or x.shape[2] % divisor:
            raise ValueError(f"image of {x.shape[1:3]}: both sides must be multiples of {divisor}")
        filters = [min(self.base_filters * 2**i, self.max_filters) for i in range(self.num_stages)]
        is_residual = self.encoder == "residual"
        stage_of = nn.remat(Stage) if self.remat else Stage
        # That pass through the first stage one by one.
        num_slices = self.num_slices if self.slice_fusion == "convolution" else 1

        def across_slices(x: jax.Array, name: str) -> jax.Array:
            return ConvNorm(filters[0], 1, dtype=self.dtype, name=name)(x)

        x = slices.to_batch(x.astype(self.dtype), num_slices)
        if is_residual:
            x = ConvNorm(filters[0], dtype=self.dtype, name="stem")(x)
        skips = []
        for i in range(self.num_stages):
            blocks = RESIDUAL_BLOCKS[min(i, len(RESIDUAL_BLOCKS) - 1)]
            x = stage_of(
                self.encoder,
                filters[i],
                blocks if is_residual else PLAIN_CONVOLUTIONS,
                2 if i else 1,
                self.dtype,
                name=f"encoder_{i}",
            )(x)
            if i == 0:
                x = slices.fuse(x, num_slices, across_slices)
            skips.append(x)

        wants_all = self.deep_supervision and (train or self.is_initializing())
        logits = []
        for i in reversed(range(self.num_stages - 1)):
            x = layers.UpConv(filters[i], self.dtype, name=f"up_{i}")(x)
            x = stage_of(
                "plain",
                filters[i],
                1 if is_residual else PLAIN_CONVOLUTIONS,
                1,
                self.dtype,
                name=f"decoder_{i}",
            )(jnp.concatenate([x, skips[i]], axis=-1))
            if i == 0 or wants_all:
                head = layers.Conv(self.num_classes, 1, name=f"logits_{i}" if i else "logits")
                logits.append(head(x.astype(jnp.float32)))
        return tuple(reversed(logits)) if self.deep_supervision and train else logits[-1]


def _size_divisor(config: ConfigDict) -> int:
    return 2 ** (config.num_stages - 1)


ARCHITECTURE = Architecture(
    create=NNUNet,
    keys={
        "encoder": keys.choice(
            "residual", ENCODERS, "residual blocks (1, 3, 4, then 6 a stage), or two convolutions"
        ),
        "base_filters": keys.integer(32, 1, "filters of the first stage; they double at each"),
        "max_filters": keys.integer(512, 1, "most filters of a stage"),
        "num_stages": keys.integer(8, 2, "resolutions, the deepest included"),
        "deep_supervision": keys.switch(
            False, "in training the loss counts the logits of every resolution but the deepest"
        ),
        "slice_fusion": slices.KEY,
        "dtype": keys.choice(
            "float32",
            ("float32", "bfloat16"),
            "of the computation; parameters, statistics and logits stay float32",
        ),
        "remat": keys.switch(
            False, "compute stages again for their gradients: less memory, more time"
        ),
    },
    meaning="the 2D networks of nnU-Net v2: a plain U-Net, or one with a residual encoder",
    size_divisor=_size_divisor,
    without_influence=("remat",),
)
