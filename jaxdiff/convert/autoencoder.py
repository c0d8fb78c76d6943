"""The autoencoder's part of a model directory alone: trained into, and latents taken from."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff.convert.configs import AUTOENCODER, read_config, write_config
from jaxdiff.convert.merge import Params, from_torch, parameter_shapes, to_torch
from jaxdiff.convert.tensors import open_tensors, write_json, write_tensors
from jaxdiff.convert.weight_files import DIFFUSERS_STEM, weight_files
from jaxdiff.errors import UserError
from jaxdiff.models import AutoencoderConfig


def load_autoencoder(directory: str | Path) -> tuple[AutoencoderConfig, Params]:
    """Configuration and parameters of `directory`/vae.

    Raises:
      UserError: a file is missing, truncated, of another architecture or of other shapes.
    """
    part = Path(directory) / "vae"
    if not part.is_dir():
        raise UserError(f"{directory} holds no autoencoder (no folder vae/); train one first")
    config = read_config(part / "config.json", AUTOENCODER)
    tensors = open_tensors(weight_files(part, DIFFUSERS_STEM))
    return config, from_torch(tensors, parameter_shapes(config), str(part))


def save_autoencoder(
    directory: str | Path,
    config: AutoencoderConfig,
    params: Params,
    *,
    scaling_factor: float,
    facts: dict[str, Any],
    dtype: Any = np.float16,
) -> None:
    """Write `directory`/vae: configuration, weights, and `training.json` with how it was made.

    Args:
      directory: a model directory, or one to be.
      config: the autoencoder's shape.
      params: its parameters.
      scaling_factor: one over the standard deviation of its latents.
      facts: JSON values.
      dtype: of the weights.
    """
    part = Path(directory) / "vae"
    try:
        part.mkdir(parents=True, exist_ok=True)
        write_tensors(part / f"{DIFFUSERS_STEM}.safetensors", to_torch(params), dtype)
        write_config(
            part / "config.json", dataclasses.replace(config, scaling_factor=scaling_factor)
        )
        write_json(part / "training.json", facts)
    except OSError as error:
        raise UserError(f"cannot write the autoencoder to {part}: {error}") from error
