"""LoRAs in diffusers (with peft) and here: the same file gives the same networks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.convert import Model, NoiseConfig, TextTower
from jaxdiff.convert.configs import TEXT_ENCODER, UNET, read_config
from jaxdiff.convert.lora import Lora, load_lora, save_lora
from jaxdiff.convert.merge import from_torch, parameter_shapes, to_torch
from jaxdiff.models import AutoencoderConfig, TextEncoder, UNet
from jaxdiff.models.lora import LoraLayer, init_lora, intercept, kernel_shape, merge

pytest.importorskip("peft")
pytestmark = pytest.mark.parity

RANK = 4
UNET_SHAPE = dict(
    sample_size=8,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    block_out_channels=(16, 32),
    layers_per_block=1,
    norm_num_groups=8,
    cross_attention_dim=24,
    attention_head_dim=2,
)
SDXL_SHAPE = UNET_SHAPE | dict(
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    block_out_channels=(16, 32, 32),
    layers_per_block=2,
    cross_attention_dim=40,
    use_linear_projection=True,
    transformer_layers_per_block=(1, 1, 2),
    addition_embed_type="text_time",
    addition_time_embed_dim=8,
    projection_class_embeddings_input_dim=6 * 8 + 12,
)
TOWERS = {
    "text_encoder": ("CLIPTextModel", dict(hidden_size=24, hidden_act="quick_gelu")),
    "text_encoder_2": ("CLIPTextModelWithProjection", dict(hidden_size=16, projection_dim=12)),
}


def _tower(name):
    import transformers

    class_name, options = TOWERS[name]
    shape = dict(
        vocab_size=98, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, bos_token_id=96, eos_token_id=97, pad_token_id=1,
    )  # fmt: skip
    return getattr(transformers, class_name)(transformers.CLIPTextConfig(**shape | options))


def _pipeline(names):
    """diffusers' pipeline of random networks, those that a LoRA changes."""
    import diffusers
    import torch

    torch.manual_seed(0)
    shape = UNET_SHAPE if len(names) == 1 else SDXL_SHAPE
    parts = {name: _tower(name).eval() for name in names}
    parts["unet"] = diffusers.UNet2DConditionModel(**shape).eval()
    with torch.no_grad():  # off their starting values, so that nothing hides a mistake
        for module in parts.values():
            for parameter in module.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    tokenizers = {name.replace("text_encoder", "tokenizer"): None for name in names}
    if len(names) == 2:
        return diffusers.StableDiffusionXLPipeline(
            vae=None, scheduler=diffusers.DDIMScheduler(), **tokenizers, **parts
        )
    return diffusers.StableDiffusionPipeline(
        vae=None, scheduler=diffusers.DDIMScheduler(), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False, **tokenizers, **parts,
    )  # fmt: skip


def _arrays(module):
    return {key: value.detach().numpy().copy() for key, value in module.state_dict().items()}


def _model(pipe, names, folder):
    """The pipeline's networks as a model here, with an autoencoder of no consequence."""

    def part(name, architecture):
        getattr(pipe, name).save_pretrained(folder / name)
        config = read_config(folder / name / "config.json", architecture)
        arrays = _arrays(getattr(pipe, name))
        return config, from_torch(arrays, parameter_shapes(config), name)

    towers = tuple(TextTower(name, *part(name, TEXT_ENCODER), None) for name in names)
    return Model(*part("unet", UNET), AutoencoderConfig(), {}, towers, NoiseConfig())


@pytest.fixture(scope="module", params=[1, 2], ids=["sd", "sdxl"])
def both(request, tmp_path_factory):
    """(diffusers' pipeline, our model) of the same weights."""
    names = list(TOWERS)[: request.param]
    pipe = _pipeline(names)
    return pipe, _model(pipe, names, tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    """The same, of Stable Diffusion 1 alone."""
    pipe = _pipeline(["text_encoder"])
    return pipe, _model(pipe, ["text_encoder"], tmp_path_factory.mktemp("sd"))


def _random_lora(model, seed=0):
    """A change of every layer that diffusers knows from kohya, alpha being half the rank."""
    rng = np.random.default_rng(seed)

    def change(params):
        layers = {}
        for path, layer in init_lora(jax.random.key(0), params, "", RANK, RANK / 2).items():
            down, up = (0.1 * rng.normal(size=a.shape) for a in (layer.down, layer.up))
            factors = (np.float32(down), np.float32(up))
            layers[path] = LoraLayer(*factors, np.asarray(RANK / 2, np.float32))
        return layers

    text = {
        tower.name: {k: v for k, v in change(tower.params).items() if k != "text_projection"}
        for tower in model.text
    }
    return Lora(change(model.unet_params), text, {})


def _parts(model):
    return {"unet": model.unet_params, **{tower.name: tower.params for tower in model.text}}


def _take_off(pipe, before):
    """diffusers subtracts what it added, which is not quite the base: give it its own back."""
    import torch

    pipe.unload_lora_weights()
    for part, arrays in before.items():
        tensors = {key: torch.tensor(array) for key, array in arrays.items()}
        getattr(pipe, part).load_state_dict(tensors)


def _assert_fused(pipe, model, lora, file, weight):
    """Every parameter of diffusers' networks with the file fused is ours, merged."""
    before = {part: _arrays(getattr(pipe, part)) for part in lora.parts}
    pipe.load_lora_weights(str(file))
    pipe.fuse_lora(components=list(lora.parts), lora_scale=weight)
    linear, worst = model.unet_config.use_linear_projection, 0.0
    for part, layers in lora.parts.items():
        ours = to_torch(merge(_parts(model)[part], layers, weight), linear_projection=linear)
        base = to_torch(_parts(model)[part], linear_projection=linear)
        theirs = _arrays(getattr(pipe, part))
        theirs = {k.replace(".base_layer", ""): v for k, v in theirs.items() if "lora" not in k}
        theirs = {k.removeprefix("text_model."): v for k, v in theirs.items()}
        changed = [key for key in base if not np.array_equal(base[key], theirs[key])]
        assert len(changed) == (len(layers) if weight else 0), part
        for key, array in ours.items():
            worst = max(worst, float(np.abs(array - theirs[key]).max()))
    _take_off(pipe, before)
    print(f"weight {weight}: parameters differ by {worst:.1e}")
    assert worst <= 2e-6


@pytest.mark.parametrize("layout", ["kohya", "diffusers"])
def test_a_file_of_ours_fuses_in_diffusers(both, layout, tmp_path):
    pipe, model = both
    lora, file = _random_lora(model), tmp_path / "lora.safetensors"
    save_lora(file, lora, model, layout=layout)
    _assert_fused(pipe, model, load_lora(file, model), file, 0.7)


def test_a_file_of_diffusers_merges_here(both, tmp_path):
    """As its training scripts save it: made by peft, with alpha in the header."""
    import torch
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipe, model = both
    torch.manual_seed(1)
    targets = {
        "unet": ["to_k", "to_q", "to_v", "to_out.0"],
        **{tower.name: ["q_proj", "out_proj", "fc1"] for tower in model.text},
    }
    layers, metadata = {}, {}
    for part, names in targets.items():
        config = LoraConfig(r=RANK, lora_alpha=6, init_lora_weights=False, target_modules=names)
        module = getattr(pipe, part)
        module.add_adapter(config)
        state = convert_state_dict_to_diffusers(get_peft_model_state_dict(module))
        layers[f"{part}_lora_layers"] = state
        metadata[f"{part}_lora_adapter_metadata"] = module.peft_config["default"].to_dict()
    pipe.save_lora_weights(tmp_path, **layers, **metadata)
    pipe.unload_lora_weights()
    file = tmp_path / "pytorch_lora_weights.safetensors"
    lora = load_lora(file, model)
    assert {float(layer.alpha) for part in lora.parts.values() for layer in part.values()} == {6.0}
    _assert_fused(pipe, model, lora, file, 1.0)


def test_networks_give_the_same_at_every_weight(sd, tmp_path):
    """kohya's file of all layers: merged here, intercepted here, and run by peft."""
    import torch

    pipe, model = sd
    file = tmp_path / "lora.safetensors"
    save_lora(file, _random_lora(model, 5), model, layout="kohya", dtype=np.float16)
    lora, tower = load_lora(file, model), model.text[0]
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 8, 8, 4)), jnp.float32)
    t, ids = jnp.array([3.0, 981.0]), jnp.array([[96, 5, 17, 97], [96, 97, 97, 97]])

    @jax.jit
    def ours(params, layers, weight):
        with intercept([(layers["text_encoder"], weight)]):
            text = TextEncoder(tower.config).apply({"params": params["text_encoder"]}, ids)
        with intercept([(layers["unet"], weight)]):
            unet = UNet(model.unet_config)
            return unet.apply({"params": params["unet"]}, x, t, text.last_hidden)

    def theirs():
        with torch.no_grad():
            context = pipe.text_encoder(torch.tensor(ids.tolist())).last_hidden_state
            z = torch.tensor(np.moveaxis(np.asarray(x), -1, 1).copy())
            out = pipe.unet(z, torch.tensor(t.tolist()), context).sample
        return np.moveaxis(out.numpy(), 1, -1)

    base, params = theirs(), _parts(model)
    pipe.load_lora_weights(str(file), adapter_name="it")
    for weight in (0.0, 0.7, 1.0):
        pipe.set_adapters(["it"], [weight])
        expected = theirs()
        merged = {part: merge(params[part], lora.parts[part], weight) for part in params}
        nothing = jax.tree.map(jnp.zeros_like, lora.parts)
        for how, got in {
            "merged": ours(merged, nothing, jnp.float32(0)),
            "intercepted": ours(params, lora.parts, jnp.float32(weight)),
        }.items():
            difference = float(np.abs(got - expected).max())
            print(f"weight {weight}, {how}: maximum difference {difference:.1e}")
            assert difference <= 1e-4
        assert (np.abs(expected - base).max() > 0.05) == (weight > 0)
    pipe.unload_lora_weights()


def test_two_files_add_up(sd, tmp_path):
    """set_adapters with two weights is merge_all."""
    pipe, model = sd
    before = {"unet": _arrays(pipe.unet)}
    loras = [dataclasses.replace(_random_lora(model, seed), text={}) for seed in (1, 2)]
    for i, lora in enumerate(loras):
        save_lora(tmp_path / f"{i}.safetensors", lora, model)
        pipe.load_lora_weights(str(tmp_path / f"{i}.safetensors"), adapter_name=f"a{i}")
    pipe.set_adapters(["a0", "a1"], [0.7, -0.3])
    pipe.fuse_lora(components=["unet"], adapter_names=["a0", "a1"])
    theirs = {k.replace(".base_layer", ""): v for k, v in _arrays(pipe.unet).items()}
    ours = merge(merge(model.unet_params, loras[0].unet, 0.7), loras[1].unet, -0.3)
    for key, array in to_torch(ours, linear_projection=False).items():
        np.testing.assert_allclose(array, theirs[key], atol=2e-6)
    _take_off(pipe, before)


def test_mid_is_three_convolutions():
    """LoCon's down (1x1), mid (the layer's own form) and up (1x1), as torch runs them."""
    import flax.linen as nn
    import torch
    import torch.nn.functional as F

    rng = np.random.default_rng(0)
    down, mid, up = (
        rng.normal(size=s).astype(np.float32) for s in ((4, 3, 1, 1), (4, 4, 3, 3), (5, 4, 1, 1))
    )
    base, x = (rng.normal(size=s).astype(np.float32) for s in ((5, 3, 3, 3), (1, 3, 8, 8)))
    with torch.no_grad():
        h = F.conv2d(torch.tensor(x), torch.tensor(down))
        h = F.conv2d(h, torch.tensor(mid), stride=2, padding=1)
        change = F.conv2d(h, torch.tensor(up))
        theirs = F.conv2d(torch.tensor(x), torch.tensor(base), stride=2, padding=1)
        theirs = (theirs + 0.7 * (2 / 4) * change).numpy()
    from jaxdiff.convert.lora_arrays import layer_from_torch, plain

    arrays = {"down": down, "mid": mid, "up": up, "alpha": np.float32(2)}
    layer = layer_from_torch(arrays, 4, "conv")
    assert kernel_shape(layer) == (3, 3, 3, 5)

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Conv(5, (3, 3), strides=2, padding=1, use_bias=False, name="conv")(x)

    params = {"conv": {"kernel": base.transpose(2, 3, 1, 0)}}
    pixels = jnp.asarray(x.transpose(0, 2, 3, 1))
    for tree, loras in (
        (params, [({"conv": layer}, 0.7)]),
        (merge(params, {"conv": layer}, 0.7), []),
        (merge(params, {"conv": plain(layer)}, 0.7), []),
    ):
        with intercept(loras):
            ours = Net().apply({"params": tree}, pixels)
        np.testing.assert_allclose(np.moveaxis(ours, -1, 1), theirs, atol=1e-4)
