"""CLIP's two towers against transformers, and the directory in and out."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_parity import assert_close, nchw, scattered

from jaxdiff.convert.clip import Clip, load_clip, save_clip
from jaxdiff.convert.merge import parameter_shapes
from jaxdiff.errors import UserError
from jaxdiff.models import TextEncoderConfig, VisionEncoderConfig, network
from jaxdiff.models.vision import prepare

_TEXT = dict(
    vocab_size=98,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=16,
    eos_token_id=97,
)
_VISION = dict(
    hidden_size=48,
    intermediate_size=96,
    num_hidden_layers=3,
    num_attention_heads=4,
    image_size=32,
    patch_size=8,
)


def _apply(config, params, *args):
    return jax.jit(network(config).apply)({"params": params}, *args)


def _reference(act="quick_gelu", **text):
    import transformers

    config = transformers.CLIPConfig(
        text_config=dict(_TEXT, bos_token_id=96, pad_token_id=1, hidden_act=act) | text,
        vision_config=dict(_VISION, hidden_act=act),
        projection_dim=20,
    )
    return scattered(lambda: transformers.CLIPModel(config))


@pytest.mark.parity
@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_both_towers(act, tmp_path):
    """Embeddings of pictures and of captions, and the factor of the logits."""
    import torch

    module = _reference(act)
    module.save_pretrained(tmp_path)
    clip = load_clip(tmp_path)
    rng = np.random.default_rng(0)
    pictures = rng.normal(size=(2, 32, 32, 3)).astype(np.float32)
    ids = np.array([[96, 5, 17, 42, 97, 97], [96, 8, 97, 97, 97, 97]], np.int32)
    with torch.no_grad():
        theirs = module(
            input_ids=torch.tensor(ids).long(), pixel_values=torch.tensor(nchw(pictures))
        )
    ours = _apply(clip.vision, clip.vision_params, pictures)
    texts = _apply(clip.text, clip.text_params, ids).pooled
    for name, our, their in (
        ("pictures", ours, theirs.image_embeds),
        ("texts", texts, theirs.text_embeds),
    ):  # theirs have unit length
        our = np.asarray(our) / np.linalg.norm(our, axis=1, keepdims=True)
        assert_close(our, their, f"CLIP {act}, {name}")
    assert clip.logit_scale == pytest.approx(module.logit_scale.item())


@pytest.mark.parity
def test_vision_tower_with_projection(tmp_path):
    """The embedding before it is scaled to unit length."""
    import torch
    import transformers

    module = _reference()
    module.save_pretrained(tmp_path)
    shape = transformers.CLIPVisionConfig(**_VISION, projection_dim=20)
    alone = transformers.CLIPVisionModelWithProjection(shape).eval()
    alone.vision_model.load_state_dict(module.vision_model.state_dict())
    alone.visual_projection.load_state_dict(module.visual_projection.state_dict())
    pictures = np.random.default_rng(1).normal(size=(1, 32, 32, 3)).astype(np.float32)
    clip = load_clip(tmp_path)
    with torch.no_grad():
        theirs = alone(torch.tensor(nchw(pictures))).image_embeds
    assert_close(_apply(clip.vision, clip.vision_params, pictures), theirs, "CLIP, projected")


@pytest.mark.parity
@pytest.mark.parametrize("size", [(64, 64), (96, 100), (50, 90), (20, 20), (32, 32)])
def test_preparation(size):
    """Bicubic resize, centre crop and the mean of CLIP's pictures, as its own processor does."""
    import transformers
    from PIL import Image

    coarse = np.random.default_rng(2).integers(0, 256, (8, 8, 3), np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize(size[::-1]))
    # Since 5.0 the one without torchvision has a name of its own.
    kind = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    process = kind(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    theirs = process(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    config = VisionEncoderConfig(**_VISION, projection_dim=20)
    ours = np.asarray(prepare(config, jnp.asarray(image[None]))[0])
    levels = np.abs(ours - theirs) * np.array(process.image_std) * 255
    assert levels.max() <= 1.01  # Pillow rounds its filters' weights
    assert (levels > 0.5).mean() < 0.02


@pytest.fixture(scope="module")
def clip():
    """A small CLIP of random weights."""
    text = TextEncoderConfig(**_TEXT, projection_dim=20)
    vision = VisionEncoderConfig(**_VISION, projection_dim=20)
    rng = np.random.default_rng(0)

    def draw(config):
        shapes = parameter_shapes(config)
        return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)

    return Clip(text, draw(text), vision, draw(vision), 2.5)


def test_saved_and_loaded(clip, tmp_path):
    save_clip(tmp_path / "clip", clip)
    again = load_clip(tmp_path / "clip")
    assert (again.text, again.vision, again.logit_scale) == (clip.text, clip.vision, 2.5)
    for part in ("text_params", "vision_params"):
        jax.tree.map(np.testing.assert_array_equal, getattr(again, part), getattr(clip, part))


@pytest.mark.parity
def test_saved_and_opened_by_transformers(clip, tmp_path):
    import torch
    import transformers

    save_clip(tmp_path, clip)
    module, said = transformers.CLIPModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not said["missing_keys"] and not said["unexpected_keys"]
    weight = clip.vision_params["visual_projection"]["kernel"]
    np.testing.assert_array_equal(module.visual_projection.weight.detach().numpy(), weight.T)
    assert torch.isclose(module.logit_scale, torch.tensor(2.5))


def test_old_configurations(clip, tmp_path):
    """An end token of 2, fields left out, and the `_dict` form that counts first."""
    save_clip(tmp_path, clip)
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    content["text_config_dict"] = content["text_config"] | {"eos_token_id": 2}
    content["text_config"] = {"hidden_size": 999}
    del content["vision_config"]["layer_norm_eps"]
    path.write_text(json.dumps(content))
    again = load_clip(tmp_path)
    assert (again.text, again.vision) == (clip.text, clip.vision)


def _drop(tensors):
    tensors.pop("vision_model.pre_layrnorm.bias")


def _rename(tensors):
    tensors["unet.conv_in.weight"] = tensors.pop("logit_scale")


@pytest.mark.parametrize(
    ("change", "said"),
    [(_drop, "1 missing (pre_layrnorm.bias)"), (_rename, "holds unet.conv_in.weight")],
)
def test_weights_of_another_network_are_refused(change, said, clip, tmp_path):
    from safetensors.numpy import load_file, save_file

    save_clip(tmp_path, clip)
    tensors = load_file(tmp_path / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError) as caught:
        load_clip(tmp_path)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_another_config_is_refused(clip, tmp_path):
    save_clip(tmp_path, clip)
    (tmp_path / "config.json").write_text('{"model_type": "siglip"}')
    with pytest.raises(UserError, match="'siglip' is not 'clip'"):
        load_clip(tmp_path)


@pytest.mark.parametrize("options", [{"patch_size": 7}, {"hidden_act": "relu"}, {"hidden_size": 0}])
def test_configs_that_make_no_network(options):
    with pytest.raises(UserError):
        dataclasses.replace(VisionEncoderConfig(**_VISION, projection_dim=20), **options)
