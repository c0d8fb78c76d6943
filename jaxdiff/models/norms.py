"""Group and layer normalisation, with the parameters of Flax's, by `sums`.

Means and variances are float32 and in one pass, var(x) = mean(x^2) - mean(x)^2, clipped at 0.

Axis legend: B batch, R rows (pixels or tokens), C channels, G groups.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxdiff.models.sums import column_sum, columns, row_sum, rows

_ones = nn.initializers.ones_init()
_zeros = nn.initializers.zeros_init()


class GroupNorm(nn.Module):
    """(x - mean) / sqrt(var + epsilon) scale + bias over C / G channels and all pixels: [B ... C].

    (Wu & He 2018, eq. 1.)

    Attributes:
      groups: G; divides C.
      epsilon: added to the variance.
      dtype: of the result.
    """

    groups: int
    epsilon: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, channels = x.shape[0], x.shape[-1]
        scale, bias = _scale_and_bias(self, channels)
        flat = x.reshape(batch, -1, channels).astype(jnp.float32)
        count = flat.shape[1]

        def over_group(sums: jax.Array) -> jax.Array:
            grouped = sums.reshape(batch, self.groups, -1)
            mean = jnp.mean(grouped, axis=-1, keepdims=True) / count
            return jnp.broadcast_to(mean, grouped.shape).reshape(batch, channels)

        mean = over_group(row_sum(flat))
        variance = jnp.maximum(over_group(row_sum(flat * flat)) - mean * mean, 0.0)
        factor = scale * jax.lax.rsqrt(variance + self.epsilon)
        shift = jnp.broadcast_to(bias, mean.shape)
        y = (flat - rows(mean, count)) * rows(factor, count) + rows(shift, count)
        return y.reshape(x.shape).astype(self.dtype)


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(var + epsilon) scale + bias over the channels: [... C].

    (Ba et al. 2016.)

    Attributes:
      epsilon: added to the variance.
      dtype: of the result.
    """

    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        scale, bias = _scale_and_bias(self, channels)
        flat = x.reshape(-1, channels).astype(jnp.float32)
        count = flat.shape[0]
        mean = column_sum(flat) / channels
        variance = jnp.maximum(column_sum(flat * flat) / channels - mean * mean, 0.0)
        factor = jax.lax.rsqrt(variance + self.epsilon)
        y = (flat - columns(mean, channels)) * columns(factor, channels)
        y = y * rows(scale, count) + rows(bias, count)
        return y.reshape(x.shape).astype(self.dtype)


def _scale_and_bias(module: nn.Module, channels: int) -> tuple[jax.Array, jax.Array]:
    """The module's parameters [C] each, the identity at first, as float32."""
    scale = module.param("scale", _ones, (channels,))
    bias = module.param("bias", _zeros, (channels,))
    return jnp.asarray(scale, jnp.float32), jnp.asarray(bias, jnp.float32)
