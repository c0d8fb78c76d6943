"""ControlNets: how they start, what weights do, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.models import (
    ControlNet,
    ControlResiduals,
    UNet,
    UNetConfig,
    add_residuals,
    controlnet_config,
    copy_trunk,
    example_inputs,
    parameter_shapes,
    scale_residuals,
)

UNET = UNetConfig(
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    block_out_channels=(8, 16),
    layers_per_block=1,
    cross_attention_dim=12,
    attention_head_dim=2,
    norm_num_groups=4,
)
CONFIG = controlnet_config(UNET, conditioning_embedding_out_channels=(4, 8))


@pytest.fixture(scope="module")
def fresh():
    """A ControlNet's first parameters; the cheap generator compiles faster."""
    key = jax.random.key(0, impl="rbg")
    return jax.jit(ControlNet(CONFIG).init)(key, **example_inputs(CONFIG))["params"]


def _residuals(fill):
    draws = [jnp.asarray(fill(size=(2, 3, 3, 4))) for _ in range(3)]
    return ControlResiduals(tuple(draws[:2]), draws[2])


def test_a_fresh_controlnet_changes_nothing(fresh):
    """Its output convolutions are zero, and what it shares with the UNet is the UNet's."""
    unet = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.1, "float32"), parameter_shapes(UNET))
    control = copy_trunk(fresh, unet)
    assert control.keys() == fresh.keys()
    for name in ("conv_in", "time_embedding", "down_blocks_0", "down_blocks_1", "mid_block"):
        jax.tree.map(np.testing.assert_array_equal, control[name], unet[name])
    assert control["controlnet_cond_embedding"] is fresh["controlnet_cond_embedding"]
    inputs = {**example_inputs(CONFIG), "image": jnp.full((1, 4, 4, 3), 0.5)}
    said = jax.jit(ControlNet(CONFIG).apply)({"params": control}, **inputs)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(said))


def test_residuals_must_be_of_this_unet():
    start, key = UNet(UNET).init, jax.random.key(0)
    few = ControlResiduals((jnp.zeros((1, 1, 1, 8)),), jnp.zeros((1, 1, 1, 16)))
    with pytest.raises(ValueError, match="4 skips; the ControlNet has 1"):
        jax.eval_shape(lambda: start(key, **example_inputs(UNET), residuals=few))


def test_the_picture_must_fit_the_latents():
    inputs = {**example_inputs(CONFIG), "image": jnp.zeros((1, 4, 6, 3))}
    with pytest.raises(ValueError, match="2 times as large"):
        ControlNet(CONFIG).init(jax.random.key(0), **inputs)


def test_a_weight_for_each_image():
    before = _residuals(np.random.default_rng(0).normal)
    after = scale_residuals(before, jnp.array([0.0, 2.0]))
    for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(y[0], 0 * x[0])
        np.testing.assert_allclose(y[1], 2 * x[1], rtol=1e-6)


def test_weights_keep_the_compute_type_and_add_up():
    whole = _residuals(np.random.default_rng(0).normal)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), whole)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(scale_residuals(half, 0.7))} == {"bfloat16"}
    both = add_residuals([scale_residuals(whole, 0.25), scale_residuals(whole, 0.75)])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), both, whole)
