"""Models of the published shapes with random weights, for machines without files or torch."""

import dataclasses

import jax
import numpy as np

from benchmarks.families import FAMILIES
from jaxdiff.convert import Model, TextTower
from jaxdiff.data.tokenizer import Tokenizer
from jaxdiff.errors import choose
from jaxdiff.models import AutoencoderConfig, TextEncoderConfig, UNetConfig, parameter_shapes
from jaxdiff.pipelines.text_to_image import DTYPES
from jaxdiff.presets import PRESETS

PROMPT = "a lighthouse on a cliff at dusk, oil on canvas"
_SPREAD, _POOL = 0.02, 1 << 20

Params = dict
Config = UNetConfig | AutoencoderConfig | TextEncoderConfig


def random_model(family: str, dtype: str) -> Model:
    """A model of a family, its tokenizer one that knows little more than letters.

    Args:
      family: sd15, sd21 or sdxl.
      dtype: of its parameters.
    """
    published = FAMILIES[choose("family", family, FAMILIES)]
    method = PRESETS[family][1].objective.method
    unet = dataclasses.replace(method.unet, sample_size=published["latents"])
    vae = AutoencoderConfig(scaling_factor=published["scaling_factor"])
    tokenizer = Tokenizer.train([PROMPT], 540, max_length=77)
    projects = unet.addition_embed_type is not None
    towers = []
    for number, options in enumerate(published["text"]):
        last = number == len(published["text"]) - 1
        width = options["projection_dim"] if projects and last else None
        sizes = options | {"projection_dim": width, "eos_token_id": tokenizer.eos_id}
        config, name = TextEncoderConfig(**sizes), "text_encoder" + f"_{number + 1}" * (number > 0)
        towers.append(TextTower(name, config, weights(config, dtype), tokenizer))
    noise, meta = method.noise, {"name": f"random {family}"}
    parts = unet, weights(unet, dtype), vae, weights(vae, dtype)
    return Model(*parts, tuple(towers), noise, meta, zero_empty_prompt=projects)


def weights(config: Config, dtype: str) -> Params:
    """Parameters that repeat some random numbers: small, and about 1 for what scales."""
    kind = np.dtype(DTYPES[dtype])
    pool = (_SPREAD * np.random.default_rng(0).normal(size=_POOL)).astype(kind)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        values = np.resize(pool, leaf.shape)
        return values + kind.type(1) if path[-1].key == "scale" else values

    return jax.tree_util.tree_map_with_path(draw, parameter_shapes(config))
