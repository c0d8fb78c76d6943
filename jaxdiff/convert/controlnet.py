"""A ControlNet, in and out: a folder with config.json and weights, or a single file.

control_model.input_blocks.*, zero_convs.*, input_hint_block.*     A1111's and ComfyUI's names
down_blocks.*, controlnet_down_blocks.*, ...                       diffusers', in a folder or file
"""

import re
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from jaxdiff.convert import hub
from jaxdiff.convert.configs import CONTROLNET, read_config, write_config
from jaxdiff.convert.merge import Params, from_torch, parameter_shapes, to_torch
from jaxdiff.convert.model import Model
from jaxdiff.convert.replacing import (
    replace_directory,
    require_writable,
    require_writable_file,
)
from jaxdiff.convert.single_file_header import packed, unpack
from jaxdiff.convert.single_file_names import (
    CONTROLNET_PREFIX,
    Skeleton,
    controlnet_names,
    find_skeleton,
    inverted,
    renamed,
    skeleton,
)
from jaxdiff.convert.single_file_shapes import controlnet_config
from jaxdiff.convert.tensors import (
    Stored,
    open_tensors,
    read_json,
    read_metadata,
    require_safetensors,
    write_tensors,
)
from jaxdiff.convert.weight_files import DIFFUSERS_STEM, weight_files
from jaxdiff.errors import UserError
from jaxdiff.models import ControlNetConfig

_CONFIG, _KIND = "config.json", "ControlNet's folder"
_THEIRS, _OURS = "input_hint_block.0.weight", "controlnet_cond_embedding.conv_in.weight"
# Files that change a UNet in other ways, by a tensor in them.
_REFUSED = {
    "lora_controlnet": "a Control-LoRA",
    "difference": "the difference of a ControlNet from its UNet",
    "task_embedding": "a ControlNet of many tasks",
}


def load_controlnet(
    where: str | Path, *, dtype: DTypeLike | None = np.float32, variant: str | None = None
) -> tuple[ControlNetConfig, Params]:
    """Load a ControlNet, tensor by tensor.

    Args:
      where: a folder, a single .safetensors file, or OWNER/NAME on the Hugging Face hub.
      dtype: of the parameters; None keeps each tensor's own.
      variant: of a folder's weight files, such as "fp16".

    Raises:
      UserError: a file is missing, truncated, a pickle, or no ControlNet.
    """
    place = hub.locate(where, variant)
    if place.is_file():
        config, tensors = _read_file(require_safetensors(place))
    else:
        config = read_config(place / _CONFIG, CONTROLNET)
        tensors = open_tensors(weight_files(place, DIFFUSERS_STEM, variant))
    return config, from_torch(tensors, parameter_shapes(config), str(place), dtype)


def save_controlnet(
    where: str | Path,
    config: ControlNetConfig,
    params: Params,
    dtype: DTypeLike | None = np.float16,
) -> None:
    """Write a ControlNet whole or not at all.

    Args:
      where: a folder or, where it ends in .safetensors, a single file with A1111's names.
      config: its shape.
      params: its parameters.
      dtype: of the weights; None keeps that of the parameters.

    Raises:
      UserError: `where` cannot be written or is something else, or a parameter does not fit.
    """
    tensors = to_torch(params, linear_projection=config.use_linear_projection)
    if Path(where).suffix:
        path, names = require_safetensors(where), controlnet_names(skeleton(config))
        named = {CONTROLNET_PREFIX + (renamed(key, names) or key): tensors[key] for key in tensors}
        header = packed(lambda folder: write_config(folder / _CONFIG, config))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_tensors(path, named, dtype, header)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
        return

    def write(staged: Path) -> None:
        write_config(staged / _CONFIG, config)
        write_tensors(staged / f"{DIFFUSERS_STEM}.safetensors", tensors, dtype)

    replace_directory(where, write, replaceable=_replaceable, kind=_KIND)


def check_controlnet(config: ControlNetConfig, model: Model, name: str) -> None:
    """Refuse a ControlNet that was made for another kind of model.

    Raises:
      UserError: the family, a width or a level differs; the message names the first.
    """
    kind = "sd" if config.addition_embed_type is None else "sdxl"
    model.require_family(kind, f"{kind}-inpaint", task=f"ControlNet {name}")
    unet = model.unet_config
    latents = model.vae_config.latent_channels
    wanted = {
        "cross_attention_dim": unet.cross_attention_dim,
        "block_out_channels": unet.block_out_channels,
        "layers_per_block": unet.layers_per_block,
        "in_channels": latents,
    }
    for field, value in wanted.items():
        if getattr(config, field) != value:
            raise UserError(
                f"ControlNet {name} does not fit this model ({model.family}): its {field} is "
                f"{getattr(config, field)}, the model's {value}; take one made for this model"
            )
    if config.downscale != model.vae_config.downscale:
        raise UserError(
            f"ControlNet {name} does not fit this model: it shrinks its picture {config.downscale} "
            f"times, the autoencoder {model.vae_config.downscale} times"
        )


def check_controlnet_writable(where: str | Path) -> None:
    """Raise what `save_controlnet` would, before there is one to save; writes nothing.

    Args:
      where: a folder or, where it ends in .safetensors, a single file.

    Raises:
      UserError: `where` is of the wrong kind, holds something else, or cannot be written.
    """
    if Path(where).suffix:
        require_writable_file(require_safetensors(where))
    else:
        require_writable(where, _replaceable, _KIND)


def is_controlnet(place: Path) -> bool:
    """Whether a folder or file is a ControlNet, by its class or by the names in it.

    Raises:
      UserError: the file is a pickle, truncated or no safetensors file.
    """
    if place.is_dir():
        path = place / _CONFIG
        return path.is_file() and read_json(path).get("_class_name") in CONTROLNET.class_names
    names = open_tensors([require_safetensors(place)])
    return not names.keys().isdisjoint((_THEIRS, CONTROLNET_PREFIX + _THEIRS, _OURS))


def _read_file(path: Path) -> tuple[ControlNetConfig, dict[str, Stored]]:
    """The shape of a ControlNet in a single file, and its tensors by diffusers' names."""
    tensors = open_tensors([path])
    for marker, kind in _REFUSED.items():
        if marker in tensors:
            raise UserError(
                f"{path} is {kind}, which is not supported; look for a whole ControlNet"
            )
    if any(name.startswith(CONTROLNET_PREFIX) for name in tensors):  # maybe beside a whole model
        tensors = {
            name.removeprefix(CONTROLNET_PREFIX): tensor
            for name, tensor in tensors.items()
            if name.startswith(CONTROLNET_PREFIX)
        }
    if _THEIRS in tensors:
        blocks = find_skeleton(tensors, str(path))
        names = inverted(controlnet_names(blocks))
        tensors = {renamed(name, names) or name: tensor for name, tensor in tensors.items()}
    elif _OURS in tensors:
        blocks = _find_skeleton(tensors)
    else:
        raise UserError(f"{path} is no ControlNet: it has neither {_THEIRS} nor {_OURS}")
    with tempfile.TemporaryDirectory() as folder:
        if unpack(read_metadata(path), Path(folder), str(path)):
            return read_config(Path(folder) / _CONFIG, CONTROLNET), tensors
    return _guess(tensors, blocks, path), tensors


def _guess(tensors: Mapping[str, Stored], blocks: Skeleton, path: Path) -> ControlNetConfig:
    try:
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        return controlnet_config(shapes, blocks)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _find_skeleton(names: Collection[str]) -> Skeleton:
    """The skeleton that diffusers' names show."""

    def count(pattern: str) -> int:
        return len({match[1] for name in names if (match := re.match(pattern, name))})

    levels = range(count(r"down_blocks\.(\d+)\."))
    attends = tuple(f"down_blocks.{level}.attentions.0.norm.weight" in names for level in levels)
    layers = count(r"down_blocks\.0\.resnets\.(\d+)\.")
    return Skeleton(layers, attends, (), count(r"controlnet_cond_embedding\.blocks\.(\d+)\."))


def _replaceable(directory: Path) -> bool:
    """Whether a folder is a ControlNet's or empty."""
    return not any(directory.iterdir()) or is_controlnet(directory)
