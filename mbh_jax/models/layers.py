"""Layers of U-Nets. Parameters are float32; `dtype` is that of the computation."""

import math
import zlib
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mbh_jax.models import norms, ops

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "leaky_relu": nn.leaky_relu,
    "elu": nn.elu,
    "gelu": nn.gelu,
    "silu": nn.silu,
}
"""Activation functions by their name in a configuration."""


class Conv(nn.Module):
    """Convolution with 'same' zero padding.

    Attributes:
        features: channels of the output.
        kernel_size: side of the square kernel.
        dilation: distance in pixels between neighbouring taps of the kernel.
        stride: 1, or 2 with a kernel of side 3 and no dilation.
        use_bias: whether a bias is added.
        kernel_init: initialiser of the kernel (kernel_size, kernel_size, C, features).
        dtype: of the computation.
    """

    features: int
    kernel_size: int
    dilation: int = 1
    stride: int = 1
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, C) -> (B, H / stride, W / stride, features) of `dtype`."""
        kernel_shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, kernel_shape).astype(self.dtype)
        x = x.astype(self.dtype)
        y = ops.strided_conv(x, kernel) if self.stride == 2 else ops.conv(x, kernel, self.dilation)
        if not self.use_bias:
            return y
        return y + self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)


class UpConv(nn.Module):
    """2x2 transposed convolution with stride 2 and a bias.

    The kernel is (2, 2, C, features): output pixel (2r + a, 2c + b) is input pixel (r, c) times
    `kernel[a, b]`. Keras's Conv2DTranspose holds the same numbers as (2, 2, features, C).

    Attributes:
        features: channels of the output.
        dtype: of the computation.
    """

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, C) -> (B, 2H, 2W, features) of `dtype`."""
        kernel_shape = (2, 2, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), kernel_shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = (a.astype(self.dtype) for a in (x, kernel, bias))
        return ops.up_conv(x, kernel) + bias


class AttentionGate(nn.Module):
    """Attention gate (Oktay et al., 2018, arXiv:1804.03999): one weight for each pixel.

    The gating signal has the resolution of the skip connection here, so nothing is resampled.

    Attributes:
        features: channels in which the two are compared.
        dtype: of the computation.
    """

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, skip: jax.Array, gating: jax.Array) -> jax.Array:
        """Skip (B, H, W, C) and gating signal (B, H, W, G) -> the skip, weighted."""
        compared = Conv(self.features, 1, dtype=self.dtype, name="skip")(skip) + Conv(
            self.features, 1, use_bias=False, dtype=self.dtype, name="gating"
        )(gating)
        weight = Conv(1, 1, dtype=self.dtype, name="weight")(nn.relu(compared))
        return skip * nn.sigmoid(weight)


def dropout(x: jax.Array, rate: float, keys: jax.Array) -> jax.Array:
    """Inverted dropout, each example with its own key.

    Random bits from each key would cost more than the convolutions around them. Two words from it
    seed a hash of each value's position instead, which the compiler fuses into the selection.

    Args:
        x: (B, H, W, C) array.
        rate: share of the values set to zero; the others grow by 1 / (1 - rate).
        keys: (B,) PRNG keys.

    Returns:
        An array like `x`, in expectation equal to it.
    """
    if rate == 0:
        return x
    seeds = jax.vmap(lambda key: jax.random.bits(key, (2,), jnp.uint32))(keys)
    seeds = seeds[:, :, None, None, None]
    position = jax.lax.iota(jnp.uint32, math.prod(x.shape[1:])).reshape(1, *x.shape[1:])
    bits = _hash_bits(_hash_bits(position + seeds[:, 0]) + seeds[:, 1])
    kept = bits >= jnp.uint32(round(rate * 2**32))
    return jnp.where(kept, x * jnp.asarray(1 / (1 - rate), x.dtype), jnp.zeros_like(x))


def _hash_bits(x: jax.Array) -> jax.Array:
    """A uint32 permutation, every output bit of which depends on all input bits.

    It is C. Wellons's lowbias32.
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


class ConvBlock(nn.Module):
    """One level: conv, activation, [norm], dropout, conv, activation, [norm].

    Attributes: those of `FlexUNet` and of one of its levels.
    """

    filters: int
    kernel_size: int
    dilation: int
    dropout_rate: float
    activation: str
    norm: str
    dtype: DTypeLike
    axis_name: str | None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        train: bool,
        weight: jax.Array | None,
        dropout_keys: jax.Array | None,
    ) -> jax.Array:
        """(B, H, W, C) -> (B, H, W, filters) of `dtype`."""
        for i in range(2):
            x = Conv(
                self.filters, self.kernel_size, self.dilation, dtype=self.dtype, name=f"conv_{i}"
            )(x)
            x = ACTIVATIONS[self.activation](x)
            x = self._normalise(x, f"norm_{i}", train, weight)
            if i == 0 and train and dropout_keys is not None:
                x = dropout(x, self.dropout_rate, self._keys_of_this_layer(dropout_keys))
        return x

    def _normalise(
        self, x: jax.Array, name: str, train: bool, weight: jax.Array | None
    ) -> jax.Array:
        if self.norm == "batch":
            return norms.BatchNorm(self.axis_name, self.dtype, name=name)(
                x, train=train, weight=weight
            )
        if self.norm == "group":
            groups = math.gcd(self.filters, norms.MAX_GROUPS)
            return norms.GroupNorm(groups, self.dtype, name=name)(x)
        if self.norm == "instance":
            return norms.InstanceNorm(dtype=self.dtype, name=name)(x)
        return x

    def _keys_of_this_layer(self, keys: jax.Array) -> jax.Array:
        """`keys` with the layer's name folded in, so that no two layers share a mask."""
        layer = zlib.crc32("/".join(self.path).encode())
        return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, layer)
