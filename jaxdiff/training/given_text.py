"""A text encoder that training is given: one in CLIP's form, or a BERT.

It stays as it is (Saharia et al. 2022, section 2.1) unless it is to learn with the UNet. A BERT
costs more than a small UNet: where `data.cache` names a folder, the states that one which stays as
it is has of all captions are computed once.

Axis legend: B captions, T tokens, D width.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxdiff.convert.model import TextTower
from jaxdiff.convert.sentence import load_sentences
from jaxdiff.convert.text_encoder import load_text_encoder
from jaxdiff.data.pipeline import Batch, ReadCaptions
from jaxdiff.data.sources import DataConfig, Source, caption_forms
from jaxdiff.data.wordpieces import AnyTokenizer, WordPieces, load_tokenizer
from jaxdiff.errors import UserError
from jaxdiff.models import SentenceEncoderConfig, network
from jaxdiff.training.cache import batched, cached_rows, storage_type, tree_hash
from jaxdiff.training.config import DiffusionObjective, TrainConfig
from jaxdiff.training.step import Params

SENTENCE_TOKENS = 24  # of a caption that a BERT reads at the most
NAME = "text_encoder"


def text_tower(config: DiffusionObjective) -> TextTower:
    """The text encoder with the parameters that it keeps; without any where it is trained.

    Raises:
      UserError: it cannot be read, is not as the config says, or two tokenizers are given.
    """
    if config.text is None:
        return TextTower(NAME, config.text_encoder, {}, None)
    tower = given_tower(config)
    return tower._replace(params={}) if config.text_learns else tower


def given_tower(config: DiffusionObjective) -> TextTower:
    """The text encoder of `config.text`, with its parameters.

    Raises:
      UserError: as for `text_tower`.
    """
    if config.tokenizer is not None:
        raise UserError("objective.text has a tokenizer of its own: leave objective.tokenizer out")
    if (config.text / "config.json").is_file():
        shape, params, backend = load_sentences(config.text)
        length = min(SENTENCE_TOKENS, shape.max_position_embeddings)
        tower = TextTower(NAME, shape, params, WordPieces(backend, length, str(config.text)))
    else:
        tower = load_text_encoder(config.text, load_tokenizer)
    if not isinstance(tower.config, SentenceEncoderConfig):
        return _without_projection(config, tower)
    width, ours = tower.config.hidden_size, config.unet.cross_attention_dim
    if width != ours:
        raise UserError(
            f"objective.unet.cross_attention_dim={ours}, but the states of objective.text="
            f"{config.text} are {width} wide; set it to {width}"
        )
    return tower


def _without_projection(config: DiffusionObjective, tower: TextTower) -> TextTower:
    """A text encoder in CLIP's form, which must be as the config says but for its projection."""
    here, there = config.text_encoder, dataclasses.replace(tower.config, projection_dim=None)
    differ = [
        f"objective.text_encoder.{field.name}={getattr(here, field.name)}, there it is "
        f"{getattr(there, field.name)}"
        for field in dataclasses.fields(here)
        if getattr(here, field.name) != getattr(there, field.name)
    ]
    if differ:
        raise UserError(f"objective.text={config.text}: {'; '.join(differ)}")
    params = {name: part for name, part in tower.params.items() if name != "text_projection"}
    return tower._replace(config=there, params=params)


class CaptionData(NamedTuple):
    """How captions become arrays of a batch, and what of the text encoder a step still needs."""

    read: ReadCaptions
    """Captions -> {"tokens": int32 [B, T]} or {"context": [B, T, D]}."""
    frozen: Params
    """{"text_encoder": parameters} that stay as they are and run in a step, or {}."""
    inputs: dict[str, str]
    """What a resumed run must find unchanged."""


def is_cached(tower: TextTower, data: DataConfig) -> bool:
    """Whether batches hold the states of captions, and not their tokens."""
    stays = bool(tower.params)
    return stays and bool(data.cache) and isinstance(tower.config, SentenceEncoderConfig)


def caption_data(
    run: TrainConfig, tower: TextTower, tokenizer: AnyTokenizer, source: Source
) -> CaptionData:
    """Read captions as tokens, or as the states that a BERT has of them where they are cached."""
    frozen = {tower.name: tower.params} if tower.params else {}
    inputs = {"tokenizer": tokenizer.digest, **{k: tree_hash(v) for k, v in frozen.items()}}
    if not is_cached(tower, run.data):
        return CaptionData(lambda captions: {"tokens": tokenizer(captions)}, frozen, inputs)
    captions = caption_forms(source, config=run.data)
    place = {caption: number for number, caption in enumerate(captions)}
    ids = tokenizer(list(place))
    facts = {
        "config": repr(tower.config),
        "text_encoder": inputs[tower.name],
        "dtype": run.dtype,
        "tokens": hashlib.sha256(ids.tobytes()).hexdigest(),
    }
    call = batched(states(tower, run.dtype), tower.params)
    kind = storage_type(run.dtype)
    row = np.dtype([("context", kind, (ids.shape[1], tower.config.hidden_size))])
    groups = [(row, np.arange(len(ids)))]
    rows = cached_rows(
        Path(run.data.cache), "states", facts, groups, lambda n: {"context": call(ids[n])}
    )

    def read(captions: list[str]) -> Batch:
        return {"context": np.stack([rows[place[caption]]["context"] for caption in captions])}

    return CaptionData(read, {}, {**inputs, "states": rows.digest})


def states(tower: TextTower, dtype: str) -> Callable[[Params, Array], Array]:
    """(parameters, ids [B T]) -> what a UNet reads of captions, [B T D]."""
    encoder = network(tower.config, jnp.dtype(dtype))
    return lambda params, ids: encoder.apply({"params": params}, ids).last_hidden


def caption_shape(
    tower: TextTower, data: DataConfig, dtype: str
) -> dict[str, jax.ShapeDtypeStruct]:
    """What a caption is in a batch, but for the axis of examples."""
    tokens = getattr(tower.tokenizer, "max_length", tower.config.max_position_embeddings)
    if is_cached(tower, data):
        shape = (tokens, tower.config.hidden_size)
        return {"context": jax.ShapeDtypeStruct(shape, storage_type(dtype))}
    return {"tokens": jax.ShapeDtypeStruct((tokens,), jnp.int32)}
