"""Sums over rows or columns, and copies to them; on CPUs as matrix products with ones.

A copy to n rows has as gradient a sum over n rows, and the other way round. Written as products,

    rows(v, n) = 1_n v^T,   row_sum(x) = 1_n^T x,   columns(v, n) = v 1_n^T,   column_sum(x) = x 1_n

both directions are one library call for XLA:CPU. As a broadcast and a reduction, the gradient is
fused with what comes before it and evaluated number by number, up to forty times slower
(docs/performance.md). Forward, a product with one column of ones becomes a broadcast again. Other
compilers fuse reductions well, and get them.

Axis legend: R rows, C columns.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff import target


def rows(values: Float[Array, "*batch C"], count: int) -> Float[Array, "*batch R C"]:
    """Copy a row R = `count` times."""
    if not _by_products():
        return jnp.broadcast_to(values[..., None, :], (*values.shape[:-1], count, values.shape[-1]))
    return jnp.matmul(jnp.ones((*values.shape[:-1], count, 1), values.dtype), values[..., None, :])


def row_sum(x: Float[Array, "*batch R C"]) -> Float[Array, "*batch C"]:
    """Sum over rows: what is left is one row."""
    if not _by_products():
        return jnp.sum(x, axis=-2)
    return jnp.matmul(jnp.ones((*x.shape[:-2], 1, x.shape[-2]), x.dtype), x)[..., 0, :]


def columns(values: Float[Array, "*batch R"], count: int) -> Float[Array, "*batch R C"]:
    """Copy a column C = `count` times."""
    if not _by_products():
        return jnp.broadcast_to(values[..., None], (*values.shape, count))
    return jnp.matmul(values[..., None], jnp.ones((1, count), values.dtype))


def column_sum(x: Float[Array, "*batch R C"]) -> Float[Array, "*batch R"]:
    """Sum over columns: what is left is one column."""
    if not _by_products():
        return jnp.sum(x, axis=-1)
    return jnp.matmul(x, jnp.ones((x.shape[-1], 1), x.dtype))[..., 0]


def _by_products() -> bool:
    return target.platform() == "cpu"
