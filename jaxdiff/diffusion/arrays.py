"""Small array helpers that the rest of the maths shares."""

from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

Level = float | np.ndarray | np.floating | Array
"""A time, a log-SNR or a noise level of any shape."""


def namespace(t: Level) -> tuple[ModuleType, Level]:
    """(jnp, t) for a jax array in float32 or better, else (numpy, t as float64).

    A function of t written with the returned module computes a grid in float64 by numpy and runs in
    float32 under jit.
    """
    if isinstance(t, jax.Array):
        return jnp, t.astype(jnp.promote_types(t.dtype, jnp.float32))
    return np, np.asarray(t, np.float64)


def expand(level: Level, like: Array) -> Array:
    """Append axes to a scalar or [B] array until it broadcasts against `like` [B ...]."""
    level = jnp.asarray(level)
    return level.reshape(level.shape + (1,) * (like.ndim - level.ndim)) if level.ndim else level


def divide(a: Array, b: Array, otherwise: float = 0.0) -> Array:
    """The elementwise a / b where b > 0, else `otherwise`; safe to differentiate at b = 0."""
    positive = b > 0
    return jnp.where(positive, a / jnp.where(positive, b, 1.0), otherwise)
