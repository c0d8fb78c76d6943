"""Safetensors files as dicts of numpy arrays, with errors that name the file."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from jaxdiff.errors import UserError


def read_json(path: Path) -> dict:
    """The object in a JSON file.

    Raises:
      UserError: the file is missing or does not hold a JSON object.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; is {path.parent} a complete model?") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}); fetch it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} should hold a JSON object, not a {type(content).__name__}")
    return content


def write_json(path: Path, content: dict) -> None:
    """Write an object as indented JSON with sorted keys."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def weight_files(folder: Path, stem: str) -> list[Path]:
    """The safetensors files of one part: a single one, its float16 variant, or numbered shards.

    Raises:
      UserError: there is none, or a shard that the index names is missing.
    """
    for name in (f"{stem}.safetensors", f"{stem}.fp16.safetensors"):
        if (folder / name).is_file():
            return [folder / name]
    index = folder / f"{stem}.safetensors.index.json"
    if not index.is_file():
        raise UserError(
            f"{folder / stem}.safetensors is missing; only safetensors are read (no .bin or .ckpt)"
        )
    shards = sorted(set(read_json(index).get("weight_map", {}).values()))
    for shard in shards:
        if not (folder / shard).is_file():
            raise UserError(f"{folder / shard} is missing, though {index.name} names it")
    return [folder / shard for shard in shards]


def read_tensors(files: list[Path]) -> dict[str, np.ndarray]:
    """All arrays of these files.

    Raises:
      UserError: a file is truncated or no safetensors file.
    """
    tensors = {}
    for file in files:
        try:
            tensors |= load_file(file)
        except (SafetensorError, OSError, KeyError) as error:
            raise UserError(
                f"{file} is truncated or no safetensors file ({error}); fetch it again"
            ) from error
    return tensors


def write_tensors(path: Path, tensors: dict[str, np.ndarray], dtype: DTypeLike) -> None:
    """Write the arrays as `dtype`, marked as torch's layout (which other libraries ask for).

    Raises:
      ValueError: a value does not fit `dtype` (float16 ends at 65504), or is not finite.
    """
    with np.errstate(over="ignore"):  # said below, by name
        stored = {name: np.ascontiguousarray(array, dtype) for name, array in tensors.items()}
    for name, array in stored.items():
        if not np.isfinite(array.astype(np.float32)).all():
            raise ValueError(f"{name} is not finite as {np.dtype(dtype).name}; nothing written")
    save_file(stored, path, metadata={"format": "pt"})
    path.chmod(0o644)  # the library makes files that only their owner can read
