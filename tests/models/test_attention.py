"""Attention kernels against jax's own attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.errors import UserError
from jaxdiff.models.attention import attention_kernel, cudnn_attention, einsum_attention


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


def test_cudnn_leaves_masks_to_einsum(qkv):
    mask = jnp.tril(jnp.ones((1, 1, 7, 5), bool))
    np.testing.assert_array_equal(cudnn_attention(*qkv, mask), einsum_attention(*qkv, mask))


def test_kernels_by_name():
    assert attention_kernel("auto", jnp.float32) is einsum_attention
    assert attention_kernel("cudnn", jnp.bfloat16) is cudnn_attention
    with pytest.raises(UserError, match="unknown attention kernel 'flash'"):
        attention_kernel("flash", jnp.float32)
