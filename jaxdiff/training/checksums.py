"""Checksums of a state, computed on the devices where it lies.

    c = sum_i b_i (2 i + 1)  mod 2^32                                                            (1)

is the checksum of an array whose element number i has the bits b_i. The factors are odd, so one
wrong bit always changes it; the sum does not depend on how the array is cut over devices, so they
compute it where it lies, and a state can be checked on other devices than it was saved from.
TensorStore checks its indices, but not the numbers themselves.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree, UInt32


def checksums(tree: PyTree) -> list[int]:
    """The checksum (eq. 1) of every array of a tree, in the order of its leaves."""
    leaf = jax.tree.leaves(tree)[0]
    replicated = None
    if isinstance(leaf.sharding, NamedSharding):
        replicated = NamedSharding(leaf.sharding.mesh, PartitionSpec())
    sums = jax.jit(_checksums, out_shardings=replicated)(tree)
    return np.asarray(jax.device_get(sums)).tolist()


def _checksums(tree: PyTree) -> UInt32[Array, " leaves"]:
    return jnp.stack([_checksum(leaf) for leaf in jax.tree.leaves(tree)])


def _checksum(x: Array) -> UInt32[Array, ""]:
    bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}"))
    number, stride = jnp.zeros(x.shape, jnp.uint32), 1
    for axis in reversed(range(x.ndim)):
        number += jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * np.uint32(stride % 2**32)
        stride *= x.shape[axis]
    return jnp.sum(bits.astype(jnp.uint32) * (2 * number + 1), dtype=jnp.uint32)


def wrong_arrays(state: PyTree, saved: list[int]) -> str | None:
    """Which arrays of a state are not what was saved, in words; None where all are.

    Args:
      state: what was read.
      saved: the checksums of what was written.
    """
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(state)[0]]
    now = checksums(state)
    names = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, then, found in zip(paths, saved, now, strict=True)
        if then != found
    ]
    if not names:
        return None
    more = f" and {len(names) - 1} more arrays" if len(names) > 1 else ""
    return f"{names[0]}{more} are not what was saved"
