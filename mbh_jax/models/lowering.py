"""What the layers become on each platform: same arguments, same results within rounding."""

import flax.linen as nn
import jax
from jax import lax


def conv(x: jax.Array, kernel: jax.Array, dilation: int = 1) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1, 1),
        padding="SAME",
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def up_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    batch, height, width, _ = x.shape
    features = kernel.shape[-1]
    pixels = jax.numpy.einsum("bhwi,acio->bhawco", x, kernel)
    return pixels.reshape(batch, 2 * height, 2 * width, features)


def max_pool(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (2, 2), (2, 2))
