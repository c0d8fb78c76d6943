"""LoRA files: every layout says the same, diffusers agrees, and what does not fit is named."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxdiff.convert import Model, NoiseConfig, TextTower
from jaxdiff.convert.lora import Lora, load_lora, lora_hash, save_lora
from jaxdiff.convert.lora_names import kohya_stem, layer_names
from jaxdiff.errors import UserError
from jaxdiff.models import AutoencoderConfig, TextEncoderConfig, UNetConfig, parameter_shapes
from jaxdiff.models.lora import LoraLayer, init_lora, kernel_shape, merge

RANK = 4


def random_lora(model, seed=0, dtype=np.float32, mid=False):
    """A change of every layer, float16 values throughout; with `mid`, convolutions have one."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return (0.3 * rng.normal(size=shape)).astype(np.float16).astype(dtype)

    def change(params):
        layers = {}
        for path, layer in init_lora(jax.random.key(0), params, "", RANK, 2.0).items():
            *spatial, inputs, outputs = kernel_shape(layer)
            up, alpha = draw(RANK, outputs), np.asarray(2.0, dtype)
            if mid and spatial:
                parts = draw(inputs, RANK), up, alpha, draw(*spatial, RANK, RANK)
                layers[path] = LoraLayer(*parts)
            else:
                layers[path] = LoraLayer(draw(*spatial, inputs, RANK), up, alpha)
        return layers

    text = {tower.name: change(tower.params) for tower in model.text}
    return Lora(change(model.unet_params), text, {"trained": "never"})


def merged(model, lora, weight):
    """Every part's parameters with the LoRA in them."""
    trees = {"unet": model.unet_params, **{tower.name: tower.params for tower in model.text}}
    return {part: merge(trees[part], layers, weight) for part, layers in lora.parts.items()}


def assert_same(first, second):
    """Two LoRAs have equal arrays, of equal types."""
    assert first.parts.keys() == second.parts.keys()
    for part, layers in first.parts.items():
        assert layers.keys() == second.parts[part].keys()
        for path, layer in layers.items():
            for ours, theirs in zip(layer, second.parts[part][path], strict=True):
                assert (ours is None) == (theirs is None)
                if ours is not None:
                    np.testing.assert_array_equal(ours, theirs)
                    assert ours.dtype == theirs.dtype


@pytest.fixture(scope="module")
def lora(tiny_model):
    """A LoRA of every layer of the tiny model."""
    return random_lora(tiny_model)


@pytest.fixture
def kohya(tiny_model, lora, tmp_path):
    """Its file in kohya's layout; spoil it at will."""
    save_lora(tmp_path / "kohya.safetensors", lora, tiny_model, layout="kohya")
    return tmp_path / "kohya.safetensors"


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("mid", [False, True], ids=["conv", "mid"])
def test_kohya_round_trip_is_exact(tiny_model, tmp_path, dtype, mid):
    lora, file = random_lora(tiny_model, dtype=dtype, mid=mid), tmp_path / "a.safetensors"
    save_lora(file, lora, tiny_model, layout="kohya")
    again = load_lora(file, tiny_model)
    assert_same(again, lora)
    assert again.meta["trained"] == "never"
    save_lora(tmp_path / "b.safetensors", again, tiny_model, layout="kohya")
    assert load_file(file).keys() == load_file(tmp_path / "b.safetensors").keys()
    assert lora_hash(file) == lora_hash(tmp_path / "b.safetensors")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.safetensors", "b.safetensors"]


@pytest.mark.parametrize("mid", [False, True], ids=["conv", "mid"])
def test_diffusers_layout_is_the_same_change(tiny_model, tmp_path, mid):
    """Alpha and mid are multiplied in, so the arrays differ and the merged parameters do not."""
    lora, file = random_lora(tiny_model, mid=mid), tmp_path / "a.safetensors"
    save_lora(file, lora, tiny_model)
    assert not any("alpha" in key or "mid." in key for key in load_file(file) if "lora" not in key)
    again = load_lora(file, tiny_model)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6),
        merged(tiny_model, again, 0.7),
        merged(tiny_model, lora, 0.7),
    )
    save_lora(tmp_path / "b.safetensors", again, tiny_model)
    assert_same(load_lora(tmp_path / "b.safetensors", tiny_model), again)


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_a_model_without_parameters_will_do(tiny_model, lora, tmp_path, layout):
    """Pipelines keep the parameters elsewhere."""
    text = tuple(tower._replace(params={}) for tower in tiny_model.text)
    bare = dataclasses.replace(tiny_model, unet_params={}, vae_params={}, text=text)
    save_lora(tmp_path / "whole.safetensors", lora, tiny_model, layout=layout)
    save_lora(tmp_path / "bare.safetensors", lora, bare, layout=layout)
    again = load_lora(tmp_path / "bare.safetensors", bare)
    assert_same(again, load_lora(tmp_path / "whole.safetensors", tiny_model))
    assert all(again.parts.values())


def test_names_are_those_of_the_trainers(kohya, tiny_model, lora, tmp_path):
    arrays = load_file(kohya)
    block = "down_blocks_0_attentions_0_transformer_blocks_0"
    for name, shape in {
        f"lora_unet_{block}_attn1_to_out_0.lora_down.weight": (RANK, 16),
        f"lora_unet_{block}_ff_net_0_proj.lora_up.weight": (128, RANK),
        f"lora_unet_{block}_attn2_to_q.alpha": (),
        "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (RANK, 16, 1, 1),
        "lora_unet_down_blocks_1_resnets_0_conv_shortcut.lora_up.weight": (32, RANK, 1, 1),
        "lora_unet_down_blocks_0_downsamplers_0_conv.lora_down.weight": (RANK, 16, 3, 3),
        "lora_unet_time_embedding_linear_1.lora_down.weight": (RANK, 16),
        "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (RANK, 24),
        "lora_te_text_model_encoder_layers_1_self_attn_q_proj.lora_up.weight": (24, RANK),
    }.items():
        assert arrays[name].shape == shape
    save_lora(tmp_path / "d.safetensors", lora, tiny_model)
    arrays = load_file(tmp_path / "d.safetensors")
    for name, shape in {
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_A.weight": (
            4,
            16,
        ),
        "unet.down_blocks.0.attentions.0.proj_in.lora_B.weight": (16, 4, 1, 1),
        "unet.conv_in.lora_A.weight": (4, 4, 3, 3),
        "text_encoder.text_model.encoder.layers.0.self_attn.out_proj.lora_B.weight": (24, 4),
    }.items():
        assert arrays[name].shape == shape


# As kohya's scripts name SDXL's layers -> their paths here.
SDXL_NAMES = {
    "input_blocks_0_0": "conv_in",
    "input_blocks_1_0_emb_layers_1": "down_blocks_0/resnets_0/time_emb_proj",
    "input_blocks_3_0_op": "down_blocks_0/downsamplers_0/conv",
    "input_blocks_4_0_skip_connection": "down_blocks_1/resnets_0/conv_shortcut",
    "input_blocks_4_1_transformer_blocks_1_attn2_to_k": (
        "down_blocks_1/attentions_0/transformer_blocks_1/attn2/to_k"
    ),
    "input_blocks_8_1_proj_out": "down_blocks_2/attentions_1/proj_out",
    "middle_block_0_in_layers_2": "mid_block/resnets_0/conv1",
    "middle_block_1_transformer_blocks_3_ff_net_0_proj": (
        "mid_block/attentions_0/transformer_blocks_3/ff/net_0/proj"
    ),
    "output_blocks_2_2_conv": "up_blocks_0/upsamplers_0/conv",
    "output_blocks_5_1_transformer_blocks_0_attn1_to_out_0": (
        "up_blocks_1/attentions_2/transformer_blocks_0/attn1/to_out_0"
    ),
    "output_blocks_8_0_out_layers_3": "up_blocks_2/resnets_2/conv2",
    "time_embed_2": "time_embedding/linear_2",
    "label_emb_0_0": "add_embedding/linear_1",
    "out_2": "conv_out",
}


def test_sdxl_names_are_those_of_a_single_file():
    """At full width, of which nothing is allocated."""
    unet = UNetConfig(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(320, 640, 1280),
        transformer_layers_per_block=(1, 2, 4),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
    towers = (
        TextTower("text_encoder", TextEncoderConfig(), {}, None),
        TextTower(
            "text_encoder_2",
            TextEncoderConfig(hidden_size=1280, num_attention_heads=20, projection_dim=1280),
            {},
            None,
        ),
    )
    model = Model(unet, {}, AutoencoderConfig(), {}, towers, NoiseConfig())
    names = layer_names(model)["unet"]
    assert len(names) == 2 * len(set(names.values()))  # two names each, none for two layers
    for name, path in SDXL_NAMES.items():
        assert names[name] == path
        assert kohya_stem("unet", path, model) == f"lora_unet_{name}"


# Names that older files have -> those of today's, for a file in diffusers' layout.
OLDER = {
    "processors": {
        ".attn1.": ".attn1.processor.",
        ".attn2.": ".attn2.processor.",
        "to_out.0.lora_": "to_out_lora_",
        ".lora_A.": ".lora.down.",
        ".lora_B.": ".lora.up.",
        "to_out_lora.": "to_out_lora.",
        "to_q.lora.": "to_q_lora.",
        "to_k.lora.": "to_k_lora.",
        "to_v.lora.": "to_v_lora.",
    },
    "linear layers": {
        "q_proj.lora_A.": "q_proj.lora_linear_layer.down.",
        "q_proj.lora_B.": "q_proj.lora_linear_layer.up.",
        "fc1.lora_A.": "fc1.lora_linear_layer.down.",
        "fc1.lora_B.": "fc1.lora_linear_layer.up.",
    },
    "attention of text": {
        "self_attn.q_proj.lora_A": "self_attn.to_q_lora.down",
        "self_attn.q_proj.lora_B": "self_attn.to_q_lora.up",
        "self_attn.out_proj.lora_A": "self_attn.to_out_lora.down",
        "self_attn.out_proj.lora_B": "self_attn.to_out_lora.up",
    },
    "no text_model": {"text_encoder.text_model.": "text_encoder."},
    "an adapter's name": {"lora_A.weight": "lora_A.default_0.weight"},
    "UNet alone": {"unet.": ""},
}


@pytest.mark.parametrize("kind", OLDER)
def test_older_names(tiny_model, lora, tmp_path, kind):
    save_lora(tmp_path / "new.safetensors", lora, tiny_model)
    arrays = load_file(tmp_path / "new.safetensors")
    older = {}
    for key, array in arrays.items():
        for new, old in OLDER[kind].items():
            key = key.replace(new, old)
        older[
            key.replace("to_out_lora_A", "to_out_lora.down").replace(
                "to_out_lora_B", "to_out_lora.up"
            )
        ] = array
    assert older.keys() != arrays.keys()
    save_file(older, tmp_path / "old.safetensors")
    assert_same(*(load_lora(tmp_path / f"{n}.safetensors", tiny_model) for n in ("old", "new")))


def test_alpha_in_the_header(tiny_model, lora, tmp_path):
    """diffusers notes alpha there, for all layers and by pattern."""
    file = tmp_path / "a.safetensors"
    save_lora(file, lora, tiny_model)
    settings = {
        "unet.lora_alpha": 8,
        "unet.alpha_pattern": {"attn1.to_q": 2, "conv_in": 1},
        "text_encoder.lora_alpha": 3,
        "text_encoder.use_rslora": True,
        "text_encoder.alpha_pattern": {"text_model.encoder.layers.0.mlp.fc1": 5},
    }
    save_file(load_file(file), file, metadata={"lora_adapter_metadata": json.dumps(settings)})
    loaded = load_lora(file, tiny_model)
    block = "mid_block/attentions_0/transformer_blocks_0"
    assert loaded.unet[f"{block}/attn1/to_k"].alpha == 8
    assert loaded.unet[f"{block}/attn1/to_q"].alpha == 2
    assert loaded.unet["conv_in"].alpha == 1
    text = loaded.text["text_encoder"]
    assert text["encoder/layers_0/mlp/fc1"].alpha == 5 * RANK**0.5
    assert text["encoder/layers_1/mlp/fc1"].alpha == 3 * RANK**0.5


def test_without_alpha_the_scale_is_one(tiny_model, kohya):
    arrays = {k: v for k, v in load_file(kohya).items() if not k.endswith("alpha")}
    save_file(arrays, kohya)
    assert {layer.alpha.item() for layer in load_lora(kohya, tiny_model).unet.values()} == {RANK}


@pytest.mark.parametrize("alpha", [0.01, 1.0, 3.0, 900.0])
def test_small_alphas_survive_float16(tiny_model, lora, tmp_path, alpha):
    """Alpha is shared out between the factors, so neither leaves float16's range."""
    layer = lora.unet["conv_in"]._replace(alpha=np.float32(alpha))
    layer = layer._replace(up=layer.up * np.float32(1e-2))
    small = Lora({"conv_in": layer}, {}, {})
    save_lora(tmp_path / "a.safetensors", small, tiny_model, dtype=np.float16)
    again = load_lora(tmp_path / "a.safetensors", tiny_model)
    zero = {"conv_in": {"kernel": np.zeros(kernel_shape(layer), np.float32)}}
    ours, theirs = (merge(zero, part.unet, 1.0)["conv_in"]["kernel"] for part in (small, again))
    np.testing.assert_allclose(theirs, ours, atol=2e-3 * float(jnp.abs(ours).max()))


def _narrower(model):
    """A model of another text width: its cross-attention reads 16 numbers, not 24."""
    config = dataclasses.replace(model.unet_config, cross_attention_dim=16)
    tower = model.text[0]
    text = dataclasses.replace(tower.config, hidden_size=16, intermediate_size=32)

    def zeros(part):
        return jax.tree.map(lambda leaf: np.zeros(leaf.shape), parameter_shapes(part))

    return dataclasses.replace(
        model,
        unet_config=config,
        unet_params=zeros(config),
        text=(tower._replace(config=text, params=zeros(text)),),
    )


@pytest.mark.parametrize("layout", ["kohya", "diffusers"])
def test_another_architecture_is_named_with_both_shapes(tiny_model, lora, tmp_path, layout):
    unet = Lora({k: v for k, v in lora.unet.items() if "attn" in k}, {}, {})
    save_lora(tmp_path / "a.safetensors", unet, tiny_model, layout=layout)
    with pytest.raises(UserError) as caught:
        load_lora(tmp_path / "a.safetensors", _narrower(tiny_model))
    message = str(caught.value)
    assert "attn2.to_k is for a weight of (16, 24), the model's is (16, 16)" in message
    assert "8 of 32 layers do not fit" in message
    assert "another architecture" in message and "\n" not in message


def test_unknown_keys_are_listed(tiny_model, kohya):
    arrays = load_file(kohya)
    for i in range(5):
        arrays[f"lora_unet_down_blocks_7_conv{i}.alpha"] = np.ones(())
    save_file(arrays, kohya)
    with pytest.raises(UserError, match=r"5 keys .*down_blocks_7_conv0.*and 2 more"):
        load_lora(kohya, tiny_model)


def test_a_lora_of_two_text_encoders_is_not_for_one(tiny_model, kohya):
    arrays = load_file(kohya)
    save_file({key.replace("lora_te_", "lora_te2_"): a for key, a in arrays.items()}, kohya)
    with pytest.raises(UserError, match="lora_te2_text_model_encoder"):
        load_lora(kohya, tiny_model)


def _rename(arrays, old, new):
    arrays[new] = arrays.pop(old)


STEM = "lora_unet_conv_in"
SPOILS = {
    "has no up projection": lambda a: a.pop(f"{STEM}.lora_up.weight"),
    "has no down projection": lambda a: a.pop(f"{STEM}.lora_down.weight"),
    "do not belong together": lambda a: a.update({f"{STEM}.lora_up.weight": np.ones((16, 5))}),
    r"not belong together .*alpha \(2,\)": lambda a: a.update({f"{STEM}.alpha": np.ones(2)}),
    "not finite": lambda a: a.update({f"{STEM}.lora_up.weight": np.full((16, RANK), np.nan)}),
    r"holds DoRA \(lora_unet_conv_in.dora_scale\)": lambda a: a.update(
        {f"{STEM}.dora_scale": np.ones((1, 4))}
    ),
    r"holds LoHa": lambda a: a.update({f"{STEM}.hada_w1_a": np.ones((1, 4))}),
    r"holds LoKr": lambda a: a.update({f"{STEM}.lokr_w1": np.ones((1, 4))}),
    r"twice, by two names": lambda a: a.update({"unet.conv_in.lora_A.weight": np.ones((1, 4))}),
    r"keys that are no LoRA layer": lambda a: [_rename(a, k, k[5:]) for k in [*a]],
    "0 keys that are no LoRA": lambda a: a.clear(),
}


@pytest.mark.parametrize("message", SPOILS)
def test_spoilt_files_are_refused(tiny_model, kohya, message):
    arrays = load_file(kohya)
    SPOILS[message](arrays)
    save_file(arrays, kohya)
    with pytest.raises(UserError, match=message) as caught:
        load_lora(kohya, tiny_model)
    assert str(kohya) in str(caught.value)


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_truncated_files_are_named(tiny_model, kohya, size):
    kohya.write_bytes(kohya.read_bytes()[:size])
    with pytest.raises(UserError, match="kohya.safetensors is truncated"):
        load_lora(kohya, tiny_model)


def test_other_mistakes_are_named(tiny_model, lora, kohya, tmp_path):
    with pytest.raises(UserError, match="nowhere.safetensors does not exist"):
        load_lora(tmp_path / "nowhere.safetensors", tiny_model)
    with pytest.raises(UserError, match="is a pickle"):
        load_lora(tmp_path / "lora.pt", tiny_model)
    with pytest.raises(UserError, match="choose one of: diffusers, kohya"):
        save_lora(tmp_path / "x.safetensors", lora, tiny_model, layout="comfy")
    huge = Lora({"conv_in": lora.unet["conv_in"]._replace(alpha=np.float32(1e12))}, {}, {})
    with pytest.raises(UserError, match="not finite as float16"):
        save_lora(tmp_path / "x.safetensors", huge, tiny_model, dtype=np.float16)
    with pytest.raises(UserError, match="cannot be written"):
        save_lora(kohya / "x.safetensors", lora, tiny_model)
    save_file(load_file(kohya), kohya, metadata={"lora_adapter_metadata": "[1"})
    with pytest.raises(UserError, match="no JSON object"):
        load_lora(kohya, tiny_model)
    assert [path.name for path in tmp_path.iterdir()] == [kohya.name]
