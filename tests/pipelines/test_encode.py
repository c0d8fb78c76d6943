"""Token ids to a UNet's condition: parity with diffusers, weights, chunks, clip skip."""

import functools
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
import text_towers
from text_towers import LENGTH, encode
from torch_parity import assert_close

from jaxdiff.errors import UserError
from jaxdiff.pipelines.encode import emphasise, size_conditioning

PROMPTS = ["a red heart", "cat face! noto style, and a mat that is cut somewhere"]
NEGATIVE = ["", "blue"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """family -> (our model, the towers and tokenizers of transformers by diffusers' names)."""
    make = functools.cache(text_towers.reference)
    root = tmp_path_factory.mktemp("towers")
    return lambda family: make(family, root / family)


@pytest.mark.parity
@pytest.mark.parametrize("clip_skip", [0, 1, 2])
@pytest.mark.parametrize("family", ["sd", "sd2"])
def test_stable_diffusion(reference, family, clip_skip):
    model, theirs = reference(family)
    pipe = text_towers.stable_diffusion(theirs)
    positive, negative = pipe.encode_prompt(
        PROMPTS, "cpu", 1, True, NEGATIVE, clip_skip=clip_skip or None
    )
    # diffusers skips layers in the prompt alone
    for prompts, skipped, context in ((PROMPTS, clip_skip, positive), (NEGATIVE, 0, negative)):
        ours = encode(model, prompts, skipped)
        assert ours.pooled is None
        assert_close(ours.context, context, f"{family}, clip skip {skipped}")


@pytest.mark.parity
@pytest.mark.parametrize("clip_skip", [0, 1, 2])
@pytest.mark.parametrize("family", ["sdxl", "sdxl-refiner"])
def test_stable_diffusion_xl(reference, family, clip_skip):
    model, theirs = reference(family)
    assert model.family == family
    pipe = text_towers.stable_diffusion_xl(theirs)
    context, negative, pooled, negative_pooled = pipe.encode_prompt(
        PROMPTS, device="cpu", negative_prompt=NEGATIVE, clip_skip=clip_skip or None
    )
    for prompts, skipped, states, state in (
        (PROMPTS, clip_skip, context, pooled),
        (NEGATIVE, 0, negative, negative_pooled),
    ):
        ours = encode(model, prompts, skipped)
        assert_close(ours.context, states, f"{family}, clip skip {skipped}")
        assert_close(ours.pooled, state, f"{family}, pooled")


@pytest.mark.parity
@pytest.mark.parametrize("refiner", [False, True])
def test_time_ids(refiner):
    diffusers = pytest.importorskip("diffusers")
    inputs = (5 if refiner else 6) * 8 + 20
    unet = SimpleNamespace(
        config=SimpleNamespace(addition_time_embed_dim=8),
        add_embedding=SimpleNamespace(linear_1=SimpleNamespace(in_features=inputs)),
    )
    pipe = SimpleNamespace(unet=unet, config=SimpleNamespace(requires_aesthetics_score=refiner))
    original, crop, target = (768, 1024), (3, 5), (512, 640)
    if refiner:
        cls = diffusers.StableDiffusionXLImg2ImgPipeline
        theirs, negative = cls._get_add_time_ids(
            pipe, original, crop, target, 6.0, 2.5, original, crop, target, None, 20
        )
        ours = size_conditioning(original, crop, aesthetic_score=np.array([6.0, 2.5]))
        theirs = np.concatenate([theirs, negative])
    else:
        cls = diffusers.StableDiffusionXLPipeline
        theirs = cls._get_add_time_ids(pipe, original, crop, target, None, 20)
        ours = size_conditioning(original, crop, target)[None]
    np.testing.assert_array_equal(ours, theirs)


def test_sizes_of_a_batch():
    sizes = np.array([[64, 96], [96, 64], [80, 80]])
    ids = size_conditioning((64, 64), (0, 0), sizes)
    assert ids.shape == (3, 6) and ids.dtype == jnp.float32
    np.testing.assert_array_equal(ids[:, 4:], sizes)
    with pytest.raises(UserError, match="aesthetic_score"):
        size_conditioning((64, 64), (0, 0))


@pytest.fixture(scope="module")
def model():
    return text_towers.random_model("sdxl")


def test_weight_one_is_no_weight(model):
    plain = encode(model, ["a red heart"])
    for prompt in ("a (red:1) heart", "a (red heart:1.0)"):
        np.testing.assert_array_equal(encode(model, [prompt]).context, plain.context)
    beside = encode(model, ["a red heart", "a (cat:1.7) face"])
    np.testing.assert_allclose(beside.context[0], plain.context[0], atol=1e-6)


def test_weights_multiply_and_keep_the_mean(model):
    """Only the weighted token's direction in the chunk changes; the pooled state does not."""
    plain, weighted = (encode(model, [prompt]) for prompt in ("a red cat", "a (red:1.5) cat"))
    np.testing.assert_array_equal(plain.pooled, weighted.pooled)
    start = 0
    for tower in model.text:
        stop = start + tower.config.hidden_size
        before, after = (x.context[0, :, start:stop] for x in (plain, weighted))
        np.testing.assert_allclose(before.mean(), after.mean(), rtol=1e-4)
        ratio = np.asarray(after / before)
        count = len(tower.tokenizer.pieces(["red"])[0].ids)
        at = slice(2, 2 + count)
        rest = np.delete(ratio, np.arange(LENGTH)[at], axis=0)
        np.testing.assert_allclose(ratio[at] / 1.5, rest.mean(), rtol=1e-3)
        np.testing.assert_allclose(rest, rest.mean(), rtol=1e-3)
        start = stop


def test_emphasis_with_a_mean_of_zero():
    states = jnp.asarray([[[[1.0, 1.0], [-1.0, -1.0], [0.5, 0.5]]]])
    weights = jnp.asarray([[[1.0, 1.5, 1.0]]])  # the weighted mean is zero
    np.testing.assert_array_equal(emphasise(states, weights), states * weights[..., None])


def test_chunks_are_encoded_apart_and_joined(model):
    both = encode(model, ["a red heart BREAK (cat:1.3) face"], max_chunks=2)
    apart = encode(model, ["a red heart", "(cat:1.3) face"])
    joined = apart.context.reshape(1, 2 * LENGTH, -1)
    np.testing.assert_allclose(both.context, joined, atol=1e-5)
    np.testing.assert_allclose(both.pooled, apart.pooled[:1], atol=1e-5)


def test_clip_skip_out_of_range(model):
    for clip_skip in (-1, 2):
        with pytest.raises(
            UserError, match=f"clip skip is {clip_skip}; text_encoder has .* 0 to 1"
        ):
            encode(model, ["a"], clip_skip)
