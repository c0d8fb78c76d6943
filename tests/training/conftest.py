"""Runs that take seconds: sixteen-pixel shapes, networks of a few channels."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from PIL import Image
from toy import toy_objective

from jaxdiff.convert.autoencoder import save_autoencoder
from jaxdiff.convert.scheduler import NoiseConfig
from jaxdiff.data.sources import DataConfig
from jaxdiff.models import Autoencoder, AutoencoderConfig, TextEncoderConfig, UNetConfig
from jaxdiff.training import loop
from jaxdiff.training.config import (
    AutoencoderObjective,
    DiffusionObjective,
    EMAConfig,
    FinetuneObjective,
    LoraMethod,
    LossConfig,
    OptimizerConfig,
    PreviewConfig,
    TrainConfig,
)

AUTOENCODER = AutoencoderConfig(
    sample_size=16,
    latent_channels=4,
    block_out_channels=(8, 16),
    layers_per_block=1,
    norm_num_groups=4,
    scaling_factor=1.0,
)


@pytest.fixture(scope="session")
def autoencoder_config() -> TrainConfig:
    """Six steps of an autoencoder on eight pictures a step; a work directory lacks."""
    return TrainConfig(
        objective=AutoencoderObjective(autoencoder=AUTOENCODER),
        data=DataConfig(source="shapes", resolution=16, batch_size=8),
        num_steps=6,
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=2),
        ema=EMAConfig(decay=0.9),
        preview=PreviewConfig(every=0),
        log_every=1,
        checkpoint_every=3,
    )


@pytest.fixture
def autoencoder_run(autoencoder_config: TrainConfig, tmp_path: Path) -> TrainConfig:
    """The same with a work directory."""
    return replace(autoencoder_config, workdir=tmp_path / "run")


@pytest.fixture
def toy_run(autoencoder_run: TrainConfig, monkeypatch) -> TrainConfig:
    """The same of `toy.toy_objective`, which compiles in a moment."""
    monkeypatch.setitem(loop.OBJECTIVES, AutoencoderObjective, toy_objective)
    data = DataConfig(source="shapes", resolution=8, batch_size=8)
    return replace(autoencoder_run, data=data)


@pytest.fixture
def diffusion_run(autoencoder_run: TrainConfig, tmp_path: Path) -> TrainConfig:
    """The same of a text-conditional UNet, on the latents of a random autoencoder."""
    init = jax.jit(Autoencoder(AUTOENCODER).init)
    params = init(jax.random.key(1), jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 8, 8, 4)))
    save_autoencoder(
        tmp_path / "ae", AUTOENCODER, params["params"], scaling_factor=1.0, facts={"step": 0}
    )
    objective = DiffusionObjective(
        unet=UNetConfig(
            sample_size=8,
            block_out_channels=(16,),
            down_block_types=("CrossAttnDownBlock2D",),
            up_block_types=("CrossAttnUpBlock2D",),
            layers_per_block=1,
            cross_attention_dim=16,
            attention_head_dim=2,
            norm_num_groups=4,
        ),
        text_encoder=TextEncoderConfig(
            vocab_size=540,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=16,
            eos_token_id=539,
        ),
        noise=NoiseConfig(),
        autoencoder=tmp_path / "ae",
        loss=LossConfig(levels="stratified"),
    )
    return replace(autoencoder_run, objective=objective)


COLOURS = ("red", "green", "blue", "black", "white", "grey", "pink", "brown")


@pytest.fixture(scope="session")
def pictures_dir(tmp_path_factory) -> Path:
    """Eight captioned pictures of one colour each, and to each a conditioning picture."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "edges").mkdir()
    lines = []
    for number, colour in enumerate(COLOURS):
        Image.new("RGB", (16, 16), colour).save(folder / f"{number}.png")
        Image.new("RGB", (16, 16), (31 * number, 0, 255)).save(folder / "edges" / f"{number}.png")
        row = {"file_name": f"{number}.png", "text": f"a {colour} <toy>"}
        lines.append(json.dumps(row | {"conditioning": f"edges/{number}.png"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="session")
def finetune_run(tiny_model_dir, pictures_dir) -> TrainConfig:
    """A LoRA on `tiny_model`; tests replace the method, and give a work directory."""
    return TrainConfig(
        objective=FinetuneObjective(model=tiny_model_dir, method=LoraMethod(rank=2)),
        data=DataConfig(
            source=f"folder:{pictures_dir}", resolution=16, batch_size=8, caption_dropout=0.0
        ),
        num_steps=6,
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=2),
        ema=EMAConfig(decay=0.5),
        preview=PreviewConfig(every=0),
        log_every=1,
        checkpoint_every=3,
    )
