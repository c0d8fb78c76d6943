"""From token ids to what a UNet is conditioned on: context, pooled state, sizes.

Pure functions, a part of the one jitted function of a pipeline.

Axis legend: B prompts, C chunks, T tokens of a chunk, D width of all towers, P pooled width.
"""

import dataclasses
import types
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from jaxdiff.convert import Model
from jaxdiff.errors import UserError
from jaxdiff.models import SentenceEncoderConfig, TextEncoder, TextEncoderConfig, network
from jaxdiff.models.lora import Layers, intercept
from jaxdiff.pipelines.prompts import Tokens

Params = Mapping[str, Any]
_UNCHANGED: Mapping[str, Layers] = types.MappingProxyType({})


class TextCondition(NamedTuple):
    """What prompts say to a UNet, float32."""

    context: jax.Array
    """[B, C*T, D]: every token's state, chunk after chunk, towers side by side."""
    pooled: jax.Array | None
    """[B P] for SDXL: the last tower's projected state of the first chunk, unweighted."""


def encode_text(
    model: Model,
    dtype: DTypeLike,
    params: Mapping[str, Any],
    tokens: tuple[Tokens, ...],
    clip_skip: int = 0,
    changes: Mapping[str, Layers] = _UNCHANGED,
) -> TextCondition:
    """Encode prompts with every tower of a model.

    Which layer: Stable Diffusion 1 and 2 take the last one, then the final norm; SDXL's towers
    the one before the last, without the norm (Podell et al. 2023, section 2.1).

    Args:
      model: its family and the towers' shapes; its parameters are not used.
      dtype: what the networks compute in.
      params: parameters of each tower by its name; others may be there.
      tokens: one per tower, all of the same B and C.
      clip_skip: that many layers earlier; 0 as the model was trained. Web UIs count from 1: their
        "Clip skip: 2" is 1 here.
      changes: LoRAs by tower, added to the outputs of layers: merged into bfloat16 kernels, the
        small changes of their training would be rounded away.

    Raises:
      UserError: `clip_skip` leaves no layer.
    """
    check_clip_skip(model, clip_skip)
    large = model.family.startswith("sdxl")
    read = _penultimate if large else _last
    contexts, pooled = [], None
    for tower, (ids, weights) in zip(model.text, tokens, strict=True):
        variables = {"params": params[tower.name]}
        with intercept([(changes.get(tower.name, {}), 1.0)]):
            states, pooled = read(tower.config, dtype, variables, ids, clip_skip)
        batch, chunks, length, width = states.shape
        emphasised = emphasise(states, weights)
        contexts.append(emphasised.reshape(batch, chunks * length, width))
    return TextCondition(jnp.concatenate(contexts, axis=-1), pooled if large else None)


def check_clip_skip(model: Model, clip_skip: int) -> None:
    """Refuse to leave out layers that are not there.

    Raises:
      UserError: as said.
    """
    used = 2 if model.family.startswith("sdxl") else 1
    for tower in model.text:
        most = tower.config.num_hidden_layers - used
        if not 0 <= clip_skip <= most:
            raise UserError(f"clip skip is {clip_skip}; {tower.name} has layers for 0 to {most}")


def emphasise(
    states: Float[Array, "B C T D"], weights: Float[Array, "B C T"]
) -> Float[Array, "B C T D"]:
    """Multiply each token's state by its weight, then restore the mean of each chunk.

    y = w x mean(x) / mean(w x), as AUTOMATIC1111's web UI does by default; where all weights are 1,
    or the weighted mean is 0, nothing is restored.
    """
    axes = (2, 3)
    weighted = states * weights[..., None]
    before, after = (x.mean(axes, keepdims=True) for x in (states, weighted))
    safe = jnp.where(after == 0, 1.0, after)
    plain = (weights == 1).all(2)[..., None, None] | (after == 0)
    return weighted * jnp.where(plain, 1.0, before / safe)


def size_conditioning(
    original_size: ArrayLike | Sequence[int],
    crop: ArrayLike | Sequence[int],
    target_size: ArrayLike | Sequence[int] | None = None,
    *,
    aesthetic_score: ArrayLike | None = None,
) -> Float[Array, "*B I"]:
    """The numbers that tell SDXL of a picture's sizes (Podell et al. 2023, section 2.2).

    Args:
      original_size: [..., 2], height and width of the picture before it was scaled and cropped.
      crop: [..., 2], how many pixels were cut off at the top and at the left.
      target_size: [..., 2], height and width of the picture drawn: for the base.
      aesthetic_score: [...], from 0 to 10, for the refiner instead of `target_size`.

    Returns:
      [..., 6] for the base, [..., 5] for the refiner.

    Raises:
      UserError: neither or both of `target_size` and `aesthetic_score` are given.
    """
    if (target_size is None) == (aesthetic_score is None):
        raise UserError("give target_size for SDXL's base or aesthetic_score for its refiner")
    last = jnp.asarray(aesthetic_score)[..., None] if target_size is None else target_size
    parts = [jnp.asarray(part, jnp.float32) for part in (original_size, crop, last)]
    rows = jnp.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return jnp.concatenate([jnp.broadcast_to(p, (*rows, p.shape[-1])) for p in parts], axis=-1)


def _last(
    config: TextEncoderConfig | SentenceEncoderConfig,
    dtype: DTypeLike,
    variables: Params,
    ids: Array,
    clip_skip: int,
) -> tuple[Array, None]:
    """States [B C T W] after the final norm, of the encoder without its last `clip_skip` layers."""
    shorter = dataclasses.replace(config, num_hidden_layers=config.num_hidden_layers - clip_skip)
    output = network(shorter, dtype).apply(variables, ids.reshape(-1, ids.shape[-1]))
    return output.last_hidden.reshape(*ids.shape, -1), None


def _penultimate(
    config: TextEncoderConfig, dtype: DTypeLike, variables: Params, ids: Array, clip_skip: int
) -> tuple[Array, Array]:
    """States [B C T W] before the last layer, and the pooled state [B P] of the first chunk."""
    output = TextEncoder(config, dtype).apply(variables, ids.reshape(-1, ids.shape[-1]))
    states = output.hidden_states[-2 - clip_skip].reshape(*ids.shape, -1)
    return states, output.pooled.reshape(*ids.shape[:2], -1)[:, 0]
