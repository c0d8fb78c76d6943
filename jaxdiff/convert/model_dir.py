"""A model, in and out: what sampling loads and training exports.

A model is a directory (see `layout`), a single file (see `single_file`), or a name on the hub.
"""

import dataclasses
import hashlib
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from jaxdiff.convert import hub
from jaxdiff.convert.layout import (
    LOW_RES_SCHEDULER,
    SCHEDULER,
    TOWERS,
    LoadTokenizer,
    assemble,
    read_layout,
    tokenizer_folder,
    write_layout,
)
from jaxdiff.convert.merge import from_torch, parameter_shapes, to_torch
from jaxdiff.convert.model import Model
from jaxdiff.convert.replacing import CARD, replace_directory, require_writable
from jaxdiff.convert.scheduler import NoiseConfig, PredictionName, to_scheduler_config
from jaxdiff.convert.single_file import load_single_file
from jaxdiff.convert.tensors import Tensor, open_tensors, read_tensors, write_tensors
from jaxdiff.convert.weight_files import INDEX, STEMS, all_weight_files, weight_files
from jaxdiff.errors import UserError

_TOKENIZERS = tuple(str(tokenizer_folder(Path(), tower)) for tower in TOWERS)
_FOLDERS = (*STEMS, *_TOKENIZERS, SCHEDULER, LOW_RES_SCHEDULER)
_HISTORY = Path("vae", "training.json")  # how the autoencoder was made, see convert.autoencoder


def load_model(
    where: str | Path,
    load_tokenizer: LoadTokenizer | None = None,
    *,
    dtype: DTypeLike | None = np.float32,
    variant: str | None = None,
    prediction: PredictionName | None = None,
    tokenizer_dir: str | Path | None = None,
) -> Model:
    """Load a model, tensor by tensor: the memory it takes is that of its parameters.

    Args:
      where: a model directory, a single .safetensors file, or OWNER/NAME on the Hugging Face hub.
      load_tokenizer: what makes a tokenizer of a folder of its files; None skips it.
      dtype: of the parameters; None keeps each tensor's own.
      variant: of a directory's weight files, such as "fp16"; None takes the files of no variant, or
        those of the only one.
      prediction: what the UNet predicts, where the checkpoint does not say or is wrong.
      tokenizer_dir: a folder of tokenizer files to read instead of the model's own.

    Raises:
      UserError: a file is missing, truncated, a pickle, of another architecture, or of other
        shapes, or the hub cannot be reached.
    """
    place = hub.locate(where, variant)
    tokenizers = None if tokenizer_dir is None else Path(tokenizer_dir)
    if place.is_file():
        if variant is not None:
            raise UserError(f"variant {variant!r} does nothing for {place}, a single file")
        return load_single_file(
            place,
            load_tokenizer,
            dtype=dtype,
            prediction=prediction,
            tokenizer_dir=tokenizers,
        )
    layout = read_layout(place, load_tokenizer, tokenizers)
    if prediction is not None:
        noise = dataclasses.replace(layout.noise, prediction=prediction)
        layout = layout._replace(noise=noise)
    params = {}
    for part, config in layout.configs.items():
        tensors = open_tensors(weight_files(place / part, STEMS[part], variant))
        params[part] = from_torch(tensors, parameter_shapes(config), str(place / part), dtype)
    return assemble(layout, params)


def save_model(directory: str | Path, model: Model, dtype: DTypeLike | None = np.float16) -> None:
    """Write a model directory whole or not at all, in the layout of the model's family.

    An existing directory of a model, or of parts of one, is replaced; files in it that are no part
    of a model, such as its card, stay.

    Args:
      directory: its path.
      model: what to write.
      dtype: of the weights; None keeps that of the parameters.

    Raises:
      UserError: `directory` exists and is no model directory, or cannot be written, or a parameter
        does not fit `dtype`.
    """
    to_scheduler_config(model.noise)

    def write(staged: Path) -> None:
        write_layout(staged, model)
        for part, tensors in part_tensors(model).items():
            write_tensors(staged / part / f"{STEMS[part]}.safetensors", tensors, dtype)

    replace_directory(directory, write, replaceable=_replaceable, carry_over=_carry_over)


def part_tensors(model: Model) -> dict[str, dict[str, Tensor]]:
    """The parameters of every network, by folder and by torch key."""
    linear = model.unet_config.use_linear_projection
    parts = {
        "unet": to_torch(model.unet_params, linear_projection=linear),
        "vae": to_torch(model.vae_params),
    }
    for tower in model.text:
        prefix = "" if model.reads_bert else "text_model."
        parts[tower.name] = to_torch(tower.params, prefix=prefix)
    return parts


def check_writable(directory: str | Path, noise: NoiseConfig | None = None) -> None:
    """Raise what `save_model` would, before there is a model to save; writes nothing.

    Args:
      directory: where a model is going to be saved.
      noise: its noise, if known: not every one has a `scheduler_config.json`.

    Raises:
      UserError: `directory` is a file, holds what is no part of a model, or cannot be written.
    """
    if noise is not None:
        to_scheduler_config(noise)
    require_writable(directory, _replaceable)


def model_hash(where: str | Path, variant: str | None = None) -> str:
    """The first ten hexadecimal digits of SHA-256 over the weights of a model or a ControlNet.

    Args:
      where: a directory, a single file (whose digits are those that A1111 shows) or a hub name.
      variant: as for `load_model`.

    Raises:
      UserError: there are no weights.
    """
    place = hub.locate(where, variant)
    files = [place] if place.is_file() else all_weight_files(place, variant)
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:10]


def _replaceable(directory: Path) -> bool:
    """Whether a directory is a model, some parts of one, a card alone, or empty."""
    entries = {entry.name: entry.is_dir() for entry in directory.iterdir()}
    if not entries or INDEX in entries:
        return True
    strange = [name for name, folder in entries.items() if folder and name not in _FOLDERS]
    return not strange and any(name in entries for name in (*_FOLDERS, CARD))


def _carry_over(old: Path, staged: Path) -> None:
    """Copy what is no part of a model from the old directory: its card, what belongs to it."""
    for entry in old.iterdir():
        if not (staged / entry.name).exists() and entry.name not in _FOLDERS:
            copy = shutil.copytree if entry.is_dir() else shutil.copy2
            copy(entry, staged / entry.name)
    if (old / _HISTORY).is_file() and _same_weights(old / "vae", staged / "vae"):
        shutil.copy2(old / _HISTORY, staged / _HISTORY)


def _same_weights(ours: Path, theirs: Path) -> bool:
    """Whether two autoencoders are one and the same, as float16."""
    try:
        first, second = (read_tensors(weight_files(path, STEMS["vae"])) for path in (ours, theirs))
    except UserError:
        return False
    return first.keys() == second.keys() and all(
        np.array_equal(first[name].astype(np.float16), second[name].astype(np.float16))
        for name in first
    )
