"""A LoRA merged and a LoRA intercepted are one network; at weight 0 it is the base."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxdiff.errors import UserError
from jaxdiff.models import TextEncoder, UNet, UNetConfig, parameter_shapes
from jaxdiff.models.layers import ResnetBlock, SpatialTransformer
from jaxdiff.models.lora import (
    TARGETS,
    LoraLayer,
    init_lora,
    intercept,
    kernel_shape,
    merge,
    merge_all,
)

RANK = 3


def _random_lora(params, targets, seed, alpha=2.0):
    """A LoRA that does something: every factor random."""
    layers = init_lora(jax.random.key(seed), params, targets, RANK, alpha)
    rng = np.random.default_rng(seed)
    return {
        path: layer._replace(up=jnp.asarray(rng.normal(size=layer.up.shape), jnp.float32))
        for path, layer in layers.items()
    }


def _with_mid(layers, seed):
    """The convolutions' changes with their spatial part in the middle."""
    rng = np.random.default_rng(seed)

    def split(layer):
        if layer.down.ndim == 2:
            return layer
        down = rng.normal(size=(layer.down.shape[2], RANK)).astype(np.float32)
        mid = 0.3 * rng.normal(size=(*layer.down.shape[:2], RANK, RANK)).astype(np.float32)
        return layer._replace(down=down, mid=mid)

    return {path: split(layer) for path, layer in layers.items()}


@pytest.fixture(scope="module")
def unet(tiny_model):
    """(apply, params, loras): a jitted UNet whose LoRAs are arguments, and two LoRAs."""
    network, params = UNet(tiny_model.unet_config), tiny_model.unet_params
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 8, 8, 4)), jnp.float32)
    context = jnp.asarray(rng.normal(size=(2, 5, tiny_model.unet_config.cross_attention_dim)))

    @jax.jit
    def apply(params, loras):
        with intercept(loras):
            return network.apply({"params": params}, x, jnp.array([3.0, 700.0]), context)

    first = _random_lora(params, TARGETS["all"], 1)
    second = _with_mid(_random_lora(params, TARGETS["convolutions"], 2), 2)
    return apply, params, (first, second)


@pytest.mark.parametrize("weights", [(0.7, -0.4), (1.0, 0.0)])
def test_merged_is_intercepted(unet, weights):
    apply, params, loras = unet
    given = [(lora, jnp.float32(w)) for lora, w in zip(loras, weights, strict=True)]
    base = apply(params, [])
    merged, intercepted = apply(merge_all(params, given), []), apply(params, given)
    assert float(jnp.abs(merged - base).max()) > 0.01
    difference = float(jnp.abs(merged - intercepted).max())
    print(f"merged and intercepted differ by {difference:.1e}")
    assert difference <= 1e-5


def test_another_weight_compiles_nothing(unet):
    apply, params, loras = unet
    apply(params, [(lora, jnp.float32(0.5)) for lora in loras])
    compiled = apply._cache_size()
    half, whole = (apply(params, [(lora, jnp.float32(w)) for lora in loras]) for w in (0.2, 0.9))
    assert apply._cache_size() == compiled
    assert not np.array_equal(half, whole)


def test_weight_zero_is_the_base_exactly(unet):
    apply, params, loras = unet
    zero = [(lora, jnp.float32(0.0)) for lora in loras]
    jax.tree.map(np.testing.assert_array_equal, merge_all(params, zero), params)
    half = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), params)
    merged = merge_all(half, zero)
    jax.tree.map(np.testing.assert_array_equal, merged, half)
    assert {leaf.dtype for leaf in jax.tree.leaves(merged)} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_allclose(apply(params, zero), apply(params, []), atol=1e-5)


def test_merging_leaves_the_base_alone(unet):
    _, params, (first, _) = unet
    before = jax.tree.map(np.copy, params)
    only = {path: layer for path, layer in first.items() if "attentions" in path}
    merged = merge(params, only, 1.0)
    jax.tree.map(np.testing.assert_array_equal, params, before)
    assert merged["conv_in"]["kernel"] is params["conv_in"]["kernel"]
    assert jax.tree.structure(merged) == jax.tree.structure(params)


def test_several_add_up(unet):
    _, params, (first, second) = unet
    together = merge_all(params, [(first, 0.5), (second, 0.25), (first, 0.5)])
    in_turn = merge(merge(params, second, 0.25), first, 1.0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), together, in_turn)


def test_text_encoder(tiny_model):
    tower = tiny_model.text[0]
    network, ids = TextEncoder(tower.config), jnp.array([[1, 5, 7, 9]])
    layers = _random_lora(tower.params, TARGETS["text_attention"], 3)
    assert len(layers) == 4 * tower.config.num_hidden_layers
    merged = network.apply({"params": merge(tower.params, layers, 0.7)}, ids)
    with intercept([(layers, 0.7)]):
        intercepted = network.apply({"params": tower.params}, ids)
    base = network.apply({"params": tower.params}, ids)
    assert float(jnp.abs(merged.last_hidden - base.last_hidden).max()) > 0.01
    np.testing.assert_allclose(merged.last_hidden, intercepted.last_hidden, atol=1e-5)


class _Blocks(nn.Module):
    """A residual block and a transformer, both rematerialised as a large UNet's are."""

    @nn.compact
    def __call__(self, x, context):
        x = nn.remat(ResnetBlock)(8, groups=4, name="resnets_0")(x)
        return nn.remat(SpatialTransformer)(2, groups=4, name="attentions_0")(x, context)


def test_a_new_lora_is_the_base_and_learns(key):
    """Under remat and grad: up has a gradient at once, down when up is not zero, alpha never."""
    rng = np.random.default_rng(0)
    x, context = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((1, 4, 4, 8), (1, 3, 6)))
    params = _Blocks().init(key, x, context)["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)  # nothing starts at zero
    layers = init_lora(key, params, r"to_q$|conv1$", RANK, 1.0)
    assert len(layers) == 3

    def loss(layers):
        with intercept([(layers, 1.0)]):
            out = _Blocks().apply({"params": params}, x, context)
        return jnp.square(out - 1.0).mean()

    slope = jax.jit(jax.value_and_grad(loss))
    before, gradient = slope(layers)
    np.testing.assert_allclose(before, jax.jit(loss)({}), rtol=1e-5)
    for change in gradient.values():
        assert float(jnp.abs(change.up).max()) > 0.0
        assert float(jnp.abs(change.down).max()) == 0.0
    stepped = jax.tree.map(lambda leaf, g: leaf - 0.1 * g, layers, gradient)
    after, gradient = slope(stepped)
    assert after < before
    for change in gradient.values():
        assert float(jnp.abs(change.down).max()) > 0.0
        assert float(change.alpha) == 0.0


def test_draws_depend_on_the_layer_alone(tiny_model, key):
    params = tiny_model.unet_params
    few, all_layers = (init_lora(key, params, t, RANK, 1.0) for t in (r"to_q$", r""))
    assert few.keys() < all_layers.keys()
    for path, layer in few.items():
        np.testing.assert_array_equal(layer.down, all_layers[path].down)
    downs = [np.asarray(layer.down).ravel()[:12] for layer in few.values()]
    assert len({down.tobytes() for down in downs}) == len(downs)
    for path, layer in all_layers.items():
        kernel = params
        for name in [*path.split("/"), "kernel"]:
            kernel = kernel[name]
        assert kernel_shape(layer) == kernel.shape


@pytest.mark.parametrize("name", TARGETS)
def test_named_targets_match_something(tiny_model, key, name):
    tree = tiny_model.text[0].params if name == "text_attention" else tiny_model.unet_params
    assert init_lora(key, tree, TARGETS[name], RANK, 1.0)


def test_transformer_layers_are_those_that_others_count():
    """kohya's scripts say "U-Net: 192 modules" of Stable Diffusion 1; nothing is allocated."""
    kernels = flatten_dict(parameter_shapes(UNetConfig()), sep="/")
    paths = [name.removesuffix("/kernel") for name in kernels if name.endswith("/kernel")]
    assert sum(bool(re.search(TARGETS["transformer"], path)) for path in paths) == 192


def test_mistakes_are_named(tiny_model, key):
    params = tiny_model.unet_params
    with pytest.raises(UserError, match="rank must be at least 1"):
        init_lora(key, params, "to_q", 0, 1.0)
    with pytest.raises(UserError, match="no layer matches LoRA targets 'to_w'"):
        init_lora(key, params, "to_w", RANK, 1.0)
    wide = LoraLayer(np.zeros((5, RANK)), np.zeros((RANK, 6)), 1.0)
    with pytest.raises(UserError, match=r"conv_in is for a kernel of \(5, 6\), this network's is"):
        merge(params, {"conv_in": wide}, 1.0)
    with pytest.raises(UserError, match="changes nowhere, which this network does not have"):
        merge(params, {"nowhere": wide}, 1.0)
