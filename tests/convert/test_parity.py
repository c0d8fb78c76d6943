"""Text encoders and autoencoders against transformers and diffusers on the same weights."""

import jax
import numpy as np
import pytest
from torch_parity import applied, assert_close, loaded, scattered, tensors

from jaxdiff.convert.configs import (
    AUTOENCODER,
    CONTROLNET,
    TEXT_ENCODER,
    UNET,
    read_config,
    write_config,
)
from jaxdiff.convert.merge import from_torch, parameter_shapes

pytestmark = pytest.mark.parity

# (class, options): SD 1.x is OpenAI's, SD 2.x OpenCLIP's, SDXL's second one projects.
TEXT_ENCODERS = {
    "sd1": ("CLIPTextModel", dict(hidden_act="quick_gelu", eos_token_id=2)),
    "sd2": ("CLIPTextModel", dict(hidden_act="gelu", eos_token_id=97)),
    "sdxl": ("CLIPTextModelWithProjection", dict(hidden_act="gelu", eos_token_id=97)),
}


@pytest.mark.parametrize("name", TEXT_ENCODERS)
def test_text_encoder(name, tmp_path):
    """Every layer's output, the last one normed, and what is pooled at the first end token."""
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
    module = scattered(lambda: getattr(transformers, class_name)(shape))
    config, params = loaded(module, tmp_path, TEXT_ENCODER)
    ids = np.array([[96, 5, 17, 42, 97, 97, 97], [96, 8, 97, 97, 97, 97, 97]], np.int32)
    ours = applied(config, params, ids)
    with torch.no_grad():
        theirs = module(torch.tensor(ids), output_hidden_states=True)
    pooled = theirs.text_embeds if name == "sdxl" else theirs.pooler_output
    assert_close(ours.last_hidden, theirs.last_hidden_state, f"text {name}, last")
    assert_close(ours.pooled, pooled, f"text {name}, pooled")
    assert len(ours.hidden_states) == len(theirs.hidden_states)
    for i, (our, their) in enumerate(zip(ours.hidden_states, theirs.hidden_states, strict=True)):
        assert_close(our, their, f"text {name}, state {i}")


@pytest.mark.parametrize("quant", [True, False], ids=["sd", "no_quant_conv"])
def test_autoencoder(quant, tmp_path):
    import torch
    from diffusers import AutoencoderKL

    module = scattered(
        lambda: AutoencoderKL(
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
    config, params = loaded(module, tmp_path, AUTOENCODER)
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, size=(2, 24, 32, 3)).astype(np.float32)
    z = rng.normal(size=(2, 6, 8, 4)).astype(np.float32)
    mean, log_variance = applied(config, params, x, method="encode")
    decoded = applied(config, params, z, method="decode")
    with torch.no_grad():
        posterior = module.encode(tensors(x)).latent_dist
        theirs = module.decode(tensors(z)).sample
    assert_close(mean, posterior.mean, "autoencoder, mean")
    assert_close(log_variance, posterior.logvar, "autoencoder, log-variance")
    assert_close(decoded, theirs, "autoencoder, decoded")


def test_attention_names_of_old_autoencoders(tmp_path):
    """`query`, `key`, `value`, `proj_attn` load as `to_q`, `to_k`, `to_v`, `to_out.0`."""
    import torch
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    module = AutoencoderKL(block_out_channels=(16,), norm_num_groups=8)
    config, params = loaded(module, tmp_path, AUTOENCODER)
    new_to_old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for key, value in module.state_dict().items():
        for new, name in new_to_old.items():
            key = key.replace(f".{new}.", f".{name}.")
        old[key] = value.numpy()
    assert any("proj_attn" in key for key in old)
    again = from_torch(old, parameter_shapes(config), "old")
    jax.tree.map(np.testing.assert_array_equal, again, params)


@pytest.mark.parametrize(
    "architecture", [UNET, AUTOENCODER, CONTROLNET], ids=lambda a: a.class_names[0]
)
def test_a_config_that_is_written_opens_in_diffusers(architecture, tmp_path):
    import diffusers

    cls = getattr(diffusers, architecture.class_names[0])
    config = architecture.config()
    write_config(tmp_path / "config.json", config)
    opened = cls.load_config(tmp_path)
    defaults = {k: v for k, v in cls().config.items() if not k.startswith("_")}
    assert {k for k in opened if not k.startswith("_")} <= set(defaults)
    assert read_config(tmp_path / "config.json", architecture) == config
