"""A model directory, in and out: what sampling loads and training exports.

    model_index.json   scheduler/   text_encoder/   tokenizer/   unet/   vae/   jaxdiff.json

The first six are the layout of `diffusers.StableDiffusionPipeline`; `jaxdiff.json` (optional) holds
what a model says of itself: name, licence, training step.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from jaxdiff.convert.configs import (
    AUTOENCODER,
    LIBRARY_VERSION,
    TEXT_ENCODER,
    UNET,
    Architecture,
    read_config,
    write_config,
)
from jaxdiff.convert.merge import from_torch, parameter_shapes, to_torch
from jaxdiff.convert.model import Model, TextTower
from jaxdiff.convert.scheduler import NoiseConfig, from_scheduler_config, to_scheduler_config
from jaxdiff.convert.tensors import read_json, read_tensors, write_json, write_tensors
from jaxdiff.convert.weight_files import weight_files
from jaxdiff.errors import UserError

PIPELINE = "StableDiffusionPipeline"

_STEMS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
_FOLDERS = (*_STEMS, "scheduler", "tokenizer")
_CARD = "README.md"
_HISTORY = Path("vae", "training.json")  # how the autoencoder was made, see convert.autoencoder


def load_model(directory: str | Path, load_tokenizer: Callable[[Path], Any] | None = None) -> Model:
    """Load a model directory.

    Args:
      directory: its path.
      load_tokenizer: what makes a tokenizer of the folder `tokenizer/`; None skips it.

    Raises:
      UserError: a file is missing, truncated, of another architecture, or of other shapes.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(f"model directory {directory} does not exist; give one with --model DIR")
    name = read_json(directory / "model_index.json").get("_class_name")
    if name != PIPELINE:
        raise UserError(f"{directory}/model_index.json: {name!r} is not supported; only {PIPELINE}")
    scheduler = directory / "scheduler" / "scheduler_config.json"
    noise = from_scheduler_config(read_json(scheduler), str(scheduler))
    configs = {
        part: read_config(directory / part / "config.json", architecture)
        for part, architecture in _ARCHITECTURES.items()
    }
    tokenizer = None if load_tokenizer is None else load_tokenizer(directory / "tokenizer")
    params = {}
    for part, config in configs.items():
        tensors = read_tensors(weight_files(directory / part, _STEMS[part]))
        params[part] = from_torch(tensors, parameter_shapes(config), str(directory / part))
    meta = directory / "jaxdiff.json"
    name = "text_encoder"
    return Model(
        *(x for part in ("unet", "vae") for x in (configs[part], params[part])),
        text=(TextTower(name, configs[name], params[name], tokenizer),),
        noise=noise,
        meta=read_json(meta) if meta.is_file() else {},
    )


def save_model(directory: str | Path, model: Model, dtype: DTypeLike = np.float16) -> None:
    """Write a model directory whole or not at all: a sibling is written, then renamed.

    An existing directory of a model, or of parts of one, is replaced; files in it that are no part
    of a model, such as its card, stay.

    Raises:
      UserError: `directory` exists and is no model directory, or cannot be written.
    """
    check_writable(directory, model.noise)
    target = Path(directory).resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
            staged = Path(scratch) / "new"
            staged.mkdir()
            _write_parts(staged, model, dtype)
            if target.exists():
                _carry_over(target, staged)
            _swap(staged, target, Path(f"{scratch}-old"))
    except OSError as error:
        raise UserError(f"{directory} cannot be written: {error.strerror or error}") from error


def check_writable(directory: str | Path, noise: NoiseConfig | None = None) -> None:
    """Raise what `save_model` would, before there is a model to save; writes nothing.

    Args:
      directory: where a model is going to be saved.
      noise: its noise, if known: not every one has a `scheduler_config.json`.

    Raises:
      UserError: `directory` is a file, holds what is no part of a model, or cannot be written.
    """
    directory = Path(directory)
    if noise is not None:
        to_scheduler_config(noise)
    parent = directory.resolve().parent
    parent = next(path for path in (parent, *parent.parents) if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"{directory} cannot be written: no permission, or no folder, at {parent}")
    if directory.exists() and not _replaceable(directory):
        raise UserError(f"{directory} exists and is no model directory; choose another")


def model_hash(directory: str | Path) -> str:
    """The first ten hexadecimal digits of SHA-256 over the weight files."""
    digest = hashlib.sha256()
    for part, stem in sorted(_STEMS.items()):
        for file in weight_files(Path(directory) / part, stem):
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()[:10]


_ARCHITECTURES: dict[str, Architecture] = {
    "unet": UNET,
    "vae": AUTOENCODER,
    "text_encoder": TEXT_ENCODER,
}


def _write_parts(root: Path, model: Model, dtype: DTypeLike) -> None:
    (tower,) = model.text
    parts = {
        "unet": (
            model.unet_config,
            to_torch(model.unet_params, linear_projection=model.unet_config.use_linear_projection),
        ),
        "vae": (model.vae_config, to_torch(model.vae_params)),
        tower.name: (tower.config, to_torch(tower.params, prefix="text_model.")),
    }
    for part, (config, tensors) in parts.items():
        (root / part).mkdir()
        write_config(root / part / "config.json", config)
        write_tensors(root / part / f"{_STEMS[part]}.safetensors", tensors, dtype)
    scheduler = to_scheduler_config(model.noise) | {"_diffusers_version": LIBRARY_VERSION}
    (root / "scheduler").mkdir()
    write_json(root / "scheduler" / "scheduler_config.json", scheduler)
    if tower.tokenizer is not None:
        (root / "tokenizer").mkdir()
        tower.tokenizer.save(root / "tokenizer")
    meta, spacing = dict(model.meta), model.noise.spacing
    if from_scheduler_config(scheduler).spacing != spacing:  # the scheduler has no word for it
        meta["sampling"] = {"schedule": spacing, **meta.get("sampling", {})}
    write_json(root / "jaxdiff.json", meta)
    text_class = TEXT_ENCODER.class_names[tower.config.projection_dim is not None]
    write_json(root / "model_index.json", _index(scheduler["_class_name"], text_class))


def _index(scheduler: str, text_encoder: str) -> dict[str, Any]:
    """`model_index.json`: the class of each part."""
    nothing = [None, None]
    return {
        "_class_name": PIPELINE,
        "_diffusers_version": LIBRARY_VERSION,
        "feature_extractor": nothing,
        "image_encoder": nothing,
        "requires_safety_checker": False,
        "safety_checker": nothing,
        "scheduler": ["diffusers", scheduler],
        "text_encoder": ["transformers", text_encoder],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", UNET.class_names[0]],
        "vae": ["diffusers", AUTOENCODER.class_names[0]],
    }


def _replaceable(directory: Path) -> bool:
    """Whether a directory is a model, some parts of one, a card alone, or empty."""
    if not directory.is_dir():
        return False
    entries = {entry.name: entry.is_dir() for entry in directory.iterdir()}
    if not entries or "model_index.json" in entries:
        return True
    strange = [name for name, folder in entries.items() if folder and name not in _FOLDERS]
    return not strange and any(name in entries for name in (*_FOLDERS, _CARD))


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
        first, second = (read_tensors(weight_files(path, _STEMS["vae"])) for path in (ours, theirs))
    except UserError:
        return False
    return first.keys() == second.keys() and all(
        np.array_equal(first[name].astype(np.float16), second[name].astype(np.float16))
        for name in first
    )


def _swap(staged: Path, directory: Path, retired: Path) -> None:
    """Put the staged directory in the place of an old one; if that fails, the old one stays."""
    if not directory.exists():
        staged.rename(directory)
        return
    directory.rename(retired)
    try:
        staged.rename(directory)
    except BaseException:
        retired.rename(directory)
        raise
    shutil.rmtree(retired, ignore_errors=True)
