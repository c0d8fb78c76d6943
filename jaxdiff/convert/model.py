"""A model in memory: the networks with their parameters, the tokenizers and the noise."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jaxdiff.convert.merge import Params
from jaxdiff.convert.scheduler import NoiseConfig
from jaxdiff.errors import UserError
from jaxdiff.models import (
    AutoencoderConfig,
    SentenceEncoderConfig,
    TextEncoderConfig,
    UNetConfig,
    count_parameters,
)

_COLOURS = 3  # channels of the picture that an upscaler is given


class TextTower(NamedTuple):
    """One text encoder and its tokenizer."""

    name: str
    """Its folder: `text_encoder`, or `text_encoder_2` for SDXL's OpenCLIP."""
    config: TextEncoderConfig | SentenceEncoderConfig
    """Its shape: in CLIP's form, or a BERT's."""
    params: Params
    """Its parameters."""
    tokenizer: Any
    """Anything with `save(directory)`; None leaves the folder out."""


@dataclass(frozen=True)
class Model:
    """Everything that a checkpoint holds; parameters are numpy or jax arrays."""

    unet_config: UNetConfig
    unet_params: Params
    vae_config: AutoencoderConfig
    vae_params: Params
    text: tuple[TextTower, ...]
    """Stable Diffusion 1 and 2: one; SDXL: two; SDXL's refiner: one, named text_encoder_2."""
    noise: NoiseConfig
    meta: dict[str, Any] = field(default_factory=dict)
    """What the model says of itself (`jaxdiff.json`); JSON values."""
    zero_empty_prompt: bool = False
    """Whether an empty negative prompt is encoded as zeros (SDXL base)."""
    low_res_noise: NoiseConfig | None = None
    """Upscalers: the noise that is put on the small picture."""
    max_noise_level: int = 350
    """Upscalers: the highest level of that noise."""
    notes: tuple[str, ...] = ()
    """What was assumed on loading, where a file does not say; for the user to read."""
    unused: dict[str, Any] = field(default_factory=dict)
    """Tensors of a single file that no network needs, kept for writing it again."""

    def __post_init__(self) -> None:
        """Refuse parts that do not fit each other."""
        unet, latents = self.unet_config, self.vae_config.latent_channels
        known = {latents, 2 * latents + 1, latents + _COLOURS}
        if unet.out_channels != latents or unet.in_channels not in known:
            raise UserError(
                f"the parts do not fit: the UNet has {unet.in_channels} channels in and "
                f"{unet.out_channels} out, the autoencoder's latents {latents}"
            )
        widths = [tower.config.hidden_size for tower in self.text]
        if unet.cross_attention_dim != sum(widths):
            raise UserError(
                f"the parts do not fit: the UNet's cross_attention_dim is "
                f"{unet.cross_attention_dim}, the text encoder's hidden_size "
                f"{' + '.join(map(str, widths)) or 'missing'}"
            )
        self._check_pooled()
        for tower in self.text:
            _check_tokenizer(tower)

    def _check_pooled(self) -> None:
        """Refuse an SDXL UNet whose pooled text and embedded sizes are of other widths."""
        if self.unet_config.addition_embed_type is None:
            return
        pooled, width = (
            getattr(self.text[-1].config, "projection_dim", None),
            self.unet_config.addition_time_embed_dim,
        )
        expected = self.unet_config.projection_class_embeddings_input_dim
        if pooled is None or pooled + self.num_sizes * width != expected:
            raise UserError(
                f"the parts do not fit: the UNet's projection_class_embeddings_input_dim is "
                f"{expected}, not the text encoder's projection_dim {pooled} + {self.num_sizes} "
                f"times addition_time_embed_dim {width}"
            )

    @property
    def num_parameters(self) -> int:
        """Of all networks."""
        towers = [tower.params for tower in self.text]
        return count_parameters((self.unet_params, self.vae_params, towers))

    @property
    def num_sizes(self) -> int:
        """Numbers in the size conditioning: original size, crop and target size, or the score."""
        return 5 if self.family.startswith("sdxl-refiner") else 6

    def require_family(self, *families: str, task: str) -> None:
        """Refuse a model of another family.

        Args:
          *families: as `family` calls them, such as "sd".
          task: what they are needed for, for the message.

        Raises:
          UserError: the model is of another family.
        """
        if self.family not in families:
            raise UserError(
                f"{task} needs a model of the family {' or '.join(families)}; this one's is "
                f"{self.family}"
            )

    @property
    def reads_bert(self) -> bool:
        """Whether its text encoder is a BERT."""
        return any(isinstance(tower.config, SentenceEncoderConfig) for tower in self.text)

    def require_clip(self, task: str) -> None:
        """Refuse a model whose text encoder is a BERT.

        Raises:
          UserError: it is; `task` says what needs another.
        """
        if self.reads_bert:
            raise UserError(f"{task} needs a text encoder in CLIP's form; this model's is a BERT")

    @property
    def family(self) -> str:
        """What kind of model this is, by its shapes.

        `sd`, `sdxl` or `sdxl-refiner`; with `-inpaint` where the UNet is given a mask and a masked
        picture's latents too (2 Z + 1 channels), `-upscale` where it is given a picture (Z + 3).
        """
        latents, given = self.vae_config.latent_channels, self.unet_config.in_channels
        task = {2 * latents + 1: "-inpaint", latents + _COLOURS: "-upscale"}.get(given, "")
        if self.unet_config.addition_embed_type is None:
            return f"sd{task}"
        if len(self.text) > 1:
            return f"sdxl{task}"
        return f"sdxl-refiner{task}"


def _check_tokenizer(tower: TextTower) -> None:
    """Refuse a tokenizer of another kind, or whose ids or lengths have no embedding."""
    kind = "bert" if isinstance(tower.config, SentenceEncoderConfig) else "clip"
    given = getattr(tower.tokenizer, "kind", kind)
    if given != kind:
        raise UserError(
            f"the parts do not fit: {tower.name} is of the kind {kind}, its tokenizer of the kind "
            f"{given}"
        )
    for theirs, ours in (("vocab_size", "vocab_size"), ("max_length", "max_position_embeddings")):
        given, room = getattr(tower.tokenizer, theirs, 0), getattr(tower.config, ours)
        if given > room:
            raise UserError(
                f"the parts do not fit: the tokenizer's {theirs} is {given}, the text "
                f"encoder's {ours} {room}"
            )
