"""From a run's config to its objective."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxdiff.data.sources import Source
from jaxdiff.training.autoencoder import autoencoder_objective
from jaxdiff.training.config import AutoencoderObjective, TrainConfig
from jaxdiff.training.objective import Objective

SAMPLES = 512


def make_objective(config: TrainConfig, source: Source, workdir: Path) -> Objective:
    """The objective that `config.objective` describes.

    Args:
      config: the run.
      source: its data: captions for a tokenizer, pictures for previews.
      workdir: where a tokenizer that is trained here is kept.
    """
    dtype = jnp.dtype(config.dtype)
    if isinstance(config.objective, AutoencoderObjective):
        return autoencoder_objective(config.objective, dtype, sample_images(source, SAMPLES))
    from jaxdiff.training.diffusion import diffusion_objective

    return diffusion_objective(config.objective, config, source, dtype, workdir)


def sample_images(source: Source, count: int) -> np.ndarray:
    """Pictures spread evenly over a source, uint8 [N, R, R, 3], N at most `count`."""
    indices = np.linspace(0, len(source) - 1, min(count, len(source))).astype(int)
    return np.stack([source[int(i)]["image"] for i in indices])
