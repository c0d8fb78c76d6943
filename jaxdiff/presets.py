"""Named configurations of `train.py`; a preset is a replace() of another and shows what differs."""

from dataclasses import replace
from pathlib import Path

from jaxdiff.convert.scheduler import NoiseConfig
from jaxdiff.data.sources import DataConfig
from jaxdiff.models import AutoencoderConfig, TextEncoderConfig, UNetConfig, VisionEncoderConfig
from jaxdiff.training.config import (
    AutoencoderObjective,
    ContrastiveObjective,
    ControlNetMethod,
    DiffusionObjective,
    DistilConfig,
    EMAConfig,
    FinetuneObjective,
    FullMethod,
    LoraMethod,
    LossConfig,
    MeshConfig,
    OptimizerConfig,
    PreviewConfig,
    ScratchMethod,
    SentenceObjective,
    TextualInversionMethod,
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

SHOWN = (
    "cat face, noto style",
    "red heart, twemoji style",
    "rocket, fluent style",
    "pizza, emojione style",
    "grinning face, fxemoji style",
    "house, noto style",
    "red apple, fluent style",
    "dog face, twemoji style",
)

# 11.7 million parameters in all, autoencoder included: 24 MB in float16.
emoji64 = TrainConfig(
    objective=DiffusionObjective(
        unet=UNetConfig(
            sample_size=8,
            in_channels=16,
            out_channels=16,
            block_out_channels=(128, 176),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=192,
            attention_head_dim=4,
            norm_num_groups=16,
        ),
        text_encoder=TextEncoderConfig(
            vocab_size=2048,
            hidden_size=192,
            intermediate_size=768,
            num_hidden_layers=3,
            num_attention_heads=3,
            max_position_embeddings=24,
            eos_token_id=2047,
        ),
        noise=NoiseConfig(schedule="flow", prediction="flow"),
        # What a picture is of is settled at high noise, which a uniform t visits too seldom.
        loss=LossConfig(levels="logit_normal", level_mean=1.0, level_std=1.5),
    ),
    data=DataConfig(source="emoji/permissive", resolution=64, batch_size=32, loosen_captions=0.15),
    name="jaxdiff emoji64",
    licence="CC-BY-4.0",
    num_steps=30_000,
    optimizer=OptimizerConfig(learning_rate=1e-3, schedule="linear", warmup_steps=500),
    ema=EMAConfig(decay=0.999),
    preview=PreviewConfig(every=1000, prompts=SHOWN, guidance_scale=6.0),
    checkpoint_every=500,
)

# What recipes are compared with: a quarter of the work of `emoji64` on the same latents, by its
# first recipe. That of `emoji64` now is the one which this comparison chose.
emoji_small = replace(
    emoji64,
    objective=replace(
        emoji64.objective,
        unet=replace(emoji64.objective.unet, block_out_channels=(64, 96), cross_attention_dim=96),
        noise=NoiseConfig(schedule="cosine", prediction="v"),
        text_encoder=replace(
            emoji64.objective.text_encoder,
            hidden_size=96,
            intermediate_size=384,
            num_hidden_layers=2,
            num_attention_heads=2,
        ),
    ),
    name="jaxdiff emoji-small",
    num_steps=1000,
    # A rate that depends on no last step: a run can be gone on with, and is a curve.
    optimizer=replace(emoji64.optimizer, schedule="constant", warmup_steps=100),
    preview=replace(emoji64.preview, every=0),
)

# What judges the emoji: a CLIP of their own, which is small, since the pictures are few.
emoji_clip = replace(
    emoji64,
    objective=ContrastiveObjective(
        text=replace(
            emoji64.objective.text_encoder,
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=2,
            num_attention_heads=4,
            projection_dim=128,
        ),
        vision=VisionEncoderConfig(
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=64,
            patch_size=8,
            projection_dim=128,
        ),
        smallest_crop=0.7,
    ),
    data=replace(emoji64.data, batch_size=256, caption_dropout=0.0, flip=False),
    name="jaxdiff emoji-clip",
    num_steps=1600,
    # Radford et al. 2021, section 2.5.
    optimizer=OptimizerConfig(
        learning_rate=1e-3, schedule="cosine", warmup_steps=200, b2=0.98, weight_decay=0.2
    ),
    ema=EMAConfig(decay=0.995),
    preview=PreviewConfig(every=0),
    checkpoint_every=100,
)

# A text encoder that knows more words than the captions of the emoji have: 3.0 million parameters.
emoji_text = replace(
    emoji64,
    objective=SentenceObjective(
        text=replace(
            emoji64.objective.text_encoder, vocab_size=8192, eos_token_id=8191, projection_dim=384
        ),
    ),
    data=replace(emoji64.data, batch_size=256, flip=False, loosen_captions=0.0),
    name="jaxdiff emoji-text",
    num_steps=1400,
    optimizer=OptimizerConfig(learning_rate=1e-3, schedule="linear", warmup_steps=500),
    preview=PreviewConfig(every=0),
)

# The model that ships, as the teacher of one that draws in four steps, a segment each.
emoji64_fast = replace(
    emoji64,
    objective=FinetuneObjective(
        method=LoraMethod(rank=24, targets="all"),
        distil=DistilConfig(24, 6.0, keeps_guidance=True, segments=4),
    ),
    data=replace(emoji64.data, caption_dropout=0.0),
    name="jaxdiff emoji64-fast",
    num_steps=400,
    optimizer=OptimizerConfig(learning_rate=2e-4, schedule="linear", warmup_steps=50),
    ema=EMAConfig(decay=0.99),
    preview=replace(emoji64.preview, sampler="ddim", num_steps=4),
)

# A minute on a laptop: a small UNet on shapes, in the latents of the model that ships.
tiny = replace(
    emoji64,
    objective=replace(
        emoji64.objective,
        unet=replace(
            emoji64.objective.unet,
            block_out_channels=(64,),
            down_block_types=("CrossAttnDownBlock2D",),
            up_block_types=("CrossAttnUpBlock2D",),
            cross_attention_dim=64,
        ),
        text_encoder=replace(
            emoji64.objective.text_encoder,
            vocab_size=560,
            hidden_size=64,
            intermediate_size=256,
            num_hidden_layers=1,
            num_attention_heads=2,
            eos_token_id=559,
        ),
        noise=NoiseConfig(schedule="cosine", prediction="v"),
        loss=LossConfig(levels="stratified"),
    ),
    data=replace(emoji64.data, source="shapes", batch_size=16, loosen_captions=0.0, flip=False),
    name="jaxdiff tiny",
    licence="",
    num_steps=300,
    optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=50),
    ema=EMAConfig(decay=0.99),
    preview=PreviewConfig(every=150, prompts=("a big red circle", "a small blue star")),
    log_every=20,
    checkpoint_every=100,
)

# Fine-tuning starts from the model that ships; `--data.source folder:PATH` says on what.
finetune = TrainConfig(
    objective=FinetuneObjective(method=FullMethod()),
    data=DataConfig(source="folder:", resolution=64, batch_size=8),
    num_steps=2000,
    optimizer=OptimizerConfig(learning_rate=2e-5, warmup_steps=100),
    ema=EMAConfig(decay=0.999),
    preview=PreviewConfig(every=250),
    log_every=25,
    checkpoint_every=250,
)

lora = replace(
    finetune,
    objective=FinetuneObjective(method=LoraMethod()),
    data=replace(finetune.data, batch_size=4, caption_dropout=0.05),
    num_steps=400,
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=20),
    ema=EMAConfig(decay=0.98),
    preview=PreviewConfig(every=200),
    checkpoint_every=200,
)

textual_inversion = replace(
    lora,
    objective=FinetuneObjective(method=TextualInversionMethod()),
    data=replace(lora.data, caption_dropout=0.0),
    optimizer=OptimizerConfig(learning_rate=5e-3, warmup_steps=20),
)

dreambooth = replace(
    finetune,
    objective=FinetuneObjective(method=FullMethod(text_encoder=True)),
    data=replace(finetune.data, caption_dropout=0.0),
    num_steps=400,
    ema=EMAConfig(decay=0.98),
    preview=PreviewConfig(every=200),
    checkpoint_every=200,
)

controlnet = replace(
    finetune,
    objective=FinetuneObjective(method=ControlNetMethod()),
    data=replace(finetune.data, conditioning=True),
    num_steps=10_000,
    optimizer=OptimizerConfig(learning_rate=1e-4, warmup_steps=200),
)

# Stable Diffusion from scratch, on latents and text states that are computed once (Rombach et al.
# 2022; the batch is that of their model card). The frozen parts are those of a published model.
sd15 = TrainConfig(
    objective=FinetuneObjective(
        model=Path("stable-diffusion-v1-5/stable-diffusion-v1-5"),
        method=ScratchMethod(
            unet=UNetConfig(),
            noise=NoiseConfig(schedule="scaled_linear", prediction="eps", spacing="leading"),
        ),
        remat="blocks",
    ),
    data=DataConfig(source="folder:", resolution=512, batch_size=2048, cache="cache"),
    num_steps=500_000,
    mesh=MeshConfig(
        data=-1, fsdp=16
    ),  # divides all widths; parameters and moments do not fit on one
    dtype="bfloat16",
    optimizer=OptimizerConfig(learning_rate=1e-4, warmup_steps=10_000, weight_decay=0.01),
    preview=PreviewConfig(every=5000),
    checkpoint_every=2500,
)

# As the published v-prediction model, at the size of its base; that one went on at 768 pixels.
sd21 = replace(
    sd15,
    objective=replace(
        sd15.objective,
        model=Path("stabilityai/stable-diffusion-2-1"),
        method=ScratchMethod(
            unet=UNetConfig(
                attention_head_dim=(5, 10, 20, 20),
                cross_attention_dim=1024,
                use_linear_projection=True,
            ),
            noise=replace(sd15.objective.method.noise, prediction="v"),
        ),
    ),
)

# Podell et al. 2023, table 1.
sdxl = replace(
    sd15,
    objective=replace(
        sd15.objective,
        model=Path("stabilityai/stable-diffusion-xl-base-1.0"),
        method=ScratchMethod(
            unet=UNetConfig(
                sample_size=128,
                block_out_channels=(320, 640, 1280),
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                transformer_layers_per_block=(1, 2, 10),
                attention_head_dim=(5, 10, 20),
                cross_attention_dim=2048,
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=256,
                projection_class_embeddings_input_dim=2816,
            ),
            noise=sd15.objective.method.noise,
        ),
    ),
    data=replace(sd15.data, resolution=1024),
)

PRESETS = {
    "tiny": ("Coloured shapes, in a minute on a laptop.", tiny),
    "emoji64-vae": (
        "The autoencoder of emoji64: 64 x 64 pictures, 8 x 8 x 16 latents.",
        emoji64_vae,
    ),
    "emoji64": ("Emoji from text at 64 x 64: the model that ships.", emoji64),
    "emoji-small": ("A quarter of emoji64, for comparing recipes.", emoji_small),
    "emoji64-fast": ("The model that ships, in four steps.", emoji64_fast),
    "emoji-text": ("A small text encoder that says what a sentence encoder says.", emoji_text),
    "emoji-clip": ("A CLIP of the emoji, which measures what emoji64 draws.", emoji_clip),
    "sd15": ("Stable Diffusion 1.5 from scratch, on latents computed beforehand.", sd15),
    "sd21": ("Stable Diffusion 2.1 from scratch, v-prediction at 512 pixels.", sd21),
    "sdxl": ("Stable Diffusion XL from scratch at 1024 pixels.", sdxl),
    "finetune": ("Go on training a model's UNet on a folder of pictures.", finetune),
    "lora": ("Low-rank changes of a model, in one small file.", lora),
    "textual-inversion": ("A new word for a model, in one tiny file.", textual_inversion),
    "dreambooth": ("A model that knows one subject; its class can be preserved.", dreambooth),
    "controlnet": ("A network that steers a model by a second picture.", controlnet),
}
