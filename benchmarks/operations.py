"""Floating-point operations that a model needs, whatever way a platform goes about them.

Counted with plain convolutions and plain attention, nothing computed twice, so that a rate says how
much of the model is done in a second.

Axis legend: B pictures.
"""

import dataclasses
import functools
from typing import Any

import jax

from jaxdiff import target
from jaxdiff.pipelines.draw import draw
from jaxdiff.pipelines.network import Networks
from jaxdiff.planning.blueprint import with_unet_options
from jaxdiff.planning.traced import probe
from jaxdiff.training.config import TrainConfig
from jaxdiff.training.flops import count_flops

_PLAIN = "tpu"  # the platform for which networks compile to plain products and convolutions


def of_training(run: TrainConfig) -> float:
    """Operations of a train step per example, forward and backward."""
    with target.tracing_for(_PLAIN):
        return probe(with_unet_options(run, remat="none", attention="einsum")).flops


def of_drawing(networks: Networks, arguments: tuple, how: Any) -> float:
    """Operations from prompts to pixels, per row of a batch.

    Args:
      networks: what draws.
      arguments: of `draw` behind `networks`: parameters, rows [B ...], the rest.
      how: its last argument.
    """
    unet = dataclasses.replace(networks.model.unet_config, attention="einsum")
    plain = networks._replace(model=dataclasses.replace(networks.model, unet_config=unet))
    with target.tracing_for(_PLAIN):
        jaxpr = jax.make_jaxpr(functools.partial(draw, plain, how=how))(*arguments)
    return count_flops(jaxpr) / len(arguments[1].seeds)
