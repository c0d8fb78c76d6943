"""The UNet: what remat, dropout and the compute type may change, and the sizes of known models."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.models import UNet, UNetConfig
from jaxdiff.rng import image_keys

CONFIG = UNetConfig(
    sample_size=8,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    block_out_channels=(16, 32),
    layers_per_block=1,
    cross_attention_dim=12,
    attention_head_dim=2,
    norm_num_groups=8,
    dropout=0.2,
)
BATCH = 3


@pytest.fixture(scope="module")
def inputs():
    """x, timestep, context."""
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], (BATCH, 8, 8, 4))
    context = jax.random.normal(keys[1], (BATCH, 5, 12))
    return x, jnp.array([3.0, 500.0, 900.0]), context


@pytest.fixture(scope="module")
def params(inputs):
    """Parameters off their starting values, at which the output is zero."""
    start = jax.jit(UNet(CONFIG).init)(jax.random.key(0), *inputs)["params"]
    leaves, tree = jax.tree.flatten(start)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [a + 0.05 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, moved)


def _output_and_gradients(config, params, inputs, keys):
    def loss(params):
        out = UNet(config).apply({"params": params}, *inputs, dropout_keys=keys)
        return jnp.mean(out**2), out

    (_, out), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return out, gradients


@pytest.mark.parametrize(
    ("remat", "keys"),
    [pytest.param("blocks", None, marks=pytest.mark.slow), ("products", image_keys(range(BATCH)))],
    ids=["blocks", "products and dropout"],
)
def test_remat_changes_nothing_but_memory(params, inputs, remat, keys):
    stored = _output_and_gradients(CONFIG, params, inputs, keys)
    again = dataclasses.replace(CONFIG, remat=remat)
    recomputed = _output_and_gradients(again, params, inputs, keys)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), stored, recomputed)


def test_dropout_follows_the_example(params, inputs):
    apply = jax.jit(
        lambda *args, keys: UNet(CONFIG).apply({"params": params}, *args, dropout_keys=keys)
    )
    keys = image_keys(range(BATCH))
    whole = apply(*inputs, keys=keys)
    order = np.array([2, 0, 1])
    moved = apply(*(value[order] for value in inputs), keys=keys[order])
    np.testing.assert_allclose(moved, whole[order], atol=2e-6)
    plain = apply(*inputs, keys=None)
    assert np.abs(whole - plain).max() > 1e-2
    other = apply(*inputs, keys=image_keys(range(7, 7 + BATCH)))
    assert np.abs(whole - other).max() > 1e-2


def test_bfloat16_is_near_float32_and_keeps_its_parameters(params, inputs):
    """Relative error of a few of bfloat16's steps of 2^-8, and an output in float32."""
    half = UNet(CONFIG, jnp.bfloat16)
    exact, out = (jax.jit(n.apply)({"params": params}, *inputs) for n in (UNet(CONFIG), half))
    assert out.dtype == jnp.float32
    assert 0 < jnp.linalg.norm(out - exact) / jnp.linalg.norm(exact) < 0.03
    started = jax.eval_shape(half.init, jax.random.key(0), *inputs)["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(started)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize(
    ("options", "given", "message"),
    [
        ({}, {"class_labels": jnp.array([1, 2, 3])}, "takes no class_labels"),
        ({}, {"guidance_cond": jnp.ones(3)}, "takes no guidance_cond"),
        ({"num_class_embeds": 4}, {}, "needs class_labels"),
        ({"time_cond_proj_dim": 8}, {}, "needs guidance_cond"),
        (
            {
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 8,
                "projection_class_embeddings_input_dim": 60,
            },
            {},
            "needs added",
        ),
    ],
)
def test_no_condition_is_missed_or_ignored(inputs, options, given, message):
    unet = UNet(dataclasses.replace(CONFIG, **options))
    with pytest.raises(ValueError, match=message):
        unet.init(jax.random.key(0), *inputs, **given)
