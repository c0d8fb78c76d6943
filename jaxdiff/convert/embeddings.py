"""Textual inversion (Gal et al. 2022): files of learned token embeddings, in and out.

    {"<x>": [n D]}                        diffusers; other programs read it too
    {"emb_params": [n D]}                 AUTOMATIC1111: the file's name is the token
    {"clip_l": [n D], "clip_g": [n D]}    the same for SDXL's two text encoders

n vectors become n tokens: `<x>`, `<x>_1`, ...; a tokenizer gives all of them for `<x>`.

Axis legend: n vectors, D width of a text encoder, V entries of its token table.
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.typing import DTypeLike

from jaxdiff.convert.model import TextTower
from jaxdiff.convert.tensors import (
    read_metadata,
    read_tensors,
    require_safetensors,
    write_tensors,
)
from jaxdiff.errors import UserError

_TOWERS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
_NAMELESS = "emb_params"  # the key of a file that does not say its token
_TOKEN = "token"  # in the header of our files for SDXL, whose keys do not say it


class Embedding(NamedTuple):
    """A token and what it stands for."""

    token: str
    """As a prompt says it, such as `<x>`."""
    vectors: dict[str, np.ndarray]
    """Tower's name -> [n D]. A file of one tensor does not say whose it is: "text_encoder"."""


def load_embedding(path: str | Path, token: str | None = None) -> Embedding:
    """Read a textual inversion file.

    Args:
      path: a safetensors file in one of the layouts above.
      token: the token to use instead of the file's own.

    Raises:
      UserError: the file is a pickle, damaged, or no textual inversion.
    """
    path = require_safetensors(path)
    tensors = read_tensors([path])
    name = token or read_metadata(path).get(_TOKEN, path.stem)
    if tensors and tensors.keys() <= _TOWERS.keys():
        named = {_TOWERS[key]: tensor for key, tensor in tensors.items()}
    elif len(tensors) == 1:
        ((key, tensor),) = tensors.items()
        name, named = token or (name if key == _NAMELESS else key), {"text_encoder": tensor}
    else:
        found = ", ".join(sorted(tensors)[:3]) or "nothing"
        raise UserError(
            f"{path} is no textual inversion: it should hold one tensor, or clip_l and clip_g, "
            f"and holds {found}{', ...' if len(tensors) > 3 else ''}"
        )
    vectors = {tower: np.atleast_2d(tensor) for tower, tensor in named.items()}
    for tensor in vectors.values():
        if tensor.ndim != 2 or not tensor.size or not jnp.issubdtype(tensor.dtype, jnp.floating):
            raise UserError(
                f"{path} is no textual inversion: a tensor of {tensor.dtype} has the shape "
                f"{list(tensor.shape)}, where [vectors, width] is expected"
            )
    return Embedding(name, vectors)


def save_embedding(path: str | Path, embedding: Embedding, dtype: DTypeLike = np.float32) -> None:
    """Write a textual inversion file: diffusers' layout, for two towers clip_l and clip_g.

    Raises:
      UserError: the name does not end in .safetensors, or the file cannot be written.
    """
    path = require_safetensors(path)
    if len(embedding.vectors) == 1:
        tensors = {embedding.token: next(iter(embedding.vectors.values()))}
    else:
        tensors = {key: embedding.vectors[tower] for key, tower in _TOWERS.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, tensors, dtype, {_TOKEN: embedding.token})
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


def add_embedding(tower: TextTower, embedding: Embedding) -> TextTower:
    """A text encoder that knows one more token: new ids in its tokenizer, new rows in its table.

    The first new id follows the tokenizer's last one; the given tower is left as it is.

    Raises:
      UserError: there are no vectors for this tower, they have another width, or the token is
        taken.
    """
    vectors = embedding.vectors.get(tower.name)
    if vectors is None:
        raise UserError(
            f"the embedding {embedding.token!r} holds nothing for {tower.name}, only for "
            f"{', '.join(embedding.vectors)}"
        )
    count, width = vectors.shape
    if width != tower.config.hidden_size:
        raise UserError(
            f"the embedding {embedding.token!r} is {width} wide and {tower.name} is "
            f"{tower.config.hidden_size}: it was made for another kind of model"
        )
    token, first = embedding.token, tower.tokenizer.vocab_size
    tokens = [token, *(f"{token}_{index}" for index in range(1, count))]
    tokenizer = tower.tokenizer.with_tokens(tokens)
    table = np.asarray(tower.params["embeddings"]["token_embedding"]["embedding"])
    longer = np.zeros((max(len(table), first + count), width), table.dtype)
    longer[: len(table)] = table
    longer[first : first + count] = vectors
    embeddings = {**tower.params["embeddings"], "token_embedding": {"embedding": longer}}
    config = dataclasses.replace(tower.config, vocab_size=len(longer))
    params = {**tower.params, "embeddings": embeddings}
    return TextTower(tower.name, config, params, tokenizer)


def add_embeddings(towers: tuple[TextTower, ...], embedding: Embedding) -> tuple[TextTower, ...]:
    """All text encoders of a model, those that an embedding is for with its token.

    A file of one tensor goes to the first tower of its width.

    Raises:
      UserError: it is for none of them, or for one more, has another width, or its token is taken.
    """
    fits = {name: name for name in embedding.vectors}
    if len(embedding.vectors) == 1:
        ((given, vectors),) = embedding.vectors.items()
        width = vectors.shape[1]
        named = [tower.name for tower in towers if tower.config.hidden_size == width]
        fits = {named[0] if named else towers[0].name: given}
    _require_towers(embedding.token, list(fits), [tower.name for tower in towers])
    changed = []
    for tower in towers:
        if tower.name in fits:
            vectors = embedding.vectors[fits[tower.name]]
            tower = add_embedding(tower, Embedding(embedding.token, {tower.name: vectors}))
        changed.append(tower)
    return tuple(changed)


def _require_towers(token: str, wanted: list[str], found: list[str]) -> None:
    """Refuse SDXL's embeddings in a model of its first text encoder; its refiner has the second."""
    if found == ["text_encoder"] and wanted != found:
        raise UserError(
            f"the embedding {token!r} holds vectors for {' and '.join(sorted(wanted))}, and this "
            f"model has only {found[0]}: it was made for SDXL"
        )
