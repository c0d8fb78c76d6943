"""A model written as one .safetensors file; see `single_file` for the layout."""

from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from jaxdiff.convert import single_file_vae as vae_file
from jaxdiff.convert.merge import to_torch
from jaxdiff.convert.model import Model, TextTower
from jaxdiff.convert.single_file_guess import V_MARKER, ZERO_SNR_MARKER
from jaxdiff.convert.single_file_header import model_header
from jaxdiff.convert.single_file_names import UNET_PREFIX, renamed, skeleton, unet_names
from jaxdiff.convert.single_file_text import TEXT_MODEL, to_open_clip
from jaxdiff.convert.tensors import Tensor, require_safetensors, write_tensors
from jaxdiff.errors import UserError

_MARKERS = {V_MARKER, ZERO_SNR_MARKER}


def save_single_file(path: str | Path, model: Model, dtype: DTypeLike | None = np.float16) -> None:
    """Write a model as one file, whole or not at all; an old file of that name is replaced.

    Args:
      path: ends in .safetensors.
      model: what to write.
      dtype: of the weights; None keeps that of the parameters.

    Raises:
      UserError: the file cannot be written, a parameter does not fit `dtype`, or no file format
        describes the model's noise or text encoder.
    """
    model.require_clip("a single file")
    path, linear = require_safetensors(path), model.unet_config.use_linear_projection
    names = unet_names(skeleton(model.unet_config))
    unet = to_torch(model.unet_params, linear_projection=linear)
    vae = vae_file.to_single_file(to_torch(model.vae_params), model.vae_config)
    markers = _markers(model)
    unused = {name: array for name, array in model.unused.items() if name not in _MARKERS}
    tensors: dict[str, Tensor] = unused | markers
    tensors |= {UNET_PREFIX + (renamed(key, names) or key): unet[key] for key in unet}
    tensors |= {vae_file.PREFIX + key: array for key, array in vae.items()}
    for tower in model.text:
        tensors |= _tower_tensors(tower, model.family)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, tensors, dtype, model_header(model), keep={*unused, *markers})
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


def _markers(model: Model) -> dict[str, Tensor]:
    """The empty tensors that tell of the noise: SDXL's, and of others whose file had them."""
    if model.noise.prediction != "v":
        return {}
    names = [V_MARKER] if model.family.startswith("sdxl") or V_MARKER in model.unused else []
    names += [ZERO_SNR_MARKER] if names and model.noise.zero_terminal_snr else []
    return {name: model.unused.get(name, np.zeros(0, np.float32)) for name in names}


def _tower_tensors(tower: TextTower, family: str) -> dict[str, Tensor]:
    """The tensors of a text encoder, where and as a single file of the family has them."""
    tensors = to_torch(tower.params, prefix=TEXT_MODEL)
    second = tower.name == "text_encoder_2"
    if family.startswith("sdxl"):
        prefix = f"conditioner.embedders.{int(second and 'refiner' not in family)}."
        open_clip = second
    else:
        prefix, open_clip = "cond_stage_model.", tower.config.hidden_act == "gelu"
    if not open_clip:
        return {f"{prefix}transformer.{key}": array for key, array in tensors.items()}
    named = to_open_clip(tensors, tower.config.num_hidden_layers)
    return {f"{prefix}model.{key}": tensor for key, tensor in named.items()}
