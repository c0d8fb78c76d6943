"""Captions as a step reads them: token ids, or what frozen text encoders made of them once.

Axis legend: b captions, N text encoders, T tokens, D context width, P pooled width.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from jaxdiff.convert import Model
from jaxdiff.data.pipeline import Batch, ReadCaptions
from jaxdiff.data.sources import Source, caption_forms
from jaxdiff.errors import UserError
from jaxdiff.models.lora import Layers
from jaxdiff.pipelines.encode import TextCondition, encode_text
from jaxdiff.pipelines.prompts import Tokens
from jaxdiff.training.cache import Rows, batched, cached_rows, storage_type, tree_hash
from jaxdiff.training.config import TrainConfig
from jaxdiff.training.methods import Trained
from jaxdiff.training.step import Batch as StepBatch
from jaxdiff.training.step import Params


class CaptionData(NamedTuple):
    """How captions become arrays of a batch, and what of the text encoders is still needed."""

    read: ReadCaptions
    """Captions -> {"tokens": int32 [b, N, T]}, or {"context": [b, T, D], "pooled": [b, P]}."""
    cached: bool
    """Whether no text encoder runs in a step."""
    inputs: dict[str, str]
    """Hash of the cache."""


def caption_data(run: TrainConfig, trained: Trained, sources: Sequence[Source]) -> CaptionData:
    """Read captions from a cache where `data.cache` asks for it and no text encoder is trained.

    Raises:
      UserError: the text encoders take texts of different lengths.
    """
    towers = trained.model.text
    tokenizers = [tower.tokenizer for tower in towers]  # all that `read` takes to other processes
    lengths = {tokenizer.max_length for tokenizer in tokenizers}
    if len(lengths) > 1:
        raise UserError(f"the model's tokenizers have different lengths: {sorted(lengths)}")

    def ids(captions: Sequence[str]) -> Int[np.ndarray, "b N T"]:
        return np.stack([tokenizer(list(captions)) for tokenizer in tokenizers], axis=1)

    if not run.data.cache or trained.trains_text:
        return CaptionData(lambda captions: {"tokens": ids(captions)}, False, {})
    captions = caption_forms(*sources, config=run.data)
    rows = _conditions(run, trained, captions, ids(captions))
    place = {caption: number for number, caption in enumerate(captions)}

    def read(captions: list[str]) -> Batch:
        found = np.stack([rows[place[caption]] for caption in captions])
        return {name: np.ascontiguousarray(found[name]) for name in found.dtype.names}

    return CaptionData(read, True, {"captions": rows.digest})


def condition(
    run: TrainConfig,
    model: Model,
    params: Params,
    batch: StepBatch,
    changes: Mapping[str, Layers],
) -> TextCondition:
    """What a batch's captions say to the UNet.

    Args:
      run: its compute type and clip skip.
      model: the shapes of its text encoders.
      params: their parameters by name; not used where the batch has what they made.
      batch: as `CaptionData.read` gives it.
      changes: LoRAs of the text encoders that are trained, by name.
    """
    if "context" in batch:
        context, pooled = batch["context"], batch.get("pooled")
        pooled = None if pooled is None else pooled.astype(jnp.float32)
        return TextCondition(context.astype(jnp.float32), pooled)
    return _encode(run, model, params, batch["tokens"], changes)


def text_inputs(
    run: TrainConfig, trained: Trained, params: Params, frozen: Params, batch: StepBatch
) -> tuple[TextCondition, dict[str, Array] | None]:
    """What a batch's captions say to the UNet, and for SDXL what it is told besides."""
    model = trained.model
    towers = {} if "context" in batch else trained.towers(params, frozen)
    text = condition(run, model, towers, batch, trained.changes(params))
    if model.unet_config.addition_embed_type is None:
        return text, None
    sizes = batch["size"].astype(jnp.float32)
    return text, {"text_embeds": text.pooled, "time_ids": sizes}


def encode_captions(
    run: TrainConfig, model: Model, params: Params, captions: Sequence[str]
) -> TextCondition:
    """What captions say to the UNet, by text encoders as they are."""
    ids = [tower.tokenizer(list(captions)) for tower in model.text]
    return _encode(run, model, params, jnp.asarray(np.stack(ids, axis=1)), {})


def _encode(
    run: TrainConfig, model: Model, params: Params, ids: Array, changes: Mapping[str, Layers]
) -> TextCondition:
    """Encode ids [b, N, T] with all text encoders."""
    tokens = tuple(
        Tokens(ids[:, n, None], jnp.ones(ids[:, n, None].shape, jnp.float32))
        for n in range(len(model.text))
    )
    dtype = jnp.dtype(run.dtype)
    return encode_text(model, dtype, params, tokens, run.objective.clip_skip, changes)


def _conditions(run: TrainConfig, trained: Trained, captions: list[str], ids: np.ndarray) -> Rows:
    """Rows of text conditions, those that are missing computed."""
    model = trained.model
    params = trained.towers({}, trained.frozen)
    facts = {
        "text_encoders": tree_hash(params),
        "configs": repr([tower.config for tower in model.text]),
        "family": model.family,
        "dtype": run.dtype,
        "clip_skip": run.objective.clip_skip,
        "captions": hashlib.sha256("\0".join(captions).encode()).hexdigest(),
        "tokens": hashlib.sha256(ids.tobytes()).hexdigest(),
    }

    def encode(params: Params, ids: Array) -> StepBatch:
        made = _encode(run, model, params, ids, {})._asdict()
        return {name: array for name, array in made.items() if array is not None}

    shapes = jax.eval_shape(encode, params, ids[:1])
    kind = storage_type(run.dtype)
    row = np.dtype([(name, kind, shape.shape[1:]) for name, shape in shapes.items()])
    call = batched(encode, params)
    groups = [(row, np.arange(len(captions)))]
    return cached_rows(
        Path(run.data.cache), "captions", facts, groups, lambda numbers: call(ids[numbers])
    )
