"""CLIP, both towers, as `transformers.CLIPModel` stores it: `config.json`, `model.safetensors`.

Beside them lie the tokenizer's files. The first configurations of CLIP were written with all that
any language model may be told; what says nothing of the networks' shapes is left unread.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from jaxdiff.convert.configs import mend_end_token
from jaxdiff.convert.layout import LoadTokenizer
from jaxdiff.convert.merge import Params, from_torch, to_torch
from jaxdiff.convert.replacing import replace_directory, require_writable
from jaxdiff.convert.tensors import Tensor, open_tensors, read_json, write_json, write_tensors
from jaxdiff.convert.weight_files import weight_files
from jaxdiff.errors import UserError, typed_fields
from jaxdiff.models import TextEncoderConfig, VisionEncoderConfig, parameter_shapes

Config = TypeVar("Config", TextEncoderConfig, VisionEncoderConfig)

STEM = "model"
_CLASS, _KIND = "CLIPModel", "CLIP directory"
_PROJECTION = 512

# What a configuration that leaves a field out means: transformers' defaults, CLIP ViT-B/32.
_TEXT = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
_VISION: dict[str, Any] = {}  # the dataclass has the same

# Tensors of the file by the part that they belong to.
_PARTS = {
    "text": ("text_model.", "text_projection."),
    "vision": ("vision_model.", "visual_projection."),
}
_SCALE = "logit_scale"


class Clip(NamedTuple):
    """Two towers that embed texts and pictures alike."""

    text: TextEncoderConfig
    text_params: Params
    vision: VisionEncoderConfig
    vision_params: Params
    logit_scale: float
    """The logarithm of the factor that cosines were trained with."""
    tokenizer: Any = None
    """None where none was asked for."""


def load_clip(folder: str | Path, load_tokenizer: LoadTokenizer | None = None) -> Clip:
    """Read both towers, and the tokenizer if `load_tokenizer` says how.

    Raises:
      UserError: a file is missing, damaged, a pickle, or of another network.
    """
    folder = Path(folder)
    text, vision = _read_configs(folder / "config.json")
    parts = _split(open_tensors(weight_files(folder, STEM)), folder)
    scale = float(np.asarray(parts[_SCALE][_SCALE]).reshape(()))
    read = {
        name: from_torch(parts[name], parameter_shapes(config), f"{folder}, its {name} tower,")
        for name, config in (("text", text), ("vision", vision))
    }
    tokenizer = load_tokenizer(folder) if load_tokenizer else None
    return Clip(text, read["text"], vision, read["vision"], scale, tokenizer)


def save_clip(
    directory: str | Path,
    clip: Clip,
    dtype: DTypeLike | None = None,
    facts: dict[str, Any] | None = None,
) -> None:
    """Write what `load_clip` and `transformers.CLIPModel.from_pretrained` read, whole or not.

    Args:
      directory: its path; an older CLIP there is replaced.
      clip: both towers, and the tokenizer if there is one.
      dtype: of the weights; None keeps each one's own.
      facts: JSON values of how it was trained, for `training.json`.

    Raises:
      UserError: there is something else, it cannot be written, or a weight does not fit `dtype`.
    """

    def write(folder: Path) -> None:
        write_json(folder / "config.json", _config(clip))
        tensors = to_torch(clip.text_params, prefix="text_model.")
        for key, tensor in to_torch(clip.vision_params).items():
            tensors[key if key.startswith("visual_projection") else f"vision_model.{key}"] = tensor
        tensors[_SCALE] = np.array(clip.logit_scale, np.float32)
        write_tensors(folder / f"{STEM}.safetensors", tensors, dtype, keep=(_SCALE,))
        if clip.tokenizer is not None:
            clip.tokenizer.save(folder)
        if facts is not None:
            write_json(folder / "training.json", facts)

    replace_directory(directory, write, replaceable=_replaceable, kind=_KIND)


def check_clip_writable(directory: str | Path) -> None:
    """Raise what `save_clip` would, before there is one to save; writes nothing.

    Raises:
      UserError: there is something else than a CLIP, or it cannot be written.
    """
    require_writable(directory, _replaceable, _KIND)


def _replaceable(directory: Path) -> bool:
    """Whether a directory is a CLIP, or empty."""
    config = directory / "config.json"
    if not config.is_file():
        return not any(directory.iterdir())
    return read_json(config).get("model_type") == "clip"


def _config(clip: Clip) -> dict[str, Any]:
    """`config.json`."""
    text = dataclasses.asdict(clip.text) | {"model_type": "clip_text_model"}
    text |= {"bos_token_id": clip.text.eos_token_id - 1, "pad_token_id": clip.text.eos_token_id}
    return {
        "architectures": [_CLASS],
        "model_type": "clip",
        "projection_dim": clip.vision.projection_dim,
        "logit_scale_init_value": clip.logit_scale,
        "text_config": text,
        "vision_config": dataclasses.asdict(clip.vision) | {"model_type": "clip_vision_model"},
    }


def _read_configs(path: Path) -> tuple[TextEncoderConfig, VisionEncoderConfig]:
    content = read_json(path)
    if content.get("model_type") != "clip":
        raise UserError(f"{path}: model_type {content.get('model_type')!r} is not 'clip'")
    shared = {"projection_dim": content.get("projection_dim", _PROJECTION)}
    text = _tower(path, content, "text_config", TextEncoderConfig, _TEXT, shared)
    vision = _tower(path, content, "vision_config", VisionEncoderConfig, _VISION, shared)
    return text, vision


def _tower(
    path: Path,
    content: dict[str, Any],
    key: str,
    cls: type[Config],
    defaults: dict[str, Any],
    shared: dict[str, Any],
) -> Config:
    """A tower's configuration; `text_config_dict`, of the first files, counts before the other."""
    given = (content.get(key) or {}) | (content.get(f"{key}_dict") or {})
    names = {field.name for field in dataclasses.fields(cls)}
    known = {name: given[name] for name in names & given.keys() if given[name] is not None}
    mend_end_token(known)
    fields = typed_fields(cls, defaults | known | shared, f"{path}, {key}")
    try:
        return cls(**fields)
    except UserError as error:
        raise UserError(f"{path}, {key}: {error}") from error


def _split(tensors: dict[str, Tensor], folder: Path) -> dict[str, dict[str, Tensor]]:
    """The tensors of each tower, without what the tower's own class would not store."""
    parts: dict[str, dict[str, Tensor]] = {"text": {}, "vision": {}, _SCALE: {}}
    strange = []
    for key, tensor in tensors.items():
        owner = next((name for name, starts in _PARTS.items() if key.startswith(starts)), None)
        if owner is None and key != _SCALE:
            strange.append(key)
            continue
        parts[owner or _SCALE][key.removeprefix("vision_model.")] = tensor
    if strange or not parts[_SCALE]:
        what = f"holds {strange[0]}" if strange else f"lacks {_SCALE}"
        raise UserError(f"{folder} holds no {_CLASS}: it {what}; check that it is CLIP's weights")
    return parts
