"""Named configurations of `train.py`; a preset is a replace() of another and shows what differs."""

from dataclasses import replace

from jaxdiff.convert.scheduler import NoiseConfig
from jaxdiff.data.sources import DataConfig
from jaxdiff.models import AutoencoderConfig, TextEncoderConfig, UNetConfig
from jaxdiff.training.config import (
    AutoencoderObjective,
    DiffusionObjective,
    EMAConfig,
    OptimizerConfig,
    PreviewConfig,
    TrainConfig,
)

# Latents of 8 x 8 x 16: few pixels and wide channels are what CPUs and GPUs alike do best.
emoji64_vae = TrainConfig(
    objective=AutoencoderObjective(
        autoencoder=AutoencoderConfig(
            sample_size=64,
            latent_channels=16,
            block_out_channels=(16, 32, 96, 96),
            layers_per_block=1,
            norm_num_groups=8,
        ),
        kl_weight=2e-4,
    ),
    data=DataConfig(source="emoji/permissive", resolution=64, batch_size=16),
    num_steps=2600,
    optimizer=OptimizerConfig(
        learning_rate=1.5e-3, schedule="cosine", final_fraction=0.02, warmup_steps=100
    ),
    ema=EMAConfig(decay=0.995),
    preview=PreviewConfig(every=300),
    log_every=25,
    checkpoint_every=150,
)

PRESETS = {
    "emoji64-vae": ("The autoencoder of emoji64: 64 x 64 pictures, 8 x 8 x 16 latents.", emoji64_vae),
}
