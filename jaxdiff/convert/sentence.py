"""Sentence encoders as `sentence-transformers` stores them: a BERT, its tokenizer, and how to pool.

The folder holds `config.json`, `model.safetensors`, `tokenizer.json` and `1_Pooling/config.json`.

Axis legend: B texts, T tokens.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tokenizers
from jaxtyping import Bool, Int

from jaxdiff.convert.configs import require_implied
from jaxdiff.convert.merge import Params, from_torch
from jaxdiff.convert.tensors import open_tensors, read_json
from jaxdiff.convert.weight_files import weight_files
from jaxdiff.errors import UserError, typed_fields
from jaxdiff.models import SentenceEncoderConfig, parameter_shapes

_STEM = "model"
_UNUSED = "pooler."  # a head that pools in another way
_IMPLIED = {"position_embedding_type": "absolute", "is_decoder": False}
_POOLING = Path("1_Pooling") / "config.json"


class Sentences(NamedTuple):
    """A sentence encoder with its tokenizer."""

    config: SentenceEncoderConfig
    params: Params
    backend: tokenizers.Tokenizer

    def tokens(
        self, texts: Sequence[str], length: int
    ) -> tuple[Int[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]:
        """Ids, padded or cut to `length`, and which of them are of the text."""
        backend = tokenizers.Tokenizer.from_str(self.backend.to_str())
        backend.enable_truncation(length)
        backend.enable_padding(length=length)
        encoded = backend.encode_batch(list(texts))
        ids = np.array([each.ids for each in encoded], np.int32).reshape(-1, length)
        mask = np.array([each.attention_mask for each in encoded], bool).reshape(-1, length)
        return ids, mask


def load_sentences(folder: str | Path) -> Sentences:
    """Read a sentence encoder.

    Raises:
      UserError: a file is missing, damaged, a pickle or of another network, or texts are pooled in
        another way than by the mean.
    """
    folder = Path(folder)
    config = _config(folder / "config.json")
    _require_mean(folder / _POOLING)
    tensors = {
        key.removeprefix("bert."): tensor
        for key, tensor in open_tensors(weight_files(folder, _STEM)).items()
        if not key.removeprefix("bert.").startswith(_UNUSED)
    }
    params = from_torch(tensors, parameter_shapes(config), f"{folder}, read as a BERT,")
    return Sentences(config, params, _tokenizer(folder / "tokenizer.json"))


def _config(path: Path) -> SentenceEncoderConfig:
    content = read_json(path)
    if content.get("model_type") != "bert":
        raise UserError(f"{path}: model_type {content.get('model_type')!r} is not 'bert'")
    for key in _IMPLIED.keys() & content.keys():
        require_implied(key, content[key], _IMPLIED, str(path))
    names = {field.name for field in dataclasses.fields(SentenceEncoderConfig)}
    known = {name: content[name] for name in names & content.keys()}
    return SentenceEncoderConfig(**typed_fields(SentenceEncoderConfig, known, str(path)))


def _require_mean(path: Path) -> None:
    """Refuse another pooling than the mean, where the folder says how."""
    if path.is_file() and not read_json(path).get("pooling_mode_mean_tokens", True):
        raise UserError(f"{path}: only the mean over tokens is computed here")


def _tokenizer(path: Path) -> tokenizers.Tokenizer:
    if not path.is_file():
        raise UserError(f"{path} is missing; a sentence encoder needs its tokenizer")
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"{path} cannot be read as a tokenizer: {error}") from error
