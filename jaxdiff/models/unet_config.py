"""The shape of a UNet; its fields are those of a checkpoint's `unet/config.json`.

How the families differ from Stable Diffusion 1.x:

    2.x          attention_head_dim (5, 10, 20, 20), cross_attention_dim 1024, linear projections
    XL, refiner  addition_embed_type "text_time", transformer_layers_per_block
    inpainting   in_channels 9: latents, mask, latents of the masked picture
    x4 upscaler  in_channels 7: latents, small picture; num_class_embeds, only_cross_attention
    LCM          time_cond_proj_dim 256
    BK-SDM       layers_per_block 1; small and tiny: mid_block_type None
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from jaxdiff.errors import UserError, choose
from jaxdiff.models.attention import KERNELS
from jaxdiff.models.checks import require_groups, require_positive

Remat = Literal["none", "products", "blocks"]
"""What a backward pass computes again: nothing, all but products and convolutions, all."""

MID_BLOCK = "UNetMidBlock2DCrossAttn"

_BLOCK_TYPES = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}
_PER_LEVEL = ("attention_head_dim", "transformer_layers_per_block", "only_cross_attention")
_AT_LEAST_ONE = (
    "sample_size",
    "in_channels",
    "out_channels",
    "layers_per_block",
    "cross_attention_dim",
)


@dataclass(frozen=True)
class UNetConfig:
    """The shape of a UNet; defaults are Stable Diffusion 1.x."""

    sample_size: int = 64
    """Height and width, in latent pixels, of what it was trained on."""
    in_channels: int = 4
    """Channels in."""
    out_channels: int = 4
    """Channels out."""
    down_block_types: tuple[str, ...] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    """Per level, finest first: with text attention (CrossAttnDownBlock2D) or without."""
    mid_block_type: str | None = MID_BLOCK
    """The block below the coarsest level, or None for no such block (BK-SDM small and tiny)."""
    up_block_types: tuple[str, ...] = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    """Per level, coarsest first."""
    only_cross_attention: bool | tuple[bool, ...] = False
    """Whether the first attention of a transformer, too, is over the text: for all levels or each;
    the middle block's is over the picture in any case."""
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    """Channels of each level."""
    layers_per_block: int = 2
    """Residual blocks of a level on the way down; one more on the way up."""
    cross_attention_dim: int = 768
    """Width of the text encoder's output."""
    attention_head_dim: int | tuple[int, ...] = 8
    """Number of attention heads, of all levels or of each. (Checkpoints have always called the
    number of heads by this name.)"""
    transformer_layers_per_block: int | tuple[int, ...] = 1
    """Depth of the transformers, of all levels or of each."""
    norm_num_groups: int = 32
    """Groups of the group norms."""
    norm_eps: float = 1e-5
    """Epsilon of the residual blocks' group norms."""
    use_linear_projection: bool = False
    """Whether a checkpoint stores the transformers' projections as matrices or 1x1 kernels."""
    upcast_attention: bool = False
    """Whether other libraries shall take attention's softmax in float32, as it always is here."""
    addition_embed_type: str | None = None
    """None, or "text_time": SDXL's pooled text and size conditioning."""
    addition_time_embed_dim: int | None = None
    """Width of each embedded size (SDXL: 256)."""
    projection_class_embeddings_input_dim: int | None = None
    """Width of pooled text and embedded sizes together (SDXL: 2816, its refiner: 2560)."""
    num_class_embeds: int | None = None
    """Classes with an embedding of their own (the x4 upscaler: 1000 noise levels), or None."""
    time_cond_proj_dim: int | None = None
    """Width of the embedded guidance scale (LCM: 256), or None."""
    dropout: float = 0.0
    """Dropout rate in the residual blocks while training."""
    remat: Remat = "none"
    """What the backward pass computes again instead of finding it stored: nothing, all but the
    results of products and convolutions, or whole blocks; less memory, more time."""
    attention: str = "auto"
    """Attention kernel: auto, einsum, blocked, cudnn or splash."""

    def __post_init__(self) -> None:
        """Refuse levels that do not match, and numbers that make no network."""
        self._check_levels()
        choose("unet.attention", self.attention, ("auto", *KERNELS))
        choose("unet.remat", self.remat, get_args(Remat))
        if self.mid_block_type is not None:
            choose("mid_block_type", self.mid_block_type, (MID_BLOCK,))
        if self.addition_embed_type is not None:
            choose("addition_embed_type", self.addition_embed_type, ("text_time",))
        if not 0 <= self.dropout < 1:
            raise UserError(f"UNet config: dropout={self.dropout} is not in [0, 1)")
        if (self.addition_embed_type is not None) and not (
            self.addition_time_embed_dim and self.projection_class_embeddings_input_dim
        ):
            raise UserError(
                "UNet config: addition_embed_type needs addition_time_embed_dim and "
                "projection_class_embeddings_input_dim"
            )
        width = self.time_cond_proj_dim
        if width is not None and (width < 4 or width % 2):
            raise UserError(f"UNet config: time_cond_proj_dim={width} must be even and at least 4")
        classes = ("num_class_embeds",) if self.num_class_embeds is not None else ()
        require_positive("UNet config", self, (*_AT_LEAST_ONE, *classes))
        require_groups("UNet config", self.block_out_channels, self.norm_num_groups)
        for level in self._attending():
            heads, channels = self.heads(level), self.block_out_channels[level]
            if heads < 1 or channels % heads or self.depth(level) < 1:
                raise UserError(
                    f"UNet config: level {level} has {heads} heads (attention_head_dim) and "
                    f"{self.depth(level)} transformer layers for {channels} channels; heads must "
                    "divide the channels, and there is at least one layer"
                )

    def _check_levels(self) -> None:
        """Refuse lists that are not one per level, and blocks of unknown types."""
        levels = len(self.block_out_channels)
        for name, kinds in _BLOCK_TYPES.items():
            if len(getattr(self, name)) != levels:
                raise UserError(
                    f"UNet config: {name} has {len(getattr(self, name))} entries, "
                    f"block_out_channels has {levels}; give one per level"
                )
            for kind in getattr(self, name):
                choose(f"{name} entry", kind, kinds)
        for name in _PER_LEVEL:
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != levels:
                raise UserError(f"UNet config: {name} needs {levels} entries, got {len(value)}")

    def _attending(self) -> set[int]:
        """Levels with text attention; the coarsest has it in the middle block, if there is one."""
        last = len(self.block_out_channels) - 1
        down = {i for i, kind in enumerate(self.down_block_types) if kind.startswith("Cross")}
        up = {last - i for i, kind in enumerate(self.up_block_types) if kind.startswith("Cross")}
        return down | up | ({last} if self.mid_block_type is not None else set())

    def heads(self, level: int) -> int:
        """Attention heads of a level."""
        return _at(self.attention_head_dim, level)

    def depth(self, level: int) -> int:
        """Transformer blocks of a level's attention."""
        return _at(self.transformer_layers_per_block, level)

    def crosses_only(self, level: int) -> bool:
        """Whether both attentions of a level's transformers are over the text."""
        return _at(self.only_cross_attention, level)


def _at(value: Any, level: int) -> Any:
    """The value of a level, where one of all levels may stand for a list."""
    return value[level] if isinstance(value, tuple) else value
