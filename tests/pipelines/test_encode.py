"""Token ids to a UNet's condition: parity with diffusers, weights, chunks, clip skip."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.convert import Model, NoiseConfig, TextTower
from jaxdiff.convert.configs import TEXT_ENCODER, read_config
from jaxdiff.convert.merge import from_torch, parameter_shapes
from jaxdiff.data.tokenizer import Tokenizer
from jaxdiff.errors import UserError
from jaxdiff.models import AutoencoderConfig, TextEncoderConfig, UNetConfig
from jaxdiff.pipelines.encode import emphasise, encode_text, size_conditioning
from jaxdiff.pipelines.prompts import tokenize_prompts

LENGTH = 12
PROMPTS = ["a red heart", "cat face! noto style, and a mat that is cut somewhere"]
NEGATIVE = ["", "blue"]
LAYERS = 4
# Towers of each family: (class, activation, width, the padding token).
FIRST = ("CLIPTextModel", "quick_gelu", 16, "<|endoftext|>")
SECOND = ("CLIPTextModelWithProjection", "gelu", 24, "!")
FAMILIES = {
    "sd": {"text_encoder": FIRST},
    "sd2": {"text_encoder": ("CLIPTextModel", "gelu", 24, "!")},
    "sdxl": {"text_encoder": FIRST, "text_encoder_2": SECOND},
    "sdxl-refiner": {"text_encoder_2": SECOND},
}


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["a red heart", "cat face, noto style"] * 3, 540, LENGTH)


def assemble(towers):
    """A model of these towers, whose UNet and autoencoder are shapes alone."""
    large = any(tower.name == "text_encoder_2" for tower in towers)
    options = dict(
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 20,
    )
    width = sum(tower.config.hidden_size for tower in towers)
    unet = UNetConfig(cross_attention_dim=width, **options if large else {})
    return Model(unet, {}, AutoencoderConfig(), {}, tuple(towers), NoiseConfig())


def encode(model, prompts, clip_skip=0, max_chunks=1, replace=None):
    """The condition of prompts; `replace` changes the weights."""
    tokens = []
    for tower in model.text:
        each, _ = tokenize_prompts(tower.tokenizer, prompts, max_chunks=max_chunks)
        tokens.append(each if replace is None else each._replace(weights=replace(each.weights)))
    params = {tower.name: tower.params for tower in model.text}
    function = functools.partial(encode_text, model, jnp.float32, clip_skip=clip_skip)
    return jax.jit(function)(params, tuple(tokens))


@pytest.fixture(scope="module")
def reference(tokenizer, tmp_path_factory):
    """family -> (our model, the towers and tokenizers of transformers by diffusers' names)."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

    @functools.cache
    def make(family):
        towers, theirs = [], {"text_encoder": None, "tokenizer": None}
        for name, (class_name, act, width, pad) in FAMILIES[family].items():
            root = tmp_path_factory.mktemp(family)
            Tokenizer(tokenizer.vocab, tokenizer.merges, LENGTH, pad).save(root / "tokenizer")
            shape = transformers.CLIPTextConfig(
                vocab_size=tokenizer.vocab_size, hidden_size=width, intermediate_size=32,
                num_hidden_layers=LAYERS, num_attention_heads=2, max_position_embeddings=LENGTH,
                projection_dim=20, hidden_act=act, eos_token_id=tokenizer.eos_id,
            )  # fmt: skip
            torch.manual_seed(0)
            module = getattr(transformers, class_name)(shape).eval()
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.add_(0.2 * torch.randn_like(parameter))
            module.save_pretrained(root)
            config = read_config(root / "config.json", TEXT_ENCODER)
            arrays = {key: value.numpy() for key, value in module.state_dict().items()}
            params = from_torch(arrays, parameter_shapes(config), name)
            towers.append(TextTower(name, config, params, Tokenizer.load(root / "tokenizer")))
            theirs[name] = module
            theirs[name.replace("text_encoder", "tokenizer")] = (
                transformers.CLIPTokenizer.from_pretrained(root / "tokenizer")
            )
        return assemble(towers), theirs

    return make


def assert_close(ours, theirs, name):
    theirs = theirs.detach().numpy()
    difference = float(np.abs(np.asarray(ours) - theirs).max())
    print(
        f"{name}: maximum difference {difference:.1e}, of values up to {np.abs(theirs).max():.2f}"
    )
    assert difference <= 1e-4


@pytest.mark.parity
@pytest.mark.parametrize("clip_skip", [0, 1, 2])
@pytest.mark.parametrize("family", ["sd", "sd2"])
def test_stable_diffusion(reference, family, clip_skip):
    diffusers = pytest.importorskip("diffusers")
    model, theirs = reference(family)
    pipe = diffusers.StableDiffusionPipeline(
        vae=None, unet=None, scheduler=None, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False, **theirs,
    )  # fmt: skip
    inner = theirs["text_encoder"]
    if not hasattr(inner, "text_model"):  # diffusers wants what transformers 5 has merged
        object.__setattr__(inner, "text_model", inner)
    positive, negative = pipe.encode_prompt(
        PROMPTS, "cpu", 1, True, NEGATIVE, clip_skip=clip_skip or None
    )
    for prompts, context in ((PROMPTS, positive), (NEGATIVE, negative)):
        skipped = clip_skip if prompts is PROMPTS else 0  # diffusers skips in the prompt alone
        ours = encode(model, prompts, skipped)
        assert ours.pooled is None
        assert_close(ours.context, context, f"{family}, clip skip {skipped}")


@pytest.mark.parity
@pytest.mark.parametrize("clip_skip", [0, 1, 2])
@pytest.mark.parametrize("family", ["sdxl", "sdxl-refiner"])
def test_stable_diffusion_xl(reference, family, clip_skip):
    diffusers = pytest.importorskip("diffusers")
    model, theirs = reference(family)
    assert model.family == family
    cls = {
        "sdxl": diffusers.StableDiffusionXLPipeline,
        "sdxl-refiner": diffusers.StableDiffusionXLImg2ImgPipeline,
    }[family]
    pipe = cls(vae=None, unet=None, scheduler=None, add_watermarker=False, **theirs)
    context, negative, pooled, negative_pooled = pipe.encode_prompt(
        PROMPTS, device="cpu", do_classifier_free_guidance=True, negative_prompt=NEGATIVE,
        clip_skip=clip_skip or None,
    )  # fmt: skip
    for prompts, states, state in (
        (PROMPTS, context, pooled),
        (NEGATIVE, negative, negative_pooled),
    ):
        skipped = clip_skip if prompts is PROMPTS else 0
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
def model(tokenizer):
    """Two towers of random weights, made here."""
    rng = np.random.default_rng(0)
    towers = []
    for name, (_, act, width, pad) in FAMILIES["sdxl"].items():
        config = TextEncoderConfig(
            vocab_size=tokenizer.vocab_size, hidden_size=width, intermediate_size=32,
            num_hidden_layers=3, num_attention_heads=2, max_position_embeddings=LENGTH,
            hidden_act=act, eos_token_id=tokenizer.eos_id,
            projection_dim=20 if pad == "!" else None,
        )  # fmt: skip
        shapes = parameter_shapes(config)
        params = jax.tree.map(lambda leaf: 0.3 * rng.normal(size=leaf.shape).astype("f"), shapes)
        vocabulary = Tokenizer(tokenizer.vocab, tokenizer.merges, LENGTH, pad)
        towers.append(TextTower(name, config, params, vocabulary))
    return assemble(towers)


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
