"""Scaled dot-product attention and the one seam where a platform's kernel plugs in.

Axis legend: B batch, T query tokens, S key tokens, N heads, H = B N, K head width, D model width.
"""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jaxdiff import target
from jaxdiff.errors import choose
from jaxdiff.models.linear import Dense
from jaxdiff.models.sums import column_sum, columns

Kernel = Callable[..., jax.Array]

BLOCK = 1 << 19
"""Logits that `blocked_attention` has at a time: 2 MB."""
PIECE = 128
"""Keys that it compares at a time."""
LONG = 1024
"""Queries from which on `splash_attention` is worth its kernel."""


def einsum_attention(
    q: Float[Array, "B T N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    mask: Bool[Array, "#B 1 T S"] | None = None,
) -> Float[Array, "B T N K"]:
    """Attention as two einsums: softmax(q k^T / sqrt(K)) v (Vaswani et al. 2017, eq. 1).

    The softmax runs in float32 whatever q, k and v are.
    """
    scale = 1.0 / math.sqrt(q.shape[-1])
    logits = jnp.einsum("btnk,bsnk->bnts", q * scale, k, preferred_element_type=jnp.float32)
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("bnts,bsnk->btnk", weights, v)


def blocked_attention(
    q: Float[Array, "B T N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    mask: Bool[Array, "#B 1 T S"] | None = None,
) -> Float[Array, "B T N K"]:
    """Attention on a CPU: a few heads, or a part of one head's queries, at a time.

    The logits of a block stay in the cache; the backward pass computes them again instead of
    storing T x S of them. exp(q k^T - max) v is divided by its sum at the end.
    """
    if mask is not None:
        return einsum_attention(q, k, v, mask)
    batch, queries, heads, width = q.shape

    def by_head(x: jax.Array) -> jax.Array:  # [B T N K] -> [H T K]
        return x.swapaxes(1, 2).reshape(batch * heads, x.shape[1], width)

    operands = by_head(q / math.sqrt(width)), by_head(k), by_head(v)
    at_once = BLOCK // (queries * k.shape[1])
    if at_once >= batch * heads:
        out = _attend(*operands)
    else:
        one_head = functools.partial(_attend_by_rows, rows_at_once=_divisor(queries, k.shape[1]))
        out = jax.lax.map(lambda x: one_head(*x), operands, batch_size=max(at_once, 1))
    return out.reshape(batch, heads, queries, width).swapaxes(1, 2)


def _attend_by_rows(q: jax.Array, k: jax.Array, v: jax.Array, rows_at_once: int) -> jax.Array:
    """Attention of one head, [T K] and [S K], for some of the queries at a time."""
    attend = jax.checkpoint(lambda part: _attend(part, k, v))
    parts = q.reshape(-1, rows_at_once, q.shape[-1])
    out = attend(parts[0])[None] if len(parts) == 1 else jax.lax.map(attend, parts)
    return out.reshape(q.shape)


def _attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """exp(q k^T - max) v over its row sums, float32 inside: [... T K], [... S K] -> [... T K]."""
    logits = jnp.matmul(q, k.swapaxes(-1, -2), preferred_element_type=jnp.float32)
    weights = jnp.exp(logits - jax.lax.stop_gradient(_row_max(logits))[..., None])
    out = jnp.matmul(weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return (out * columns(1.0 / column_sum(weights), out.shape[-1])).astype(v.dtype)


def _row_max(x: jax.Array) -> jax.Array:
    """The largest of each row, by pieces of a row at a time: [... S] -> [...].

    XLA:CPU looks for the maximum of a long row number by number, but of two arrays by vectors.
    """
    if x.shape[-1] > PIECE and x.shape[-1] % PIECE == 0:
        x = functools.reduce(jnp.maximum, jnp.split(x, x.shape[-1] // PIECE, axis=-1))
    return jnp.max(x, axis=-1)


def _divisor(queries: int, keys: int) -> int:
    """The most queries at a time, a divisor of `queries`, whose logits fit in a block."""
    most = max(BLOCK // keys, 1)
    return max(n for n in range(1, queries + 1) if queries % n == 0 and n <= most)


def cudnn_attention(
    q: Float[Array, "B T N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    mask: Bool[Array, "#B 1 T S"] | None = None,
) -> Float[Array, "B T N K"]:
    """cuDNN's fused attention; float16 or bfloat16 on an NVIDIA GPU only.

    Keys of odd number (77 text tokens) are padded to an even one and masked by length, since the
    kernel has no gradient for odd lengths.
    """
    if mask is not None:
        return einsum_attention(q, k, v, mask)
    batch, keys = k.shape[:2]
    if keys % 2 == 0:
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    k, v = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (k, v))
    lengths = jnp.full((batch,), keys, jnp.int32)
    return jax.nn.dot_product_attention(
        q, k, v, key_value_seq_lengths=lengths, implementation="cudnn"
    )


def splash_attention(
    q: Float[Array, "B T N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    mask: Bool[Array, "#B 1 T S"] | None = None,
) -> Float[Array, "B T N K"]:
    """The TPU's fused attention for `LONG` queries and more, float32 or bfloat16.

    Fewer queries, numbers of tokens that are no multiples of 128 (text), and masks are einsum's.
    """
    queries, keys = q.shape[1], k.shape[1]
    if mask is not None or queries < LONG or queries % 128 or keys % 128:
        return einsum_attention(q, k, v, mask)
    from jaxdiff.models.splash import fused_attention  # Pallas takes long to import

    return fused_attention(q, k, v)


KERNELS: dict[str, Kernel] = {
    "einsum": einsum_attention,
    "blocked": blocked_attention,
    "cudnn": cudnn_attention,
    "splash": splash_attention,
}


def attention_kernel(name: str, dtype: DTypeLike) -> Kernel:
    """The kernel called `name`; "auto" takes the best that the platform has for `dtype`.

    Raises:
      UserError: `name` is neither "auto" nor in `KERNELS`.
    """
    if name == "auto":
        half = jnp.dtype(dtype) in (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16))
        best = {"cpu": "blocked", "gpu": "cudnn" if half else "einsum", "tpu": "splash"}
        name = best.get(target.platform(), "einsum")
    return KERNELS[choose("attention kernel", name, KERNELS)]


class Attention(nn.Module):
    """Multi-head attention of x over `context`, or over itself.

    x [B T D], context [B S C] -> [B T D].

    Attributes:
      heads: number of heads; divides D.
      qkv_bias: whether the three input projections have a bias.
      kernel: a name of `KERNELS`, or "auto".
      dtype: compute type; parameters stay float32.
    """

    heads: int
    qkv_bias: bool = False
    kernel: str = "auto"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array | None = None) -> jax.Array:
        context = x if context is None else context
        width = x.shape[-1]

        def project(name: str, source: jax.Array) -> jax.Array:
            dense = Dense(width, use_bias=self.qkv_bias, dtype=self.dtype, name=name)
            return dense(source).reshape(*source.shape[:-1], self.heads, width // self.heads)

        q, k, v = project("to_q", x), project("to_k", context), project("to_v", context)
        out = attention_kernel(self.kernel, self.dtype)(q, k, v).reshape(x.shape)
        return Dense(width, dtype=self.dtype, name="to_out_0")(out)
