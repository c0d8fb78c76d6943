"""Layers that no other library has to compare with."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.models.layers import ExampleDropout
from jaxdiff.rng import image_keys

RATE = 0.3


class _Two(nn.Module):
    """Two dropouts side by side."""

    @nn.compact
    def __call__(self, x, keys):
        return ExampleDropout(RATE, name="a")(x, keys), ExampleDropout(RATE, name="b")(x, keys)


def _drop(x, keys):
    return _Two().apply({}, x, keys)


def test_dropout_has_its_rate_and_keeps_the_mean():
    dropped, _ = _drop(jnp.ones((4, 50, 50, 8)), image_keys(range(4)))
    share = np.mean(np.asarray(dropped) == 0, axis=(1, 2, 3))
    sigma = np.sqrt(RATE * (1 - RATE) / (50 * 50 * 8))
    np.testing.assert_allclose(share, RATE, atol=4 * sigma)
    np.testing.assert_allclose(dropped[dropped != 0], 1 / (1 - RATE), rtol=1e-6)


def test_dropout_follows_the_example():
    x, keys = jax.random.normal(jax.random.key(1), (6, 4, 4, 8)), image_keys(range(6))
    whole, _ = _drop(x, keys)
    order = np.array([4, 0, 5])
    np.testing.assert_array_equal(_drop(x[order], keys[order])[0], whole[order])
    assert (np.asarray(whole[0] == 0) != np.asarray(whole[1] == 0)).any()


def test_dropout_differs_between_layers():
    a, b = _drop(jnp.ones((1, 8, 8, 8)), image_keys([0]))
    both = np.mean((np.asarray(a) == 0) & (np.asarray(b) == 0))
    assert both == pytest.approx(RATE**2, abs=0.06)  # as independent draws


def test_without_keys_or_rate_nothing_is_dropped():
    x = jnp.ones((2, 4, 4, 1))
    assert _drop(x, None)[0] is x
    assert ExampleDropout(0.0).apply({}, x, image_keys(range(2))) is x


def test_dropout_keeps_the_compute_type():
    assert _drop(jnp.ones((1, 2, 2, 1), jnp.bfloat16), image_keys([0]))[0].dtype == jnp.bfloat16
