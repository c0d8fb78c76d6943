"""Random keys with names, and noise that belongs to the image and not to the batch.

Axis legend: B images.
"""

import zlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Integer, Key


def named_keys(key: Key[Array, ""], *names: str) -> dict[str, Key[Array, ""]]:
    """Derive one independent key per name; a name gives the same key whatever stands beside it.

    Raises:
      ValueError: a name is given twice.
    """
    if len(set(names)) != len(names):
        raise ValueError(f"key names must differ, got {names}")
    return {name: jax.random.fold_in(key, zlib.crc32(name.encode())) for name in names}


def image_keys(seeds: Sequence[int] | Integer[Array, " B"]) -> Key[Array, " B"]:
    """One key per image from its integer seed in [0, 2^32)."""
    return jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))


def fold_each(keys: Key[Array, " B"], data: int | Int[Array, ""]) -> Key[Array, " B"]:
    """Fold the same number into every image's own key."""
    return jax.vmap(lambda key: jax.random.fold_in(key, data))(keys)


def normal_each(keys: Key[Array, " B"], shape: Sequence[int]) -> Float[Array, "B ..."]:
    """Standard normal noise [B, *shape], float32; row b depends on keys[b] alone."""
    return jax.vmap(lambda key: jax.random.normal(key, tuple(shape), jnp.float32))(keys)
