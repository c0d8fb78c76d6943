"""Names in a single file (latent diffusion's, those of A1111 and ComfyUI) and diffusers' names.

    model.diffusion_model.input_blocks.4.1.proj_in.bias   down_blocks.1.attentions.0.proj_in.bias

A network's table pairs the beginnings of names, diffusers' with the single file's; what follows is
the same in both. Only the numbers of levels and layers decide which blocks there are.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from jaxdiff.errors import UserError
from jaxdiff.models import ControlNetConfig, UNetConfig

Names = dict[str, str]
"""Beginning of a name in diffusers -> its counterpart in a single file."""

UNET_PREFIX = "model.diffusion_model."
CONTROLNET_PREFIX = "control_model."

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_TRUNK = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "time_embedding.cond_proj": "time_embed.cond_proj",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "class_embedding": "label_emb",
    "conv_in": "input_blocks.0.0",
    "mid_block.attentions.0": "middle_block.1",
}
_UNET_END = {"conv_norm_out": "out.0", "conv_out": "out.2"}


class Skeleton(NamedTuple):
    """What decides the names of a UNet's or ControlNet's blocks."""

    layers: int
    """Residual blocks of a level on the way down."""
    down: tuple[bool, ...]
    """Whether each level attends to text, finest first."""
    up: tuple[bool, ...]
    """The same on the way up, coarsest first; empty for a ControlNet."""
    hints: int = 0
    """Convolutions between the first and the last one of a ControlNet's picture."""


def renamed(name: str, names: Mapping[str, str]) -> str | None:
    """The name with its longest known beginning replaced; None if none is known.

    >>> renamed("out.0.weight", {"out": "x", "out.0": "y"})
    'y.weight'
    """
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        found = names.get(".".join(parts[:cut]))
        if found is not None:
            return ".".join([found, *parts[cut:]])
    return None


def inverted(names: Names) -> dict[str, str]:
    """Beginning of a name in a single file -> its counterpart in diffusers."""
    return {theirs: ours for ours, theirs in names.items()}


def below(names: Names, ours: str, theirs: str) -> Names:
    """The table of a part, below the names of one such part."""
    return {f"{ours}.{mine}": f"{theirs}.{yours}" for mine, yours in names.items()}


def single_file_key(key: str, config: UNetConfig) -> str:
    """A UNet's tensor in a single file, without `UNET_PREFIX`, by its name in diffusers.

    >>> single_file_key("down_blocks.1.attentions.0.proj_in.weight", UNetConfig())
    'input_blocks.4.1.proj_in.weight'
    """
    return renamed(key, unet_names(skeleton(config))) or key


def skeleton(config: UNetConfig | ControlNetConfig) -> Skeleton:
    """The skeleton of a configuration."""
    down = tuple(kind.startswith("CrossAttn") for kind in config.down_block_types)
    if isinstance(config, ControlNetConfig):
        hints = 2 * (len(config.conditioning_embedding_out_channels) - 1)
        return Skeleton(config.layers_per_block, down, (), hints)
    up = tuple(kind.startswith("CrossAttn") for kind in config.up_block_types)
    return Skeleton(config.layers_per_block, down, up)


def find_skeleton(keys: Collection[str], source: str) -> Skeleton:
    """The skeleton that the names of a UNet or ControlNet in a single file show.

    Args:
      keys: the names, without a prefix.
      source: the file, for the message.

    Raises:
      UserError: the levels are not all of the same make.
    """
    levels: list[list[bool]] = [[]]
    for i in range(1, len(keys)):
        if f"input_blocks.{i}.0.op.weight" in keys:
            levels.append([])
        elif f"input_blocks.{i}.0.in_layers.0.weight" in keys:
            levels[-1].append(f"input_blocks.{i}.1.norm.weight" in keys)
        else:
            break
    layers, ups = len(levels[0]), []
    for i in range(len(keys)):
        if f"output_blocks.{i}.0.in_layers.0.weight" not in keys:
            break
        if i % (layers + 1) == 0:
            ups.append([])
        ups[-1].append(f"output_blocks.{i}.1.norm.weight" in keys)
    even = all(len(level) == layers for level in levels)
    if not layers or not even or any(len(set(level)) > 1 for level in (*levels, *ups)):
        raise UserError(f"{source} is no UNet of Stable Diffusion: its levels differ in their make")
    hints = sum(f"input_hint_block.{2 * i}.weight" in keys for i in range(1, len(keys))) - 1
    return Skeleton(
        layers,
        tuple(level[0] for level in levels),
        tuple(level[0] for level in ups),
        max(hints, 0),
    )


def unet_names(skeleton: Skeleton) -> Names:
    """The names of a UNet's tensors."""
    names = _trunk_names(skeleton) | _UNET_END
    i = 0
    for up, attends in enumerate(skeleton.up):
        for j in range(skeleton.layers + 1):
            names |= below(_RESNET, f"up_blocks.{up}.resnets.{j}", f"output_blocks.{i}.0")
            if attends:
                names[f"up_blocks.{up}.attentions.{j}"] = f"output_blocks.{i}.1"
            i += 1
        sampler = f"output_blocks.{i - 1}.{1 + attends}.conv"
        names[f"up_blocks.{up}.upsamplers.0.conv"] = sampler
    return names


def controlnet_names(skeleton: Skeleton) -> Names:
    """The names of a ControlNet's tensors."""
    names = _trunk_names(skeleton)
    embedding, hint = "controlnet_cond_embedding", "input_hint_block"
    names |= {
        f"{embedding}.conv_in": f"{hint}.0",
        f"{embedding}.conv_out": f"{hint}.{2 * (skeleton.hints + 1)}",
        "controlnet_mid_block": "middle_block_out.0",
    }
    for i in range(skeleton.hints):
        names[f"{embedding}.blocks.{i}"] = f"{hint}.{2 * (i + 1)}"
    for i in range(len(skeleton.down) * (skeleton.layers + 1)):
        names[f"controlnet_down_blocks.{i}"] = f"zero_convs.{i}.0"
    return names


def _trunk_names(skeleton: Skeleton) -> Names:
    """What a UNet and a ControlNet have in common: everything to the middle block."""
    names, i, last = dict(_TRUNK), 1, len(skeleton.down) - 1
    for level, attends in enumerate(skeleton.down):
        for j in range(skeleton.layers):
            names |= below(_RESNET, f"down_blocks.{level}.resnets.{j}", f"input_blocks.{i}.0")
            if attends:
                names[f"down_blocks.{level}.attentions.{j}"] = f"input_blocks.{i}.1"
            i += 1
        if level < last:
            names[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{i}.0.op"
            i += 1
    for j in range(2):
        names |= below(_RESNET, f"mid_block.resnets.{j}", f"middle_block.{2 * j}")
    return names
