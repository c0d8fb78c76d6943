"""LoRAs, embeddings, ControlNets, hooks: on, off, of another kind, and in the recipe."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxdiff.convert.controlnet import check_controlnet
from jaxdiff.convert.embeddings import Embedding, save_embedding
from jaxdiff.convert.lora import save_lora
from jaxdiff.errors import UserError
from jaxdiff.pipelines import TextToImage, opening
from jaxdiff.pipelines.arguments import Arguments
from jaxdiff.pipelines.extras import check_refiner
from jaxdiff.pipelines.hooks import Drawn, Hooks, apply_hooks, load_hook
from jaxdiff.pipelines.pictures import Pictures

FEW = dict(num_steps=4, guidance_scale=4.0, sampler="euler_a")  # as in test_tasks.py


@pytest.fixture(scope="module")
def pipe(tiny_model):
    return TextToImage(tiny_model)


@pytest.fixture
def lora_file(lora, tiny_model, tmp_path):
    save_lora(tmp_path / "style.safetensors", lora, tiny_model, layout="kohya")
    return tmp_path / "style.safetensors"


def _levels_apart(a, b):
    return np.abs(np.asarray(a, int) - np.asarray(b, int)).max()


def test_the_heap_is_kept_by_all_parameters(tiny_model, tiny_model_dir, monkeypatch):
    """A refiner's, too."""
    counted, where = [], str(tiny_model_dir)
    monkeypatch.setattr(opening, "keep_heap", counted.append)
    for refiner in (None, where):
        args = Arguments(("cat",), model=where, refiner=refiner)
        opening.open_pipeline(args, opening.read_files(args), "float32", {})
    assert counted == [tiny_model.num_parameters, 2 * tiny_model.num_parameters]


def test_loras_on_and_off(pipe, lora_file, compilations):
    plain, params = pipe("cat", [1], **FEW), pipe.params
    pipe.set_loras([(lora_file, 0.7)])
    some = pipe("cat", [1], **FEW)
    with compilations() as compiled:
        pipe.set_loras([(lora_file, 0.0)])
        np.testing.assert_array_equal(pipe("cat", [1], **FEW), plain)
        pipe.set_loras([(lora_file, 1.0)])
        whole = pipe("cat", [1], **FEW)
        pipe.set_loras([])
        np.testing.assert_array_equal(pipe("cat", [1], **FEW), plain)
    assert not compiled
    assert _levels_apart(some, plain) > 2 and _levels_apart(some, whole) > 2
    assert jax.tree.all(jax.tree.map(lambda a, b: a is b, pipe.params, params))


def test_loras_add_up_and_may_be_applied_on_the_fly(pipe, lora, compilations):
    pipe.set_loras([(lora, 0.3), (lora, 0.4)])
    twice = pipe("cat", [1], **FEW)
    pipe.set_loras([(lora, 0.7)])
    np.testing.assert_allclose(twice.astype(int), pipe("cat", [1], **FEW), atol=1)
    pipe.set_loras([(lora, 0.7)], merge=False)
    flying = pipe("cat", [1], **FEW)
    assert _levels_apart(flying, twice) <= 2
    with compilations() as compiled:
        pipe.set_loras([(lora, 0.2)], merge=False)
        assert _levels_apart(pipe("cat", [1], **FEW), flying) > 2
    assert not compiled
    pipe.set_loras([])


def test_new_parameters_keep_the_loras(tiny_model, lora):
    """So that a preview while training draws what is trained, with what is merged into it."""
    pipe = TextToImage(tiny_model)
    pipe.set_loras([(lora, 1.0)])
    merged = pipe.params["unet"]
    pipe.replace(unet=tiny_model.unet_params)
    jax.tree.map(np.testing.assert_array_equal, pipe.params["unet"], merged)


def test_a_lora_for_another_model_names_the_layer_and_both_shapes(tiny_model, lora_file):
    config = dataclasses.replace(tiny_model.unet_config, block_out_channels=(24, 32))
    other = TextToImage(dataclasses.replace(tiny_model, unet_config=config, unet_params={}))
    with pytest.raises(UserError) as caught:
        other.set_loras([(lora_file, 1.0)])
    message = str(caught.value)
    assert "is for a weight of" in message and "the model's is" in message and "conv" in message
    assert other.extras.loras == ()


def test_weights_that_are_no_numbers(pipe, lora):
    with pytest.raises(UserError, match="weight is nan"):
        pipe.set_loras([(lora, float("nan"))])


def test_an_embedding_is_a_new_word(tiny_model, tmp_path):
    width = tiny_model.text[0].config.hidden_size
    vectors = np.random.default_rng(0).normal(size=(2, width)).astype(np.float32)
    save_embedding(tmp_path / "e.safetensors", Embedding("<moss>", {"text_encoder": vectors}))
    pipe = TextToImage(tiny_model)
    before = pipe("a <moss> cat", [1], **FEW)
    other = pipe("cat", [1], **FEW)
    assert pipe.add_embedding(tmp_path / "e.safetensors") == "<moss>"
    assert _levels_apart(pipe("a <moss> cat", [1], **FEW), before) > 2
    assert _levels_apart(pipe("cat", [1], **FEW), other) <= 1
    [record] = pipe.recipe("a <moss> cat", 1).embeddings
    assert record["name"] == "e.safetensors" and len(record["sha256"]) == 64


def test_a_controlnet_for_another_kind_of_model(tiny_model, tiny_controlnet):
    config, params = tiny_controlnet
    cases = {
        "cross_attention_dim is 768": dataclasses.replace(config, cross_attention_dim=768),
        "layers_per_block is 2": dataclasses.replace(config, layers_per_block=2),
        "shrinks its picture 4 times": dataclasses.replace(
            config, conditioning_embedding_out_channels=(4, 4, 8)
        ),
    }
    for words, wrong in cases.items():
        with pytest.raises(UserError, match=words):
            TextToImage(tiny_model).add_controlnet((wrong, params))
    sdxl = dataclasses.replace(
        config,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=72,
    )
    with pytest.raises(UserError, match="canny needs a model of the family sdxl or sdxl-inpaint"):
        check_controlnet(sdxl, tiny_model, "canny")


def test_refiners_that_do_not_fit(tiny_model):
    config = dataclasses.replace(tiny_model.vae_config, block_out_channels=(16, 16, 16))
    other = dataclasses.replace(tiny_model, vae_config=config)
    with pytest.raises(UserError, match="4 channels at 1/4 of the size, the model's 4 at 1/2"):
        check_refiner(tiny_model, other, 0.8)
    upscaler = dataclasses.replace(tiny_model.unet_config, in_channels=7)
    with pytest.raises(UserError, match="refiner x4 enlarges pictures"):
        check_refiner(tiny_model, dataclasses.replace(tiny_model, unet_config=upscaler), 0.8, "x4")
    for start in (0.0, 1.0, float("nan")):
        with pytest.raises(UserError, match="between 0 and 1"):
            check_refiner(tiny_model, tiny_model, start)


def test_a_refiner_goes_on_without_the_controlnets(tiny_model, tiny_controlnet, photo):
    """Weights are those of the model's ControlNets, and none is wanted of the refiner."""
    pipe = TextToImage(tiny_model)
    pipe.add_controlnet(tiny_controlnet)
    pipe.set_refiner(TextToImage(tiny_model), 0.5)
    pictures = Pictures.of(control=[photo[0]])
    changes = {"control_weights": (0.9,), "control_ranges": ((0.0, 0.8),)}
    assert pipe.job("cat", [1], pictures, **changes).settings.control_weights == (0.9,)
    with pytest.raises(UserError, match="2 weights for 1 ControlNets"):
        pipe.job("cat", [1], pictures, control_weights=(0.9, 0.5))


def test_a_recipe_says_what_went_in(pipe, lora_file, photo, mask):
    pipe.set_loras([(lora_file, 0.5)])
    pictures = Pictures.of(photo[0], mask)
    recipe = pipe.recipe("cat", 1, pictures, clip_skip=1, tile=8)
    pipe.set_loras([])
    assert (recipe.strength, recipe.clip_skip, recipe.tile) == (1.0, 1, 8)
    assert len(recipe.init_image["sha256"]) == len(recipe.mask["sha256"]) == 64
    [used] = recipe.loras
    assert (used["name"], used["weight"]) == ("style.safetensors", 0.5)
    plain = pipe.recipe("cat", 1)
    assert plain.strength is None and not plain.init_image and not plain.loras
    assert pipe.recipe("cat " * 30, 1, max_chunks=4).max_chunks == 3
    hires = pipe.recipe("cat", 1, hires_scale=1.3)
    assert (hires.width, hires.height, hires.hires_from) == (20, 20, (16, 16))


# -------------------------------------------------------------------------------------- hooks


def _blacken(pictures, prompts):
    flags = ["cat" in prompt for prompt in prompts]
    pictures[np.array(flags)] = 0
    return pictures, flags


def _corner(picture):
    picture[:2, :2] = 7
    return picture


def test_hooks_check_first_and_mark_last():
    pixels = np.full((2, 4, 4, 3), 200, np.uint8)
    steps = np.full((2, 3, 4, 4, 3), 100, np.uint8)
    drawn = apply_hooks(
        Drawn(pixels, steps, (False, False)), ["cat", "dog"], Hooks(_blacken, _corner)
    )
    assert drawn.flags == (True, False)
    assert (drawn.pixels[0, 2:] == 0).all() and (drawn.pixels[1, 2:] == 200).all()
    assert (drawn.steps[0, :, 2:] == 0).all() and (drawn.steps[1, :, 2:] == 100).all()
    assert (drawn.pixels[:, :2, :2] == 7).all() and (drawn.steps[:, :, :2, :2] == 7).all()
    assert (pixels == 200).all()


def test_a_pipeline_calls_its_hooks(tiny_model):
    pipe = TextToImage(tiny_model, safety_checker=_blacken, watermark=_corner)
    drawn = pipe.draw(["cat", "heart"], [1, 2], **FEW)
    assert drawn.flags == (True, False)
    assert (drawn.pixels[0, 2:] == 0).all() and drawn.pixels[1, 2:].std() > 0
    assert (drawn.pixels[:, :2, :2] == 7).all()


@pytest.mark.parametrize(
    ("hooks", "message"),
    [
        (Hooks(safety_checker=lambda pictures, _: (pictures[:1], [True])), "should return uint8"),
        (Hooks(safety_checker=lambda pictures, _: (pictures, [True])), "1 flags for 2 pictures"),
        (Hooks(watermark=lambda picture: picture / 255), "the watermark should return uint8"),
    ],
)
def test_hooks_that_return_something_else(hooks, message):
    drawn = Drawn(np.zeros((2, 4, 4, 3), np.uint8), None, (False, False))
    with pytest.raises(UserError, match=message):
        apply_hooks(drawn, ["a", "b"], hooks)


def test_hooks_by_name():
    assert load_hook("os.path:basename", "watermark")("a/b") == "b"
    for name, message in {
        "os.path": "should be module:function",
        "no_such_module:f": "cannot be imported",
        "os:no_such_function": "cannot be imported",
        "os:name": "is a str, not a function",
    }.items():
        with pytest.raises(UserError, match=message):
            load_hook(name, "watermark")
