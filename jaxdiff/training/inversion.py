"""Textual inversion: the rows of a new word in the text encoders' tables, and nothing else.

Gal et al. 2023, "An image is worth one word", eq. 2. All other rows are frozen parameters, so they
stay as they are to the bit.

Axis legend: V vectors of the word, D text width, h w latent pixels, Z latent channels.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdiff.convert import Model, TextTower
from jaxdiff.convert.embeddings import Embedding, add_embedding, save_embedding
from jaxdiff.data.sources import Source, captions_of
from jaxdiff.errors import UserError
from jaxdiff.training.config import TextualInversionMethod, TrainConfig
from jaxdiff.training.methods import Trained, make_unet, parameters
from jaxdiff.training.step import Batch, Params


def textual_inversion(run: TrainConfig, model: Model, source: Source) -> Trained:
    """The rows of a new word in each text encoder's table, and nothing else.

    Raises:
      UserError: the word is known already, or no caption has it.
    """
    config: TextualInversionMethod = run.objective.method
    first = {tower.name: _first_rows(tower, config) for tower in model.text}
    new = Embedding(config.token, first)
    model = dataclasses.replace(model, text=tuple(add_embedding(t, new) for t in model.text))
    rows = {tower.name: _new_rows(tower, config) for tower in model.text}
    _require_word(model.text[0], rows, config.token, source)
    whole, unet = parameters(model), make_unet(run, model)

    def towers(params: Params, frozen: Params) -> Params:
        return {name: _with_rows(frozen[name], rows[name], params[name]) for name in rows}

    def predict(
        params: Params, frozen: Params, batch: Batch, *inputs: Any
    ) -> Float[Array, "B h w Z"]:
        return unet.apply({"params": frozen["unet"]}, *inputs)

    def export(path: Path, params: Params, facts: dict) -> None:
        save_embedding(path, Embedding(config.token, jax.tree.map(np.asarray, params)))

    return Trained(
        model=model,
        init=lambda key, given: given,
        given=first,
        frozen=whole,
        trains_text=True,
        towers=towers,
        predict=predict,
        networks=lambda params: {**whole, **towers(params, whole)},
        export=export,
    )


def _first_rows(tower: TextTower, config: TextualInversionMethod) -> Float[np.ndarray, "V D"]:
    """What a new word's rows start as: those of `config.initial`, or the mean of all."""
    table = np.asarray(_table(tower.params), np.float32)
    if not config.initial:
        return np.repeat(table.mean(0, keepdims=True), config.vectors, axis=0)
    ids = tower.tokenizer.pieces([config.initial])[0].ids
    if not ids:
        raise UserError(
            f"objective.method.initial={config.initial!r} holds no word; give one, or leave it out "
            "for the mean of all"
        )
    take = np.arange(config.vectors) * len(ids) // config.vectors
    return table[np.asarray(ids)[take]]


def _new_rows(tower: TextTower, config: TextualInversionMethod) -> np.ndarray:
    """Numbers [V] of a new word's rows in the table."""
    names = [config.token, *(f"{config.token}_{i}" for i in range(1, config.vectors))]
    return np.array([tower.tokenizer.vocab[name] for name in names])


def _table(params: Params) -> Any:
    return params["embeddings"]["token_embedding"]["embedding"]


def _with_rows(params: Params, numbers: np.ndarray, rows: Array | np.ndarray) -> Params:
    """A text encoder's parameters with some rows of its table replaced."""
    table = jnp.asarray(_table(params)).at[numbers].set(rows.astype(_table(params).dtype))
    embeddings = {**params["embeddings"], "token_embedding": {"embedding": table}}
    return {**params, "embeddings": embeddings}


def _require_word(
    tower: TextTower, rows: dict[str, np.ndarray], token: str, source: Source
) -> None:
    captions = captions_of(source)
    if not np.isin(tower.tokenizer(captions), rows[tower.name]).any():
        raise UserError(
            f"no caption of the data has the word {token!r} (objective.method.token); write it "
            f"where the subject is named, as in {captions[0]!r}"
        )
