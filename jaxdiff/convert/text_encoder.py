"""The text encoder's part of a model directory alone, with its tokenizer."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from jaxdiff.convert.configs import TEXT_ENCODER, read_config, write_config
from jaxdiff.convert.layout import TOWERS, LoadTokenizer, tokenizer_folder
from jaxdiff.convert.merge import from_torch, parameter_shapes, to_torch
from jaxdiff.convert.model import TextTower
from jaxdiff.convert.replacing import CARD, replace_directory, require_writable
from jaxdiff.convert.sentence import read_bert_config
from jaxdiff.convert.tensors import open_tensors, read_json, write_json, write_tensors
from jaxdiff.convert.weight_files import STEMS, weight_files
from jaxdiff.errors import UserError

_NAME = TOWERS[0]
_KIND = "directory of a text encoder alone"
_PARTS = {_NAME, str(tokenizer_folder(Path(), _NAME)), CARD}
_PREFIX = "text_model."


def load_text_encoder(directory: str | Path, load_tokenizer: LoadTokenizer) -> TextTower:
    """The text encoder of a directory, which may hold a whole model, and its tokenizer.

    Raises:
      UserError: a file is missing, truncated, of another architecture or of other shapes.
    """
    directory = Path(directory)
    part = directory / _NAME
    if not part.is_dir():
        raise UserError(
            f"{directory} holds no text encoder (no folder {_NAME}/, no config.json of a BERT)"
        )
    path = part / "config.json"
    bert = read_json(path).get("model_type") == "bert"
    config = read_bert_config(path) if bert else read_config(path, TEXT_ENCODER)
    tensors = open_tensors(weight_files(part, STEMS[_NAME]))
    params = from_torch(tensors, parameter_shapes(config), str(part))
    return TextTower(_NAME, config, params, load_tokenizer(tokenizer_folder(directory, _NAME)))


def save_text_encoder(
    directory: str | Path,
    tower: TextTower,
    facts: dict[str, Any],
    dtype: DTypeLike | None = np.float16,
) -> None:
    """Write a text encoder and its tokenizer as parts of a model directory, whole or not at all.

    Args:
      directory: its path; an older text encoder there is replaced.
      tower: what to write.
      facts: JSON values of how it was trained, for `training.json`.
      dtype: of the weights; None keeps each one's own.

    Raises:
      UserError: there is something else, it cannot be written, or a weight does not fit `dtype`.
    """

    def write(folder: Path) -> None:
        part = folder / _NAME
        part.mkdir()
        write_config(part / "config.json", tower.config)
        tensors = to_torch(tower.params, prefix=_PREFIX)
        write_tensors(part / f"{STEMS[_NAME]}.safetensors", tensors, dtype)
        write_json(part / "training.json", facts)
        tower.tokenizer.save(tokenizer_folder(folder, _NAME))

    replace_directory(directory, write, replaceable=_replaceable, kind=_KIND)


def check_text_encoder_writable(directory: str | Path) -> None:
    """Raise what `save_text_encoder` would, before there is one to save; writes nothing.

    Raises:
      UserError: there is something else than a text encoder, or it cannot be written.
    """
    require_writable(directory, _replaceable, _KIND)


def _replaceable(directory: Path) -> bool:
    return {entry.name for entry in directory.iterdir()} <= _PARTS
