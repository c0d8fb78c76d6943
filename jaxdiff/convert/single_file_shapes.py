"""The shape of a network by the shapes of its tensors, for files that carry no configuration.

Two things do not show in any shape and follow from the family:

    heads    OpenAI's CLIP and all text towers: width / 64.  Stable Diffusion 1 and the x4 upscaler:
             8 at every level.  Others (linear projections): channels / 64.
    groups   32, or the largest power of two that divides every level's channels.

Names are those of diffusers, without a prefix; shapes are torch's.
"""

import math
import re
from collections.abc import Collection, Mapping

from jaxdiff.convert.single_file_names import Skeleton
from jaxdiff.errors import UserError
from jaxdiff.models import AutoencoderConfig, ControlNetConfig, TextEncoderConfig, UNetConfig

Shapes = Mapping[str, tuple[int, ...]]

_HEAD_WIDTH = 64
_HEADS = 8  # of Stable Diffusion 1, at every level
_GROUPS = 32


def unet_config(
    shapes: Shapes, skeleton: Skeleton, sample_size: int, size_width: int
) -> UNetConfig:
    """The shape of a UNet.

    Args:
      shapes: of its tensors.
      skeleton: which blocks it has.
      sample_size: height and width, in latent pixels, of what it was trained on.
      size_width: how wide SDXL embeds each of the picture's sizes, if the UNet is of that family.

    Raises:
      UserError: tensors are missing, or it is none of Stable Diffusion's.
    """
    up = tuple("CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in skeleton.up)
    condition = _shape(shapes, "time_embedding.cond_proj.weight", optional=True)
    classes = _shape(shapes, "class_embedding.weight", optional=True)
    middle = any(name.startswith("mid_block.") for name in shapes)
    return UNetConfig(
        sample_size=sample_size,
        in_channels=_shape(shapes, "conv_in.weight")[1],
        out_channels=_shape(shapes, "conv_out.weight")[0],
        up_block_types=up,
        mid_block_type=UNetConfig.mid_block_type if middle else None,
        num_class_embeds=classes[0] if classes else None,
        time_cond_proj_dim=condition[1] if condition else None,
        **_trunk(shapes, skeleton, size_width),
    )


def controlnet_config(
    shapes: Shapes, skeleton: Skeleton, size_width: int = 256
) -> ControlNetConfig:
    """The shape of a ControlNet; arguments and errors are those of `unet_config`."""
    embedding = "controlnet_cond_embedding"
    first = _shape(shapes, f"{embedding}.conv_in.weight")
    channels = [_shape(shapes, f"{embedding}.blocks.{2 * i + 1}.weight")[0]
                for i in range(skeleton.hints // 2)]  # fmt: skip
    return ControlNetConfig(
        in_channels=_shape(shapes, "conv_in.weight")[1],
        conditioning_channels=first[1],
        conditioning_embedding_out_channels=(first[0], *channels),
        **_trunk(shapes, skeleton, size_width),
    )


def autoencoder_config(
    shapes: Shapes, sample_size: int, scaling_factor: float
) -> AutoencoderConfig:
    """The shape of an autoencoder.

    Args:
      shapes: of its tensors.
      sample_size: height and width, in pixels, of what it was trained on.
      scaling_factor: what its latents are multiplied by.

    Raises:
      UserError: tensors are missing.
    """
    levels = _count(shapes, r"encoder\.down_blocks\.(\d+)\.")
    channels = tuple(
        _shape(shapes, f"encoder.down_blocks.{level}.resnets.0.conv1.weight")[0]
        for level in range(levels)
    )
    return AutoencoderConfig(
        sample_size=sample_size,
        in_channels=_shape(shapes, "encoder.conv_in.weight")[1],
        out_channels=_shape(shapes, "decoder.conv_out.weight")[0],
        latent_channels=_shape(shapes, "decoder.conv_in.weight")[1],
        block_out_channels=channels,
        layers_per_block=_count(shapes, r"encoder\.down_blocks\.0\.resnets\.(\d+)\."),
        norm_num_groups=_groups(channels),
        scaling_factor=scaling_factor,
        mid_block_add_attention="encoder.mid_block.attentions.0.to_q.weight" in shapes,
        use_quant_conv="quant_conv.weight" in shapes,
        use_post_quant_conv="post_quant_conv.weight" in shapes,
    )


def text_config(
    shapes: Shapes, *, act: str, layers: int, projects: bool = False
) -> TextEncoderConfig:
    """The shape of a text encoder.

    Args:
      shapes: of its tensors, without "text_model.".
      act: quick_gelu (OpenAI's CLIP) or gelu (OpenCLIP).
      layers: how many are used.
      projects: whether its projection is used.

    Raises:
      UserError: tensors are missing.
    """
    vocabulary, width = _shape(shapes, "embeddings.token_embedding.weight")
    return TextEncoderConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=_shape(shapes, "encoder.layers.0.mlp.fc1.weight")[0],
        num_hidden_layers=layers,
        num_attention_heads=_heads(width),
        max_position_embeddings=_shape(shapes, "embeddings.position_embedding.weight")[0],
        hidden_act=act,
        eos_token_id=vocabulary - 1,
        projection_dim=_shape(shapes, "text_projection.weight")[0] if projects else None,
    )


def _trunk(shapes: Shapes, skeleton: Skeleton, size_width: int) -> dict[str, object]:
    """What a UNet and a ControlNet have in common."""
    levels = range(len(skeleton.down))
    channels = tuple(
        _shape(shapes, f"down_blocks.{level}.resnets.0.conv1.weight")[0] for level in levels
    )
    places = [_attention(shapes, skeleton, level) for level in levels]
    first = next((place for place in places if place is not None), None)
    if first is None:
        raise UserError("a UNet without attention to text is not supported")
    width = _shape(shapes, f"{first}.transformer_blocks.0.attn2.to_k.weight")[1]
    linear = len(_shape(shapes, f"{first}.proj_in.weight")) == 2
    narrow = linear and "class_embedding.weight" not in shapes
    depths = [_depth(shapes, place) for place in places if place is not None]
    other = depths[0] if len(set(depths)) == 1 else 1  # where there is nothing to be deep
    depth = iter(depths)
    only = [_crosses_only(shapes, skeleton, level, channels[level]) for level in levels]
    config = {
        "down_block_types": tuple(
            "CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in skeleton.down
        ),
        "block_out_channels": channels,
        "layers_per_block": skeleton.layers,
        "cross_attention_dim": width,
        "attention_head_dim": tuple(map(_heads, channels)) if narrow else _HEADS,
        "transformer_layers_per_block": _scalar([next(depth) if p else other for p in places]),
        "only_cross_attention": _scalar(only),
        "norm_num_groups": _groups(channels),
        "use_linear_projection": linear,
    }
    added = _shape(shapes, "add_embedding.linear_1.weight", optional=True)
    if added:
        config["addition_embed_type"] = "text_time"
        config["addition_time_embed_dim"] = size_width
        config["projection_class_embeddings_input_dim"] = added[1]
    return config


def _attention(shapes: Shapes, skeleton: Skeleton, level: int) -> str | None:
    """The name of a transformer of a level, the middle block counted as the coarsest."""
    if skeleton.down[level]:
        return f"down_blocks.{level}.attentions.0"
    if skeleton.up and skeleton.up[-1 - level]:
        return f"up_blocks.{len(skeleton.up) - 1 - level}.attentions.0"
    middle = "mid_block.attentions.0"
    coarsest = level == len(skeleton.down) - 1 and f"{middle}.proj_in.weight" in shapes
    return middle if coarsest else None


def _depth(shapes: Shapes, place: str) -> int:
    return _count(shapes, re.escape(place) + r"\.transformer_blocks\.(\d+)\.")


def _crosses_only(shapes: Shapes, skeleton: Skeleton, level: int, channels: int) -> bool:
    """Whether the first attention, too, is over the text; one as wide as the level is not."""
    if not skeleton.down[level]:
        return False
    block = f"down_blocks.{level}.attentions.0.transformer_blocks.0"
    return _shape(shapes, f"{block}.attn1.to_k.weight")[1] != channels


def _heads(width: int) -> int:
    return max(1, width // _HEAD_WIDTH)


def _groups(channels: Collection[int]) -> int:
    common = math.gcd(*channels)
    return min(_GROUPS, common & -common)


def _scalar(values: list) -> object:
    """One value where all are equal, else all of them."""
    return values[0] if len(set(values)) == 1 else tuple(values)


def _count(shapes: Shapes, pattern: str) -> int:
    """How many numbers 0, 1, ... the names have where the pattern has its group."""
    found = {int(match[1]) for name in shapes if (match := re.match(pattern, name))}
    return len(found)


def _shape(shapes: Shapes, name: str, optional: bool = False) -> tuple[int, ...]:
    """The shape of a tensor; () for an optional one that is missing."""
    if name not in shapes and not optional:
        raise UserError(f"the tensor {name} is missing")
    return tuple(shapes.get(name, ()))
