"""Scaled dot-product attention and the one seam where a platform's kernel plugs in.

Axis legend: B batch, T query tokens, S key tokens, N heads, K head width, D model width.
"""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jaxdiff.errors import choose

Kernel = Callable[..., jax.Array]


def einsum_attention(
    q: Float[Array, "B T N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    mask: Bool[Array, "#B 1 T S"] | None = None,
) -> Float[Array, "B T N K"]:
    """Attention as two einsums: softmax(q k^T / sqrt(K)) v (Vaswani et al. 2017, eq. 1).

    The softmax runs in float32 whatever q, k and v are. On CPUs this is the fastest form at up to
    some hundred keys.
    """
    scale = 1.0 / math.sqrt(q.shape[-1])
    logits = jnp.einsum("btnk,bsnk->bnts", q * scale, k, preferred_element_type=jnp.float32)
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("bnts,bsnk->btnk", weights, v)


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


KERNELS: dict[str, Kernel] = {"einsum": einsum_attention, "cudnn": cudnn_attention}


def attention_kernel(name: str, dtype: DTypeLike) -> Kernel:
    """The kernel called `name`; "auto" takes the best that the default backend has for `dtype`.

    Raises:
      UserError: `name` is neither "auto" nor in `KERNELS`.
    """
    if name == "auto":
        half = jnp.dtype(dtype) in (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16))
        name = "cudnn" if half and jax.default_backend() == "gpu" else "einsum"
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
            dense = nn.Dense(width, use_bias=self.qkv_bias, dtype=self.dtype, name=name)
            return dense(source).reshape(*source.shape[:-1], self.heads, width // self.heads)

        q, k, v = project("to_q", x), project("to_k", context), project("to_v", context)
        out = attention_kernel(self.kernel, self.dtype)(q, k, v).reshape(x.shape)
        return nn.Dense(width, dtype=self.dtype, name="to_out_0")(out)
