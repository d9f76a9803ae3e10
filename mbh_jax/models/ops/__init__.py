"""What layers are compiled to: plain operations, or what a CPU computes faster."""

from mbh_jax.models.ops.convolution import conv, strided_conv, up_conv
from mbh_jax.models.ops.pooling import max_pool, mean_pool

__all__ = ["conv", "max_pool", "mean_pool", "strided_conv", "up_conv"]
