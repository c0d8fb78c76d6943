"""`config.json` of a part, in and out; what this library does not do is refused, not ignored."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from jaxdiff.convert.tensors import read_json, write_json
from jaxdiff.errors import UserError, typed_fields
from jaxdiff.models import AutoencoderConfig, ControlNetConfig, TextEncoderConfig, UNetConfig

Config = UNetConfig | AutoencoderConfig | TextEncoderConfig | ControlNetConfig

LIBRARY_VERSION = "0.35.0"  # the version of diffusers whose files these are

_CLIP_IDS = 49408  # of CLIP's own vocabulary

ANY = object()
"""In a table of implied values: of no consequence here."""


class Architecture(NamedTuple):
    """How one part's `config.json` relates to a configuration here."""

    config: type
    """Our dataclass; its fields are keys of the file."""
    class_key: str
    """Key of the class name."""
    class_names: tuple[str, ...]
    """Classes that are read; the first one is written."""
    implied: dict[str, Any]
    """Other keys: the value that this library implements, or `ANY`."""
    own: tuple[str, ...] = ()
    """Our fields that are no keys of the file."""
    nullable: tuple[str, ...] = ()
    """Keys whose null means what it says; elsewhere it stands for the default."""


UNET = Architecture(
    UNetConfig,
    "_class_name",
    ("UNet2DConditionModel",),
    {
        "act_fn": "silu",
        "addition_embed_type_num_heads": ANY,
        "attention_type": "default",
        "conv_in_kernel": 3,
        "conv_out_kernel": 3,
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "mid_block_only_cross_attention": ANY,  # another type of middle block's
        "mid_block_scale_factor": 1,
        "resnet_out_scale_factor": 1.0,
        "resnet_time_scale_shift": "default",
        "time_embedding_type": "positional",
    },
    own=("remat", "attention"),
    nullable=("mid_block_type",),
)

CONTROLNET = Architecture(
    ControlNetConfig,
    "_class_name",
    ("ControlNetModel",),
    {
        "act_fn": "silu",
        "addition_embed_type_num_heads": ANY,
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "resnet_time_scale_shift": "default",
    },
    own=("remat", "attention"),
)

AUTOENCODER = Architecture(
    AutoencoderConfig,
    "_class_name",
    ("AutoencoderKL",),
    {
        "act_fn": "silu",
        "down_block_types": ANY,  # checked in _translate
        "shift_factor": 0,
        "up_block_types": ANY,
    },
)

TEXT_ENCODER = Architecture(
    TextEncoderConfig,
    "architectures",
    ("CLIPTextModel", "CLIPTextModelWithProjection"),
    {
        "attention_dropout": ANY,
        "bos_token_id": ANY,
        "dropout": ANY,
        "dtype": ANY,
        "initializer_factor": ANY,
        "initializer_range": ANY,
        "model_type": "clip_text_model",
        "pad_token_id": ANY,
        "torch_dtype": ANY,
        "transformers_version": ANY,
    },
)

ARCHITECTURES = (UNET, CONTROLNET, AUTOENCODER, TEXT_ENCODER)

_AUTOENCODER_BLOCKS = {
    "down_block_types": "DownEncoderBlock2D",
    "up_block_types": "UpDecoderBlock2D",
}


def read_config(path: Path, architecture: Architecture) -> Config:
    """Read a part's `config.json`.

    Raises:
      UserError: it is missing or unreadable, names another class, or asks for something that is
        not implemented.
    """
    content = read_json(path)
    name = content.get(architecture.class_key)
    name = name[0] if isinstance(name, list) and name else name
    if name not in architecture.class_names:
        raise UserError(
            f"{path}: class {name!r} is not supported; expected {architecture.class_names[0]}"
        )
    content = _translate(content, name, path)
    known = {field.name for field in dataclasses.fields(architecture.config)}
    known -= set(architecture.own)
    for key, value in content.items():
        if key not in known and not key.startswith("_") and key != architecture.class_key:
            require_implied(key, value, architecture.implied, str(path))
    given = {
        key: content[key]
        for key in known & content.keys()
        if content[key] is not None or key in architecture.nullable
    }
    fields = typed_fields(architecture.config, given, str(path))
    try:
        return architecture.config(**fields)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def write_config(path: Path, config: Config) -> None:
    """Write a part's `config.json`, with the implied values spelled out."""
    architecture = next(a for a in ARCHITECTURES if type(config) is a.config)
    content = dataclasses.asdict(config) | {
        key: value for key, value in architecture.implied.items() if value is not ANY
    }
    for name in architecture.own:
        del content[name]
    if isinstance(config, TextEncoderConfig):
        projects = config.projection_dim is not None
        content["architectures"] = [architecture.class_names[projects]]
        content["projection_dim"] = config.projection_dim or config.hidden_size
        content["pad_token_id"] = config.eos_token_id
        content["bos_token_id"] = config.eos_token_id - 1
        content["dtype"] = "float32"  # else transformers 5 computes in the float16 stored
    else:
        content |= {
            "_class_name": architecture.class_names[0],
            "_diffusers_version": LIBRARY_VERSION,
        }
    if isinstance(config, AutoencoderConfig):
        levels = len(config.block_out_channels)
        content |= {key: [block] * levels for key, block in _AUTOENCODER_BLOCKS.items()}
    write_json(path, content)


def _translate(content: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    """Undo what a file says other than by the value of a field."""
    content = dict(content)
    if name == "CLIPTextModel":
        content.pop("projection_dim", None)  # written, but not a part of this class
    if name.startswith("CLIP"):
        mend_end_token(content)
    for key in ("layers_per_block", "cross_attention_dim"):  # one number per level, if all agree
        value = content.get(key)
        if isinstance(value, list) and len(set(value)) == 1:
            content[key] = value[0]
        elif isinstance(value, list):
            raise UserError(f"{path}: {key}={value} is not supported; only one for all levels is")
    if name == "AutoencoderKL":
        for key, block in _AUTOENCODER_BLOCKS.items():
            if set(content.get(key, [block])) != {block}:
                raise UserError(f"{path}: {key} {content[key]} is not supported; only {block} is")
    return content


def mend_end_token(content: dict[str, Any]) -> None:
    """Put the end token's id where an old configuration of a text encoder says 2.

    It means the highest id (transformers#24773) that is no added token.
    """
    if content.get("eos_token_id") == 2:
        content["eos_token_id"] = min(content.get("vocab_size", _CLIP_IDS), _CLIP_IDS) - 1


def require_implied(key: str, value: Any, implied: dict[str, Any], source: str) -> None:
    """Refuse an option whose value is not the one implemented here.

    None asks for nothing, nor does False where True is not implied.

    Args:
      key: the option.
      value: what a file says of it.
      implied: option -> the value implemented here, or `ANY`.
      source: the file, for the message.

    Raises:
      UserError: it asks for something else, or is unknown.
    """
    expected = implied.get(key)
    if value is None or expected is ANY or (value is False and expected is not True):
        return
    if value != expected:
        only = f"; only {expected!r} is" if expected is not None else ""
        raise UserError(f"{source}: {key}={value!r} is not supported{only}")
