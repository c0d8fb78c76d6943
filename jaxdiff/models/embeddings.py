"""Embeddings of single numbers, timesteps above all, and the layers behind them.

Axis legend: B batch, C channels, E width of the time embedding, K width of a condition.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdiff.models.linear import Dense


def sinusoidal_embedding(
    timestep: Float[Array, " B"], width: int, *, max_period: float = 10_000.0
) -> Float[Array, "B width"]:
    """Embed a scalar as [cos(t w_i), sin(t w_i)], w_i = max_period^(-i / (width / 2)), float32.

    Vaswani et al. 2017, section 3.5, in the order (cosines first) and with the frequencies that
    Stable Diffusion's checkpoints expect. `timestep` may be fractional; `width` is even.
    """
    half = width // 2
    frequency = jnp.exp(-math.log(max_period) * jnp.arange(half, dtype=jnp.float32) / half)
    angle = timestep.astype(jnp.float32)[:, None] * frequency
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def guidance_embedding(
    guidance_scale: Float[Array, " B"], width: int, *, max_period: float = 10_000.0
) -> Float[Array, "B width"]:
    """Embed w = guidance_scale - 1 as [sin(1000 w f_i), cos(1000 w f_i)], float32.

    f_i = max_period^(-i / (width / 2 - 1)). Latent consistency models (Luo et al. 2023, section
    4.2) are trained with w so embedded; sines come first and the last period is `max_period`,
    unlike in `sinusoidal_embedding`. `width` is even and at least 4.
    """
    half = width // 2
    exponent = jnp.arange(half, dtype=jnp.float32) / (half - 1)
    frequency = jnp.exp(-math.log(max_period) * exponent)
    angle = 1000.0 * (guidance_scale.astype(jnp.float32) - 1.0)[:, None] * frequency
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


class MLPEmbedding(nn.Module):
    """Two dense layers with SiLU between them: [B C] -> [B E].

    A `condition` [B K] is projected to C and added first.
    """

    width: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array | None = None) -> jax.Array:
        if condition is not None:
            project = Dense(x.shape[-1], use_bias=False, dtype=self.dtype, name="cond_proj")
            x = x + project(condition)
        x = Dense(self.width, dtype=self.dtype, name="linear_1")(x)
        return Dense(self.width, dtype=self.dtype, name="linear_2")(nn.silu(x))
