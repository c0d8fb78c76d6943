"""Attention kernels against jax's own attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.errors import UserError
from jaxdiff.models import attention
from jaxdiff.models.attention import (
    attention_kernel,
    blocked_attention,
    cudnn_attention,
    einsum_attention,
    splash_attention,
)


@pytest.fixture(scope="module")
def qkv():
    """Queries of 7 tokens, keys and values of 5, 3 heads of width 8."""
    keys = jax.random.split(jax.random.key(0), 3)
    return [jax.random.normal(key, (2, t, 3, 8)) for key, t in zip(keys, (7, 5, 5), strict=True)]


@pytest.mark.parametrize("masked", [False, True])
def test_einsum_is_dot_product_attention(qkv, masked):
    mask = jnp.tril(jnp.ones((1, 1, 7, 5), bool)) if masked else None
    ours = einsum_attention(*qkv, mask)
    theirs = jax.nn.dot_product_attention(*qkv, mask=mask, implementation="xla")
    np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_the_softmax_is_float32(qkv):
    """Logits of about 100, one apart: bfloat16's steps there are 0.5."""
    q, k, v = (value.astype(jnp.bfloat16) for value in qkv)
    half = einsum_attention(10 * q, 10 * k, v)
    whole = einsum_attention(*((10 * q).astype(float), (10 * k).astype(float), v.astype(float)))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(float), whole, atol=0.1)
    assert np.abs(half.astype(float) - whole).mean() < 0.01


@pytest.mark.parametrize("kernel", [blocked_attention, cudnn_attention, splash_attention])
def test_masks_are_left_to_einsum(kernel, qkv):
    mask = jnp.tril(jnp.ones((1, 1, 7, 5), bool))
    np.testing.assert_array_equal(kernel(*qkv, mask), einsum_attention(*qkv, mask))


def _with_gradients(kernel, q, k, v):
    """The result for large logits, and the gradients of a sum of it weighted by position."""

    def loss(q, k, v):
        out = kernel(8 * q, k, v)
        return jnp.sum(out * jnp.sin(jnp.arange(out.size)).reshape(out.shape)), out

    (_, out), gradients = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(q, k, v)
    return out, *gradients


# Logits at a time: all heads, three heads of six at once, one, some queries (keys in pieces).
@pytest.mark.parametrize("block", [10_000, 72 * 3, 72, 24])
def test_blocked_is_einsum(block, monkeypatch):
    monkeypatch.setattr(attention, "BLOCK", block)
    monkeypatch.setattr(attention, "PIECE", 4)
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = ((2, 9, 3, 8), (2, 8, 3, 8), (2, 8, 3, 8))
    qkv = [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]
    ours = _with_gradients(blocked_attention, *qkv)
    for a, b in zip(ours, _with_gradients(einsum_attention, *qkv), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_blocked_computes_the_softmax_in_float32(qkv):
    q, k, v = (value.astype(jnp.bfloat16) for value in qkv)
    half = blocked_attention(10 * q, 10 * k, v)
    assert half.dtype == jnp.bfloat16
    whole = blocked_attention(*((10 * q).astype(float), (10 * k).astype(float), v.astype(float)))
    assert np.abs(half.astype(float) - whole).mean() < 0.01


def test_kernels_by_name():
    best = {"cpu": blocked_attention}.get(jax.default_backend(), einsum_attention)
    assert attention_kernel("auto", jnp.float32) is best
    assert attention_kernel("cudnn", jnp.bfloat16) is cudnn_attention
    with pytest.raises(UserError, match="unknown attention kernel 'flash'"):
        attention_kernel("flash", jnp.float32)
