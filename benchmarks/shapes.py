"""What is measured: the shapes of a scaled-down Stable Diffusion, and its random inputs.

Axis legend: B batch, h w latent pixels, T tokens.
"""

from dataclasses import dataclass

import numpy as np

ROWS = ("unet", "train", "text", "decode", "picture")
STEPS, GUIDANCE = 20, 7.5


@dataclass(frozen=True)
class Shapes:
    """Sizes of one comparison."""

    channels: tuple[int, ...]
    """Of the UNet's levels."""
    vae_channels: tuple[int, ...]
    """Of the autoencoder's levels; the picture is 2^(levels - 1) times the latents."""
    text: dict[str, int]
    """Of the text encoder."""
    size: int
    """Latent pixels of a side: UNet forward, decoding, picture."""
    train_size: int
    """Latent pixels of a side in training."""
    train_batch: int
    """Examples of a train step."""
    groups: int
    """Of all group norms."""


SIZES = {
    # The UNet has 37 million parameters; the text encoder is Stable Diffusion 1's.
    "35m": Shapes(
        channels=(128, 256, 256),
        vae_channels=(64, 128, 256, 256),
        text={
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "vocab_size": 49408,
        },
        size=64,
        train_size=32,
        train_batch=4,
        groups=32,
    ),
    "tiny": Shapes(
        channels=(32, 64),
        vae_channels=(16, 32),
        text={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "vocab_size": 98,
        },
        size=8,
        train_size=8,
        train_batch=2,
        groups=8,
    ),
}
"""By name."""


def unet_options(shapes: Shapes) -> dict:
    """The UNet, as both libraries call its options: attention on all levels but the coarsest."""
    levels = len(shapes.channels)
    return {
        "sample_size": shapes.size,
        "block_out_channels": shapes.channels,
        "down_block_types": ("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1),
        "cross_attention_dim": shapes.text["hidden_size"],
        "attention_head_dim": 4,
        "norm_num_groups": shapes.groups,
    }


def make_inputs(shapes: Shapes) -> dict[str, np.ndarray]:
    """Random inputs of every row, channels last."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    batch, train, width = shapes.train_batch, shapes.train_size, shapes.text["hidden_size"]
    ids = rng.integers(1, shapes.text["vocab_size"] - 1, size=(2, 77))
    ids[:, -1] = shapes.text["vocab_size"] - 1
    return {
        "x": normal(2, shapes.size, shapes.size, 4),
        "t": np.array([500.0, 500.0], np.float32),
        "context": normal(2, 77, width),
        "ids": ids.astype(np.int32),
        "z": normal(1, shapes.size, shapes.size, 4),
        "train_x": normal(batch, train, train, 4),
        "train_t": rng.integers(0, 1000, size=batch).astype(np.float32),
        "train_context": normal(batch, 77, width),
        "train_target": normal(batch, train, train, 4),
    }
