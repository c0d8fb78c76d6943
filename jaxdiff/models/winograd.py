"""3x3 convolutions by minimal filtering: 36 products where the sum has 144.

Lavin & Gray 2016, section 4: with d a 6x6 tile of the input, g the 3x3 kernel and Y the 4x4 tile of
the output,

    Y = A^T [(G g G^T) * (B^T d B)] A,                                                           (1)

the product * being element by element and summed over input channels: 36 matrix products over all
tiles. A, B and G are those of polynomial interpolation at the points 0, +-p, +-q and infinity
(Toom-Cook; Lavin & Gray take p = 1, q = 2). The points 5/8 and 3/2 lose half as many digits
(Barabasz et al. 2020 search such points): on random data the error is about twice that of the plain
sum in float32. The pairs +-p share their even and their odd part.

Axis legend: B batch, H W pixels, I channels in, O channels out, M tiles of the whole batch.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_P, _Q = 5 / 8, 3 / 2
TILE = 4
"""Side of a tile of the output."""
_POINTS = TILE + 2
Pieces = list[jax.Array]
Transform = Callable[[Pieces], Pieces]


def winograd_convolution(
    x: Float[Array, "B H W I"], kernel: Float[Array, "3 3 I O"]
) -> Float[Array, "B H W O"]:
    """The convolution of stride 1 and padding 1, by eq. 1; linear in both arguments."""
    batch, height, width, _ = x.shape
    down, across = -(-height // TILE), -(-width // TILE)
    products = jnp.matmul(_input_tiles(x, down, across), _kernel_points(kernel))
    tiles = products.reshape(_POINTS, _POINTS, batch, down, across, -1)
    half = _along(_output, tiles, 1, 4)  # [points B down across 4 O]
    y = _along(_output, half, 0, 2)  # [B down 4 across 4 O]
    return y.reshape(batch, down * TILE, across * TILE, -1)[:, :height, :width]


def _input_tiles(x: jax.Array, down: int, across: int) -> jax.Array:
    """B^T d B of every tile: [36 M I]."""
    batch, height, width, channels = x.shape
    below, right = (down + 1) * TILE - height - 1, (across + 1) * TILE - width - 1
    x = jnp.pad(x, ((0, 0), (1, below), (1, right), (0, 0)))
    half = jnp.stack(_input(_overlapping(x, 1)))  # [points B down W I]
    full = jnp.stack(_input(_overlapping(half, 3)), axis=1)  # [points points B down across I]
    return full.reshape(_POINTS**2, batch * down * across, channels)


def _kernel_points(kernel: jax.Array) -> jax.Array:
    """G g G^T: [36 I O]."""
    half = _along(_kernel, kernel, 0, 0)
    return _along(_kernel, half, 1, 1).reshape(_POINTS**2, *kernel.shape[2:])


def _input(d: Pieces) -> Pieces:
    """B^T d: row i is the product of x - p_j over the other points j."""
    p, q = _P**2, _Q**2
    even_p, odd_p = d[4] - q * d[2], _P * (d[3] - q * d[1])
    even_q, odd_q = d[4] - p * d[2], _Q * (d[3] - p * d[1])
    zero = d[4] - (p + q) * d[2] + (p * q) * d[0]
    infinity = d[5] - (p + q) * d[3] + (p * q) * d[1]
    return [zero, even_p + odd_p, even_p - odd_p, even_q + odd_q, even_q - odd_q, infinity]


def _kernel(g: Pieces) -> Pieces:
    """G g: the kernel's polynomial at each point, over the product of p_i - p_j."""
    p, q = _P**2, _Q**2
    scale_p, scale_q = 1 / (2 * p * (p - q)), 1 / (2 * q * (q - p))
    even_p, odd_p = scale_p * (g[0] + p * g[2]), (scale_p * _P) * g[1]
    even_q, odd_q = scale_q * (g[0] + q * g[2]), (scale_q * _Q) * g[1]
    zero = g[0] / (p * q)
    return [zero, even_p + odd_p, even_p - odd_p, even_q + odd_q, even_q - odd_q, g[2]]


def _output(m: Pieces) -> Pieces:
    """A^T m: row i is the sum of p_j^i m_j."""
    p, q = _P**2, _Q**2
    even_p, odd_p = m[1] + m[2], _P * (m[1] - m[2])
    even_q, odd_q = m[3] + m[4], _Q * (m[3] - m[4])
    return [
        m[0] + even_p + even_q,
        odd_p + odd_q,
        p * even_p + q * even_q,
        p * odd_p + q * odd_q + m[5],
    ]


def _along(transform: Transform, x: jax.Array, axis: int, new_axis: int) -> jax.Array:
    """Transform along one axis; the result goes to another place."""
    return jnp.stack(transform(_pieces(x, axis)), axis=new_axis)


def _pieces(x: jax.Array, axis: int) -> Pieces:
    """The slices along an axis; by a split, whose gradient is one concatenation."""
    return [jnp.squeeze(part, axis) for part in jnp.split(x, x.shape[axis], axis)]


def _overlapping(x: jax.Array, axis: int) -> Pieces:
    """The six rows of every tile: tiles are four apart and share two rows with the next."""
    blocks = x.shape[axis] // TILE
    x = x.reshape(*x.shape[:axis], blocks, TILE, *x.shape[axis + 1 :])
    parts = _pieces(x, axis + 1)
    own = [jax.lax.slice_in_dim(part, 0, blocks - 1, axis=axis) for part in parts]
    next_ones = [jax.lax.slice_in_dim(part, 1, blocks, axis=axis) for part in parts[:2]]
    return own + next_ones
