"""Layers in the forms that CPUs run fast are Flax's layers: results, parameters and gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.models.linear import Conv, Dense, prefers_winograd
from jaxdiff.models.norms import GroupNorm, LayerNorm
from jaxdiff.models.winograd import winograd_convolution

PAIRS = {
    "dense": (Dense(5), nn.Dense(5)),
    "conv": (Conv(16), nn.Conv(16, (3, 3), padding=1)),
    "wide conv": (Conv(64), nn.Conv(64, (3, 3), padding=1)),
    "conv stride 2": (Conv(5, strides=2), nn.Conv(5, (3, 3), strides=2, padding=1)),
    "group norm": (GroupNorm(4, 1e-5), nn.GroupNorm(4, epsilon=1e-5)),
    "layer norm": (LayerNorm(1e-5), nn.LayerNorm(1e-5)),
}


def _with_gradients(apply, *args):
    """The result, and the gradients of a sum of it weighted by position."""

    def loss(*args):
        out = apply(*args)
        return jnp.sum(out * jnp.sin(jnp.arange(out.size)).reshape(out.shape)), out

    (_, out), gradients = jax.value_and_grad(loss, range(len(args)), has_aux=True)(*args)
    return out, gradients


@pytest.mark.parametrize("name", PAIRS)
def test_layers_are_those_of_flax(name):
    ours, theirs = PAIRS[name]
    channels = 64 if name == "wide conv" else 16  # by minimal filtering
    x = 2 + jax.random.normal(jax.random.key(1), (2, 6, 7, channels))
    params = theirs.init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, ours.init(jax.random.key(0), x), params)
    params = jax.tree.map(lambda leaf: leaf + 0.3, params)
    results = [jax.jit(lambda p, x, m=m: _with_gradients(m.apply, p, x)) for m in (ours, theirs)]
    a, b = (result(params, x) for result in results)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-4), a, b)


def _plain(x, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)


@pytest.mark.parametrize("size", [(4, 4), (8, 12), (5, 7), (1, 9)])
def test_winograd_is_the_convolution(size):
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], (2, *size, 32))
    kernel = jax.random.normal(keys[1], (3, 3, 32, 24)) / np.sqrt(9 * 32)
    ours, theirs = (
        jax.jit(lambda x, kernel, f=f: _with_gradients(f, x, kernel))(x, kernel)
        for f in (winograd_convolution, _plain)
    )
    assert float(jnp.abs(ours[0] - theirs[0]).max()) < 2e-5  # of values up to 4
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, theirs)


def test_the_batch_does_not_choose_the_algorithm():
    kernel = jnp.zeros((3, 3, 64, 64))
    for size in (2, 4, 8, 64):
        chosen = {prefers_winograd(jnp.zeros((b, size, size, 64)), kernel) for b in (1, 2, 64)}
        assert len(chosen) == 1


def test_only_float32_goes_by_winograd():
    x, kernel = jnp.zeros((2, 8, 8, 64)), jnp.zeros((3, 3, 64, 64))
    assert prefers_winograd(x, kernel) == (jax.default_backend() == "cpu")
    assert not prefers_winograd(x.astype(jnp.bfloat16), kernel)


@pytest.mark.parametrize("size", [8, 48])  # not by minimal filtering, and by it
def test_a_convolution_is_the_same_with_and_without_its_gradient(size):
    conv, x = Conv(64), jax.random.normal(jax.random.key(1), (1, size, size, 64))
    params = conv.init(jax.random.key(0), x)
    alone = jax.jit(conv.apply)(params, x)
    both, along = jax.jit(lambda p, x: jax.jvp(conv.apply, (p, x), (p, x)))(params, x)
    np.testing.assert_allclose(alone, both, atol=2e-5)
    np.testing.assert_allclose(along, 2 * alone, atol=4e-5)  # linear in both, the bias is zero
