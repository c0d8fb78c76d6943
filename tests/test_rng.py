"""Keys have names, and noise belongs to the image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.rng import fold_each, image_keys, named_keys, normal_each


def _bits(key):
    return np.asarray(jax.random.key_data(key))


def test_a_name_gives_its_key_whatever_stands_beside_it(key):
    first, second = named_keys(key, "eps", "t"), named_keys(key, "drop", "t")
    np.testing.assert_array_equal(_bits(first["t"]), _bits(second["t"]))
    keys = [_bits(k).tobytes() for k in [key, *first.values(), second["drop"]]]
    assert len(set(keys)) == 4


def test_names_differ(key):
    with pytest.raises(ValueError, match="must differ"):
        named_keys(key, "t", "t")


def test_image_keys_are_those_of_the_seeds():
    seeds = [0, 7, 2**32 - 1]
    keys = image_keys(seeds)
    for i, seed in enumerate(seeds):
        np.testing.assert_array_equal(_bits(keys[i]), _bits(jax.random.key(np.uint32(seed))))


def test_folding_is_per_image():
    keys = image_keys([3, 4])
    folded = fold_each(keys, 5)
    for i in range(2):
        np.testing.assert_array_equal(_bits(folded[i]), _bits(jax.random.fold_in(keys[i], 5)))


def test_noise_belongs_to_the_image():
    keys = image_keys(range(5))
    noise = normal_each(keys, (4, 3))
    order = np.array([4, 1])
    assert noise.dtype == jnp.float32
    np.testing.assert_array_equal(normal_each(keys[order], (4, 3)), noise[order])
    many = np.asarray(normal_each(image_keys(range(100)), (100,)))
    assert abs(many.mean()) < 0.04 and abs(many.std() - 1) < 0.03  # 4 standard errors
