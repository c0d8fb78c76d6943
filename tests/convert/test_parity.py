"""The networks against diffusers and transformers with the same random weights, to 1e-4."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.convert.configs import AUTOENCODER, TEXT_ENCODER, UNET, read_config, write_config
from jaxdiff.convert.merge import from_torch, parameter_shapes, to_torch
from jaxdiff.convert.tensors import read_tensors
from jaxdiff.convert.weight_files import weight_files
from jaxdiff.models import Autoencoder, TextEncoder, UNet

pytestmark = pytest.mark.parity

# Stable Diffusion's arrangements, scaled down: (options of the UNet, text width).
UNETS = {
    "sd1": dict(attention_head_dim=2, cross_attention_dim=24),
    "sd2": dict(attention_head_dim=(1, 2, 4), cross_attention_dim=24, use_linear_projection=True),
    "sdxl": dict(
        attention_head_dim=(1, 2, 4),
        cross_attention_dim=40,
        use_linear_projection=True,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 3),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 12,
    ),
}
UNET_SHAPE = dict(
    sample_size=8,
    in_channels=4,
    out_channels=4,
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    block_out_channels=(16, 32, 48),
    layers_per_block=2,
    norm_num_groups=8,
)
# (class, options): SD 1.x is OpenAI's, SD 2.x OpenCLIP's, SDXL's second one projects.
TEXT_ENCODERS = {
    "sd1": ("CLIPTextModel", dict(hidden_act="quick_gelu", eos_token_id=2)),
    "sd2": ("CLIPTextModel", dict(hidden_act="gelu", eos_token_id=97)),
    "sdxl": ("CLIPTextModelWithProjection", dict(hidden_act="gelu", eos_token_id=97)),
}


def _scatter(module):
    """Move every parameter off its starting value, so that no norm or bias hides a mistake."""
    import torch

    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return module.eval()


def _saved(module, folder, architecture):
    """What convert makes of a module that its own library has saved: (config, params)."""
    module.save_pretrained(folder)
    config = read_config(folder / "config.json", architecture)
    stem = "model" if architecture is TEXT_ENCODER else "diffusion_pytorch_model"
    tensors = read_tensors(weight_files(folder, stem))
    return config, from_torch(tensors, parameter_shapes(config), str(folder))


def _assert_round_trip(module, config, params, prefix=""):
    """Our keys and arrays, written back, are the module's own."""
    linear = getattr(config, "use_linear_projection", True)
    written = to_torch(params, prefix=prefix, linear_projection=linear)
    original = {key: value.numpy() for key, value in module.state_dict().items()}
    assert written.keys() == {k for k in original if not k.endswith("position_ids")}
    for key, array in written.items():
        np.testing.assert_array_equal(array, original[key])


def _nchw(x):
    return np.ascontiguousarray(np.moveaxis(np.asarray(x), -1, 1))


def _assert_close(ours, theirs, name):
    difference = float(np.abs(np.asarray(ours) - theirs).max())
    print(
        f"{name}: maximum difference {difference:.1e}, of values up to {np.abs(theirs).max():.2f}"
    )
    assert difference <= 1e-4


@pytest.mark.parametrize("name", UNETS)
def test_unet(name, tmp_path):
    import torch
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    module = _scatter(UNet2DConditionModel(**UNET_SHAPE | UNETS[name]))
    config, params = _saved(module, tmp_path, UNET)
    _assert_round_trip(module, config, params)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 8, 8, 4)).astype(np.float32)
    timestep = np.array([3.0, 981.0], np.float32)
    context = rng.normal(size=(2, 7, config.cross_attention_dim)).astype(np.float32)
    added = None
    if name == "sdxl":
        added = {
            "text_embeds": rng.normal(size=(2, 12)).astype(np.float32),
            "time_ids": np.array([[64, 64, 0, 0, 64, 64], [32, 64, 8, 0, 64, 64]], np.float32),
        }
    ours = jax.jit(UNet(config).apply)({"params": params}, x, timestep, context, added)
    with torch.no_grad():
        theirs = module(
            torch.tensor(_nchw(x)),
            torch.tensor(timestep),
            torch.tensor(context),
            added_cond_kwargs=added and {k: torch.tensor(v) for k, v in added.items()},
        ).sample.numpy()
    _assert_close(_nchw(ours), theirs, f"unet {name}")


@pytest.mark.parametrize("name", TEXT_ENCODERS)
def test_text_encoder(name, tmp_path):
    import torch
    import transformers

    class_name, options = TEXT_ENCODERS[name]
    shape = transformers.CLIPTextConfig(
        vocab_size=98,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=16,
        projection_dim=20,
        bos_token_id=96,
        pad_token_id=1,
        **options,
    )
    torch.manual_seed(0)
    module = _scatter(getattr(transformers, class_name)(shape))
    config, params = _saved(module, tmp_path, TEXT_ENCODER)
    if class_name == "CLIPTextModelWithProjection":
        _assert_round_trip(module, config, params, "text_model.")
    ids = np.array([[96, 5, 17, 42, 97, 97, 97], [96, 8, 97, 97, 97, 97, 97]], np.int32)
    ours = TextEncoder(config).apply({"params": params}, jnp.asarray(ids))
    with torch.no_grad():
        theirs = module(torch.tensor(ids), output_hidden_states=True)
    pooled = theirs.text_embeds if name == "sdxl" else theirs.pooler_output
    _assert_close(ours.last_hidden, theirs.last_hidden_state.numpy(), f"text {name}, last")
    _assert_close(ours.pooled, pooled.numpy(), f"text {name}, pooled")
    _assert_close(ours.hidden_states[-2], theirs.hidden_states[-2].numpy(), f"text {name}, -2")


@pytest.mark.parametrize("quant", [True, False], ids=["sd", "no_quant_conv"])
def test_autoencoder(quant, tmp_path):
    import torch
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    module = _scatter(
        AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(16, 24, 32),
            layers_per_block=2 if quant else 1,
            latent_channels=4,
            norm_num_groups=8,
            sample_size=32,
            use_quant_conv=quant,
            use_post_quant_conv=quant,
        )
    )
    config, params = _saved(module, tmp_path, AUTOENCODER)
    _assert_round_trip(module, config, params)
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, size=(2, 32, 32, 3)).astype(np.float32)
    z = rng.normal(size=(2, 8, 8, 4)).astype(np.float32)
    apply = jax.jit(Autoencoder(config).apply, static_argnames="method")
    mean, log_variance = apply({"params": params}, x, method="encode")
    decoded = apply({"params": params}, z, method="decode")
    with torch.no_grad():
        posterior = module.encode(torch.tensor(_nchw(x))).latent_dist
        theirs = module.decode(torch.tensor(_nchw(z))).sample.numpy()
    _assert_close(_nchw(mean), posterior.mean.numpy(), "autoencoder, mean")
    _assert_close(_nchw(log_variance), posterior.logvar.numpy(), "autoencoder, log-variance")
    _assert_close(_nchw(decoded), theirs, "autoencoder, decoded")


def test_attention_names_of_old_autoencoders(tmp_path):
    """`query`, `key`, `value`, `proj_attn` load as `to_q`, `to_k`, `to_v`, `to_out.0`."""
    import torch
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    module = AutoencoderKL(block_out_channels=(16,), norm_num_groups=8)
    config, params = _saved(module, tmp_path, AUTOENCODER)
    new_to_old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for key, value in module.state_dict().items():
        for new, name in new_to_old.items():
            key = key.replace(f".{new}.", f".{name}.")
        old[key] = value.numpy()
    assert any("proj_attn" in key for key in old)
    loaded = from_torch(old, parameter_shapes(config), "old")
    jax.tree.map(np.testing.assert_array_equal, loaded, params)


@pytest.mark.parametrize("kind", ["unet", "vae"])
def test_a_config_that_is_written_opens_in_diffusers(kind, tmp_path):
    import diffusers

    architecture = {"unet": UNET, "vae": AUTOENCODER}[kind]
    cls = {"unet": diffusers.UNet2DConditionModel, "vae": diffusers.AutoencoderKL}[kind]
    config = architecture.config()
    write_config(tmp_path / "config.json", config)
    opened = cls.load_config(tmp_path)
    defaults = {k: v for k, v in cls().config.items() if not k.startswith("_")}
    assert {k for k in opened if not k.startswith("_")} <= set(defaults)
    assert read_config(tmp_path / "config.json", architecture) == config
