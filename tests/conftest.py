"""Set-up for every test: the compiler flags of the scripts, eight CPU devices, checked shapes."""

import importlib.util
import os

import pytest
from jaxtyping import install_import_hook

from jaxdiff import platform

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # tests want eight devices, which only a CPU fakes
# Tests compile much and compute little: unoptimised machine code halves their time, and the plainer
# way to emit it takes a fifth of what is left.
_QUICK = {"--xla_backend_optimization_level": "0", "--xla_cpu_use_fusion_emitters": "false"}
os.environ["XLA_FLAGS"] = platform.merge_flags(os.environ.get("XLA_FLAGS", ""), _QUICK)
os.environ["JAXDIFF_KEEP_HEAP"] = "0"  # many small computations in one long process
platform.configure(host_devices=8)

# Annotations such as Float[Array, "B H W C"] are checked at every call, here and nowhere else.
install_import_hook("jaxdiff", "typecheck.check")

_PARITY = ("torch", "diffusers", "transformers")


def pytest_collection_modifyitems(items):
    """Skip the parity tests where the libraries to compare with are not installed."""
    missing = [name for name in _PARITY if importlib.util.find_spec(name) is None]
    if not missing:
        return
    skip = pytest.mark.skip(reason=f"parity needs {', '.join(missing)}")
    for item in items:
        if "parity" in item.keywords:
            item.add_marker(skip)


@pytest.fixture
def key():
    """A typed random key; tests that need several split it by name."""
    import jax

    return jax.random.key(0)


@pytest.fixture(scope="session")
def tiny_model():
    """A model of random weights: 16 x 16 pictures, 8 x 8 x 4 latents, v-prediction."""
    import jax
    import numpy as np

    from jaxdiff.convert import Model, NoiseConfig, TextTower
    from jaxdiff.convert.merge import parameter_shapes
    from jaxdiff.data.tokenizer import Tokenizer
    from jaxdiff.models import AutoencoderConfig, TextEncoderConfig, UNetConfig

    tokenizer = Tokenizer.train(["red heart", "cat face, noto style"], 540, max_length=12)
    unet = UNetConfig(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        cross_attention_dim=24,
        attention_head_dim=2,
        norm_num_groups=8,
    )
    vae = AutoencoderConfig(
        sample_size=16, block_out_channels=(16, 16), layers_per_block=1, norm_num_groups=8
    )
    text = TextEncoderConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=12,
        eos_token_id=tokenizer.eos_id,
    )
    rng = np.random.default_rng(0)

    def weights(config):
        """Float16 values, so that a saved model is this one; norms' scales about 1."""

        def draw(path, leaf):
            offset = 1.0 if path[-1].key == "scale" else 0.0
            values = offset + 0.1 * rng.normal(size=leaf.shape)
            return values.astype(np.float16).astype(np.float32)

        return jax.tree_util.tree_map_with_path(draw, parameter_shapes(config))

    parts = (part for config in (unet, vae) for part in (config, weights(config)))
    tower = TextTower("text_encoder", text, weights(text), tokenizer)
    return Model(*parts, (tower,), NoiseConfig(), {"name": "tiny", "licence": "CC0-1.0"})


@pytest.fixture(scope="session")
def tiny_model_dir(tiny_model, tmp_path_factory):
    """The directory of `tiny_model`; copy it before changing anything."""
    from jaxdiff.convert import save_model

    directory = tmp_path_factory.mktemp("models") / "tiny"
    save_model(directory, tiny_model)
    return directory


@pytest.fixture(scope="session")
def large_model(tiny_model):
    """A model of SDXL's family, to be refused: all its parameters are zero."""
    import dataclasses

    import jax
    import numpy as np

    from jaxdiff.convert import TextTower
    from jaxdiff.convert.merge import parameter_shapes

    def zeros(config):
        return jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), parameter_shapes(config))

    (first,) = tiny_model.text
    config = dataclasses.replace(first.config, projection_dim=24)
    second = TextTower("text_encoder_2", config, zeros(config), first.tokenizer)
    unet = dataclasses.replace(
        tiny_model.unet_config,
        cross_attention_dim=48,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24 + 6 * 8,
    )
    parts = {"unet_config": unet, "unet_params": zeros(unet), "text": (first, second)}
    return dataclasses.replace(tiny_model, **parts, meta={"name": "large"})


@pytest.fixture(scope="session")
def large_model_dir(large_model, tmp_path_factory):
    """The directory of `large_model`."""
    from jaxdiff.convert import save_model

    directory = tmp_path_factory.mktemp("models") / "large"
    save_model(directory, large_model)
    return directory


@pytest.fixture
def sample_py(tiny_model_dir, tmp_path, monkeypatch, capsys):
    """`sample.py` in this process, in an empty directory: (code, lines out, lines err)."""
    from jaxdiff.pipelines import cli

    monkeypatch.chdir(tmp_path)

    def call(*arguments, model=tiny_model_dir):
        extra = [] if model is None else ["--model", str(model)]
        code = cli.main([*map(str, arguments), *extra])
        printed = capsys.readouterr()
        return code, printed.out.splitlines(), printed.err.splitlines()

    return call
