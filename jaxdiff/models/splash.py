"""The TPU's fused attention, a kernel in Pallas: logits never leave the chip.

jax's own kernel (`splash_attention`, after Dao 2023, FlashAttention-2) in the shapes of this
package. Its backward pass computes the logits again; one kernel makes all three gradients.

Axis legend: B batch, T query tokens, S key tokens, N heads, H = B N, K head width.
"""

import functools
import math
from collections.abc import Sequence

import jax
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel,
    splash_attention_mask,
)
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from jaxdiff import target

LANES = 128
"""Numbers of tokens are multiples of a TPU's vector."""
_BLOCKS = (512, 256, LANES)  # tokens at a time: logits of 512 x 512 in float32 are 1 MB


def fused_attention(
    q: Float[Array, "B T N K"], k: Float[Array, "B S N K"], v: Float[Array, "B S N K"]
) -> Float[Array, "B T N K"]:
    """softmax(q k^T / sqrt(K)) v, on each of the devices that `target.cut()` names for its part.

    T and S are multiples of `LANES`. Off a TPU the kernel is interpreted, which is slow.
    """
    attend = functools.partial(_attend, interpret=target.platform() != "tpu")
    cut = target.cut()
    if cut is None or cut.mesh.size == 1:
        return attend(q, k, v)
    rows = dividing(q.shape[0], cut.rows, cut.mesh.shape)
    heads = dividing(q.shape[2], (cut.heads,) if cut.heads else (), cut.mesh.shape)
    spec = PartitionSpec(rows or None, None, heads or None)
    # A kernel does not say over which axes its result varies, so nothing is there to be checked.
    return jax.shard_map(
        attend, mesh=cut.mesh, in_specs=(spec,) * 3, out_specs=spec, check_vma=False
    )(q, k, v)


def dividing(size: int, axes: Sequence[str], sizes: dict[str, int]) -> tuple[str, ...]:
    """Those of the axes of a mesh, in their order, that together divide a dimension.

    >>> dividing(6, ("data", "fsdp"), {"data": 2, "fsdp": 4})
    ('data',)
    """
    kept, parts = (), 1
    for axis in axes:
        if size % (parts * sizes[axis]) == 0:
            kept, parts = (*kept, axis), parts * sizes[axis]
    return kept


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, interpret: bool) -> jax.Array:
    """The kernel on one device, all heads of the batch as if of one example: [B T N K]."""
    batch, queries, heads, width = q.shape

    def by_head(x: jax.Array) -> jax.Array:  # [B T N K] -> [H T K]
        return x.swapaxes(1, 2).reshape(batch * heads, x.shape[1], width)

    everything = splash_attention_mask.FullMask((queries, k.shape[1]))
    kernel = splash_attention_kernel.make_splash_mha_single_device(
        splash_attention_mask.MultiHeadMask([everything] * (batch * heads)),
        block_sizes=_block_sizes(queries, k.shape[1]),
        interpret=interpret,
    )
    out = kernel(by_head(q / math.sqrt(width)), by_head(k), by_head(v))
    return out.reshape(batch, heads, queries, width).swapaxes(1, 2)


def _block_sizes(queries: int, keys: int) -> splash_attention_kernel.BlockSizes:
    """How many queries and keys the kernels take at a time, forward and backward."""
    of_q, of_kv = (next(b for b in _BLOCKS if n % b == 0) for n in (queries, keys))
    return splash_attention_kernel.BlockSizes(
        block_q=of_q,
        block_kv=of_kv,
        block_q_dkv=of_q,
        block_kv_dkv=of_kv,
        use_fused_bwd_kernel=True,
    )
