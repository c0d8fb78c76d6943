"""Which safetensors files a part's folder has: one, numbered shards, or a variant of either.

NAME.safetensors        NAME.safetensors.index.json    with NAME-00001-of-00002.safetensors, ...
NAME.fp16.safetensors   NAME.safetensors.index.fp16.json, NAME.safetensors.fp16.index.json
"""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from jaxdiff.convert.tensors import PICKLES, read_json, require_safetensors
from jaxdiff.errors import UserError

SHARD = r"-\d{5}-of-\d{5}"
"""In the name of one of several files of weights."""
INDEX = "model_index.json"
DIFFUSERS_STEM = "diffusion_pytorch_model"
STEMS = {
    "unet": DIFFUSERS_STEM,
    "vae": DIFFUSERS_STEM,
    "text_encoder": "model",
    "text_encoder_2": "model",
}
"""Folder of a network in a model directory -> its weights' file name without suffixes."""


def weight_files(folder: Path, stem: str, variant: str | None = None) -> list[Path]:
    """The safetensors files of one part.

    Args:
      folder: the part's folder.
      stem: the file name without suffixes.
      variant: such as "fp16"; None takes the files of no variant, or else of the only one.

    Raises:
      UserError: there is none, only pickles, several variants, or a shard that the index names is
        missing.
    """
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    chosen = folder / choose_file(names, stem, variant, str(folder))
    if chosen.suffix == ".safetensors":
        return [chosen]
    shards = sorted(set(read_json(chosen).get("weight_map", {}).values()))
    for shard in shards:
        if not (folder / require_safetensors(shard).name).is_file():
            raise UserError(f"{folder / shard} is missing, though {chosen.name} names it")
    return [folder / shard for shard in shards]


def all_weight_files(directory: Path, variant: str | None = None) -> list[Path]:
    """The weights of a model directory, or of a folder that holds one network.

    Raises:
      UserError: as `weight_files`.
    """
    if not (directory / INDEX).is_file():
        return weight_files(directory, DIFFUSERS_STEM, variant)
    index = read_json(directory / INDEX)
    parts = [part for part in sorted(STEMS) if names_a_class(index.get(part))]
    return [file for part in parts for file in weight_files(directory / part, STEMS[part], variant)]


def names_a_class(entry: Any) -> bool:
    """Whether an entry of the index, [library, class], is one of a part that is there."""
    return isinstance(entry, list) and len(entry) == 2 and entry[1] is not None


def choose_file(names: Collection[str], stem: str, variant: str | None, folder: str) -> str:
    """The name of the weights or of their index, among the names in a folder.

    Args:
      names: of the files in the folder.
      stem: the file name without suffixes.
      variant: as for `weight_files`.
      folder: for messages.

    Raises:
      UserError: there is none, only pickles, or several variants.
    """
    for candidate in _candidates(stem, variant):
        if candidate in names:
            return candidate
    wanted = _candidates(stem, variant)[0]
    found = {} if variant else _variants(names, stem)
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise UserError(
            f"{folder} holds no {wanted} but the variants {', '.join(sorted(found))}; choose one"
        )
    pickles = sorted(name for name in names if name.endswith(PICKLES))
    if pickles:
        raise UserError(
            f"{folder}/{wanted} is missing; {pickles[0]} is a pickle, and loading one runs the "
            "code in it: look for a variant of the model in safetensors"
        )
    raise UserError(f"{folder}/{wanted} is missing; only safetensors are read")


def _candidates(stem: str, variant: str | None) -> tuple[str, ...]:
    index = f"{stem}.safetensors.index"
    if variant is None:
        return f"{stem}.safetensors", f"{index}.json"
    return (
        f"{stem}.{variant}.safetensors",
        f"{index}.{variant}.json",
        f"{stem}.safetensors.{variant}.index.json",
    )


def _variants(names: Collection[str], stem: str) -> dict[str, str]:
    """The variants among the names, and the file of each."""
    found = {}
    for name in names:
        if re.search(SHARD, name):
            continue
        parts = name.removeprefix(f"{stem}.").split(".")
        for variant in parts if name.startswith(f"{stem}.") else ():
            if name in _candidates(stem, variant):
                found[variant] = name
    return found
