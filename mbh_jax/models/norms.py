"""Normalisations of feature maps. Parameters and statistics are float32.

Each is a layer from (B, H, W, C) to the same; `dtype` is that of the result.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

NORMS = ("none", "batch", "group", "instance")
"""Kinds of normalisation."""

NORM_EPSILON = 1e-3
"""Added to the variance before its root is taken: Keras's default."""

BATCH_NORM_MOMENTUM = 0.99
"""Share of the old running statistics that each step keeps: Keras's default."""

INSTANCE_NORM_EPSILON = 1e-5
"""Epsilon of instance normalisation: PyTorch's default, which nnU-Net uses."""

MAX_GROUPS = 8
"""Group normalisation divides channels into this many groups, or fewer where it must."""


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy, 2015, arXiv:1502.03167) over real examples only.

    `nn.BatchNorm` averages the means of devices, which is wrong where padding leaves some devices
    with fewer real examples. Here sums and counts are added over devices before one division.

    Attributes:
        axis_name: device axis that the statistics are taken over, or None.
        dtype: of the result; statistics are float32.
    """

    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, weight: jax.Array | None) -> jax.Array:
        """(B, H, W, C) -> the same; `weight` (B,) is 0 for padding, None where all are real."""
        channels = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels)

        if train:
            mean, var = self._batch_statistics(x.astype(jnp.float32), weight)
            if not self.is_initializing():
                keep = BATCH_NORM_MOMENTUM
                running_mean.value = keep * running_mean.value + (1 - keep) * mean
                running_var.value = keep * running_var.value + (1 - keep) * var
        else:
            mean, var = running_mean.value, running_var.value

        factor = scale * jax.lax.rsqrt(var + NORM_EPSILON)
        return (x * factor + (bias - mean * factor)).astype(self.dtype)

    def _batch_statistics(
        self, x: jax.Array, weight: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """Mean and (biased) variance of each channel, (C,) float32, over all devices."""
        batch, height, width, _ = x.shape
        weight = jnp.ones(batch) if weight is None else weight
        count = weight.sum() * (height * width)
        # Sums of each example first, weighted afterwards: no weighted copy of the map is made. Not
        # a matrix product, whose operands accelerators would round.
        sums = (weight[:, None] * x.sum((1, 2))).sum(0)
        squares = (weight[:, None] * jnp.square(x).sum((1, 2))).sum(0)
        if self.axis_name is not None and not self.is_initializing():
            sums, squares, count = jax.lax.psum((sums, squares, count), self.axis_name)
        mean = sums / jnp.maximum(count, 1)
        return mean, jnp.maximum(squares / jnp.maximum(count, 1) - jnp.square(mean), 0)


class GroupNorm(nn.Module):
    """Group normalisation (Wu and He, 2018, arXiv:1803.08494) of each image.

    `nn.GroupNorm` takes its means over pixels and the channels of a group at once, which XLA's CPU
    compiler makes slow. Here each channel is averaged over the pixels first.

    Attributes:
        num_groups: groups of neighbouring channels, of equal size.
        dtype: of the result; statistics are float32.
    """

    num_groups: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, C) -> the same."""
        batch, _, _, channels = x.shape
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))

        def average_over_groups(channel_means: jax.Array) -> jax.Array:
            groups = channel_means.reshape(batch, 1, 1, self.num_groups, -1)
            mean = jnp.broadcast_to(groups.mean(-1, keepdims=True), groups.shape)
            return mean.reshape(batch, 1, 1, channels)

        mean, squares = map(average_over_groups, _moments(x))
        var = jnp.maximum(squares - jnp.square(mean), 0)
        factor = scale * jax.lax.rsqrt(var + NORM_EPSILON)
        return (x * factor + (bias - mean * factor)).astype(self.dtype)


class InstanceNorm(nn.Module):
    """Instance normalisation (Ulyanov et al., 2016, arXiv:1607.08022): each channel of each image.

    Attributes:
        scale_init: initialiser of the scale of each channel.
        dtype: of the result; statistics are float32.
    """

    scale_init: nn.initializers.Initializer = nn.initializers.ones
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, C) -> the same."""
        scale = self.param("scale", self.scale_init, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        mean, squares = _moments(x)
        var = jnp.maximum(squares - jnp.square(mean), 0)
        factor = scale * jax.lax.rsqrt(var + INSTANCE_NORM_EPSILON)
        return (x * factor + (bias - mean * factor)).astype(self.dtype)


def _moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Means over the pixels of (B, H, W, C), and of its squares: (B, 1, 1, C) float32 each."""
    x = x.astype(jnp.float32)
    return x.mean((1, 2), keepdims=True), jnp.square(x).mean((1, 2), keepdims=True)
