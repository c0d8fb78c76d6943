"""Tokenizers for single files, most of which carry none: all of Stable Diffusion share CLIP's.

Looked for, in this order: in a folder that the user names; in the file itself; in the Hugging Face
cache, where any Stable Diffusion model or CLIP has left it; in an installed `open_clip` or `clip`.
"""

import gzip
import importlib.util
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxdiff.bpe_bytes import byte_symbols
from jaxdiff.convert import hub
from jaxdiff.convert.layout import LoadTokenizer, tokenizer_folder
from jaxdiff.convert.tensors import read_json, write_json
from jaxdiff.errors import UserError

FILES = ("*.json", "*.txt")
_START, _END = "<|startoftext|>", "<|endoftext|>"
_OPEN_CLIP_PAD = "!"  # the token of id 0, which OpenCLIP pads with
_CONFIG, _SPECIAL = "tokenizer_config.json", "special_tokens_map.json"

# Where the hub has the files of CLIP's tokenizer: (repository, folder).
_ON_THE_HUB = (
    ("openai/clip-vit-large-patch14", ""),
    ("stable-diffusion-v1-5/stable-diffusion-v1-5", "tokenizer/"),
    ("runwayml/stable-diffusion-v1-5", "tokenizer/"),
    ("stabilityai/stable-diffusion-xl-base-1.0", "tokenizer/"),
    ("stabilityai/stable-diffusion-2-1", "tokenizer/"),
    ("stabilityai/sd-turbo", "tokenizer/"),
    ("laion/CLIP-ViT-bigG-14-laion2B-39B-b160k", ""),
)
# Packages that hold CLIP's merges, and the file's name in each.
_PACKAGES = ("open_clip", "clip")
_MERGES = "bpe_simple_vocab_16e6.txt.gz"
_NUM_MERGES = 49152 - 256 - 2  # how many of the file's lines CLIP uses (Radford et al. 2021)


class TokenizerFiles:
    """A tokenizer's files as they are: for conversion, which need not know what is in them.

    Args:
      folder: that holds them.
    """

    def __init__(self, folder: Path) -> None:
        self.files = {
            file.name: file.read_bytes() for kind in FILES for file in sorted(folder.glob(kind))
        }
        if not self.files:
            raise UserError(f"{folder} holds no tokenizer")

    def save(self, folder: Path) -> None:
        """Write the files into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            (folder / name).write_bytes(content)


def find_tokenizers(
    towers: Mapping[str, bool],
    load: LoadTokenizer,
    *,
    tokenizer_dir: Path | None,
    embedded: Path | None,
    max_length: int,
    source: str,
) -> tuple[dict[str, Any], str | None]:
    """The tokenizers of a single file, and where they come from if not from the file or the user.

    Args:
      towers: the text encoders' folders, and whether each is OpenCLIP's.
      load: what makes a tokenizer of a folder.
      tokenizer_dir: what the user names: a folder of files, or one of such folders.
      embedded: a model directory with what the file holds.
      max_length: tokens of a text.
      source: the file, for the message.

    Raises:
      UserError: there is none.
    """
    if tokenizer_dir is not None:
        return {name: _given(tokenizer_dir, name, load, towers[name]) for name in towers}, None
    if embedded is not None and tokenizer_folder(embedded, next(iter(towers))).is_dir():
        return {name: load(tokenizer_folder(embedded, name)) for name in towers}, None
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        found = _from_hub_cache(folder) or _from_package(folder)
        if found is None:
            raise UserError(
                f"{source} carries no tokenizer, and none is on this machine; give a folder with "
                "vocab.json and merges.txt of CLIP's (the folder tokenizer/ of any Stable "
                "Diffusion model) with --tokenizer-dir, or pip install open_clip_torch"
            )
        config = {
            "model_max_length": max_length,
            "bos_token": _START,
            "eos_token": _END,
            "unk_token": _END,
            "tokenizer_class": "CLIPTokenizer",
        }
        tokenizers = {}
        for name, open_clip in towers.items():
            pad = _OPEN_CLIP_PAD if open_clip else _END
            write_json(folder / _CONFIG, config | {"pad_token": pad})
            tokenizers[name] = load(folder)
        return tokenizers, found


def _given(directory: Path, tower: str, load: LoadTokenizer, open_clip: bool) -> Any:
    """The tokenizer in a folder of the user's; OpenCLIP's padding if it is not the tower's own."""
    own = tokenizer_folder(directory, tower)
    if own.is_dir() or not open_clip:
        return load(own if own.is_dir() else directory)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for kind in FILES:
            for file in directory.glob(kind):
                shutil.copyfile(file, folder / file.name)
        for name in (_CONFIG, _SPECIAL):  # either counts, by the version that wrote them
            config = read_json(folder / name) if (folder / name).is_file() else {}
            write_json(folder / name, config | {"pad_token": _OPEN_CLIP_PAD})
        return load(folder)


def _from_hub_cache(folder: Path) -> str | None:
    """Copy the files that some model has left in the cache; the name of that model."""
    for repository, inner in _ON_THE_HUB:
        cached = [
            hub.cached_file(repository, inner + name) for name in ("vocab.json", "merges.txt")
        ]
        if all(cached):
            for file in cached:
                shutil.copyfile(file, folder / file.name)
            return f"{repository} in the Hugging Face cache"
    return None


def _from_package(folder: Path) -> str | None:
    """Write the files that follow from a package's list of merges; its name."""
    for package in _PACKAGES:
        spec = importlib.util.find_spec(package)
        places = (spec.submodule_search_locations or ()) if spec is not None else ()
        for place in places:
            file = Path(place) / _MERGES
            if file.is_file():
                _write_files(folder, gzip.decompress(file.read_bytes()).decode("utf-8"))
                return f"the package {package}"
    return None


def _write_files(folder: Path, text: str) -> None:
    """vocab.json and merges.txt of CLIP: bytes, bytes at a word's end, merges, start and end."""
    merges = text.split("\n")[1 : _NUM_MERGES + 1]
    symbols = byte_symbols()
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols)]
    tokens += ["".join(merge.split()) for merge in merges] + [_START, _END]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), "utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")
