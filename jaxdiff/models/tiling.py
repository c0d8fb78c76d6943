"""Autoencoders on pictures that do not fit: tile by tile, the overlaps blended linearly.

Axis legend: B batch, h w latent pixels, H W pixels, Z latent channels, C channels.
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdiff.errors import UserError


def tiled_decode(
    decode: Callable[[jax.Array], jax.Array],
    z: Float[Array, "B h w Z"],
    tile: int,
    overlap: int,
) -> Float[Array, "B H W C"]:
    """`decode(z)`, one tile of tile x tile latent pixels at a time.

    Each tile is decoded alone, so that memory is that of one; where tiles overlap, each counts for
    less towards its own edge. It is not quite `decode(z)`, whose attention and norms see the whole
    picture, but it is exactly that where a tile holds all.

    Args:
      decode: latents [B h w Z] to pictures [B H W C], of any size.
      z: the latents.
      tile: side of a tile, in latent pixels.
      overlap: how many of them neighbours share, at least.

    Raises:
      UserError: not 0 <= overlap < tile.
    """
    return _tiled(decode, z, tile, overlap)


def tiled_encode(
    encode: Callable[[jax.Array], Any],
    x: Float[Array, "B H W C"],
    tile: int,
    overlap: int,
) -> Any:
    """`encode(x)`, one tile of tile x tile latent pixels at a time; see `tiled_decode`.

    Args:
      encode: pictures to an array [B h w Z], or to a tree of such.
      x: the pictures.
      tile: side of a tile, in latent pixels.
      overlap: how many of them neighbours share, at least.

    Raises:
      UserError: not 0 <= overlap < tile.
    """
    return _tiled(encode, x, tile, overlap)


def _tiled(function: Callable[[jax.Array], Any], x: jax.Array, tile: int, overlap: int) -> Any:
    """Apply a function to the tiles of x and lay out what it makes; latents are the coarser."""
    if not 0 <= overlap < tile:
        raise UserError(f"tile={tile} and overlap={overlap}: give an overlap from 0 to tile - 1")
    shapes = jax.eval_shape(function, x)
    inner, outer = x.shape[1:3], jax.tree.leaves(shapes)[0].shape[1:3]
    size = min(inner, outer)
    first, last = inner[0] // size[0], outer[0] // size[0]
    tile_size = tuple(min(tile, side) for side in size)
    if tile_size == size:
        return function(x)
    starts = tuple(_starts(side, tile, overlap) for side in size)
    weight, total = _weights(tile_size, overlap, last, size, starts)
    span = (x.shape[0], *(side * first for side in tile_size), x.shape[3])

    def add(canvas: Any, corner: jax.Array) -> tuple[Any, None]:
        def place(whole: jax.Array, part: jax.Array) -> jax.Array:
            start = (0, *(corner * last), 0)
            old = jax.lax.dynamic_slice(whole, start, part.shape)
            return jax.lax.dynamic_update_slice(whole, old + weight * part, start)

        parts = function(jax.lax.dynamic_slice(x, (0, *(corner * first), 0), span))
        return jax.tree.map(place, canvas, parts), None

    corners = jnp.array(list(itertools.product(*starts)))
    canvas = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), shapes)
    canvas, _ = jax.lax.scan(add, canvas, corners)
    return jax.tree.map(lambda leaf, like: (leaf / total).astype(like.dtype), canvas, shapes)


def _starts(size: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along one side; the last one ends with it."""
    if size <= tile:
        return [0]
    return [*range(0, size - tile, tile - overlap), size - tile]


def _weights(
    tile_size: tuple[int, int],
    overlap: int,
    factor: int,
    size: tuple[int, int],
    starts: tuple[list[int], list[int]],
) -> tuple[np.ndarray, np.ndarray]:
    """What a tile's pixels count for, and the sum of it over all tiles, both [1 H W 1]."""
    ramps = [_ramp(side * factor, overlap * factor) for side in tile_size]
    sums = []
    for ramp, side, corners in zip(ramps, size, starts, strict=True):
        total = np.zeros(side * factor, np.float32)
        for start in corners:
            total[start * factor : start * factor + len(ramp)] += ramp
        sums.append(total)
    return tuple(np.outer(*pair)[None, :, :, None] for pair in (ramps, sums))


def _ramp(length: int, overlap: int) -> np.ndarray:
    """1 in the middle, falling linearly towards 0 over `overlap` at either end."""
    position = np.arange(length, dtype=np.float32) + 0.5
    edge = np.minimum(position, length - position)
    return np.minimum(edge / overlap, 1.0) if overlap else np.ones(length, np.float32)
