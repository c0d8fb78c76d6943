"""Safetensors files tensor by tensor: read where and when needed, written one after the other.

Neither way is a file held in memory as a whole. Reading does not map the file either: its pages
would count as memory of the process.
"""

import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike
from safetensors import SafetensorError, safe_open

from jaxdiff.errors import UserError

PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
_DTYPES = {
    "BF16": ml_dtypes.bfloat16,
    "BOOL": np.bool_,
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I16": np.int16,
    "I32": np.int32,
    "I64": np.int64,
    "I8": np.int8,
    "U8": np.uint8,
}
_CODES = {np.dtype(dtype): code for code, dtype in _DTYPES.items()}
_ALIGNMENT = 8  # bytes, of the header


@dataclass(frozen=True)
class Stored:
    """A tensor in a file, or made of some: numpy reads it where it needs an array."""

    shape: tuple[int, ...]
    """Its axes."""
    dtype: np.dtype
    """Its type."""
    read: Callable[[], np.ndarray]
    """Reads it anew at every call."""

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        """The tensor, read now."""
        return np.asarray(self.read(), dtype)


Tensor = np.ndarray | Stored


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      UserError: the file is missing or does not hold a JSON object.
    """
    return _read_json(path, dict, "object")


def read_json_list(path: Path) -> list[Any]:
    """The array in a JSON file.

    Raises:
      UserError: the file is missing or does not hold a JSON array.
    """
    return _read_json(path, list, "array")


def _read_json(path: Path, kind: type, name: str) -> Any:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; is {path.parent} a complete model?") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}); fetch it again") from error
    if not isinstance(content, kind):
        raise UserError(f"{path} should hold a JSON {name}, not a {type(content).__name__}")
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write an object as indented JSON with sorted keys."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", "utf-8")


def require_safetensors(path: str | Path) -> Path:
    """The path, if it may be a safetensors file by its name.

    Raises:
      UserError: its name is a pickle's, or has another suffix.
    """
    path = Path(path)
    if path.suffix.lower() in PICKLES:
        raise UserError(
            f"{path} is a pickle, and loading one runs the code in it: only .safetensors is read; "
            "look for a safetensors file of the same model"
        )
    if path.suffix.lower() != ".safetensors":
        raise UserError(f"{path} should be a .safetensors file")
    return path


def open_tensors(files: Iterable[Path]) -> dict[str, Stored]:
    """The tensors of these files by name, in the order of the files; none is read yet.

    Raises:
      UserError: a file is missing, truncated or no safetensors file.
    """
    tensors = {}
    for file in files:
        start, header = _header(file)
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            if entry["dtype"] not in _DTYPES:
                raise UserError(f"{file}: {name} has the unknown type {entry['dtype']}")
            dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"])
            offset = start + entry["data_offsets"][0]
            tensors[name] = Stored(shape, dtype, _Reader(file, offset, shape, dtype))
    return tensors


def read_tensors(files: Iterable[Path]) -> dict[str, np.ndarray]:
    """All arrays of these files, each in its own type.

    Raises:
      UserError: a file is missing, truncated or no safetensors file.
    """
    return {name: tensor.read() for name, tensor in open_tensors(files).items()}


def read_metadata(file: Path) -> dict[str, str]:
    """What a file says of itself in its header.

    Raises:
      UserError: the file is missing, truncated or no safetensors file.
    """
    return _header(file)[1].get("__metadata__", {})


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    dtype: DTypeLike | None = None,
    metadata: Mapping[str, str] | None = None,
    keep: Collection[str] = (),
) -> None:
    """Write tensors whole or not at all, marked as torch's layout (which others ask for).

    Args:
      path: the file.
      tensors: by name.
      dtype: of all that are of a float type; None keeps each one's own.
      metadata: texts for the header.
      keep: names of tensors that keep their own type in any case.

    Raises:
      UserError: a value does not fit `dtype` (float16 ends at 65504), or is not finite.
    """
    types = {
        name: _stored_type(tensor, None if name in keep else dtype)
        for name, tensor in tensors.items()
    }
    # As the library does: large types first, so that all are aligned; then by name.
    order = sorted(tensors, key=lambda name: (-types[name].itemsize, name))
    staged = path.with_name(f".{path.name}.tmp")
    try:
        with staged.open("wb") as stream:
            stream.write(_encoded_header(order, tensors, types, metadata or {}))
            for name in order:
                stream.write(_finite(name, tensors[name], types[name]).reshape(-1).view(np.uint8))
        os.replace(staged, path)
    finally:
        staged.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Reader:
    """Reads one tensor of a file."""

    file: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    def __call__(self) -> np.ndarray:
        count = int(np.prod(self.shape, dtype=np.int64))
        array = np.fromfile(self.file, self.dtype, count, offset=self.offset)
        if array.size != count:
            raise UserError(f"{self.file} has become shorter while it was read; fetch it again")
        return array.reshape(self.shape)


def _header(file: Path) -> tuple[int, dict[str, Any]]:
    """Where the data begin, and what the header says."""
    try:
        with safe_open(file, "numpy"):  # checks the header, and the file's length against it
            pass
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            return 8 + length, json.loads(stream.read(length))
    except FileNotFoundError as error:
        raise UserError(f"{file} does not exist") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{file} is truncated or no safetensors file ({error}); fetch it again"
        ) from error


def _stored_type(tensor: Tensor, dtype: DTypeLike | None) -> np.dtype:
    floating = jnp.issubdtype(tensor.dtype, jnp.floating)
    return np.dtype(dtype if floating and dtype is not None else tensor.dtype)


def _encoded_header(
    order: list[str],
    tensors: Mapping[str, Tensor],
    types: dict[str, np.dtype],
    metadata: Mapping[str, str],
) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    end = 0
    for name in order:
        shape, start = list(tensors[name].shape), end
        end += types[name].itemsize * int(np.prod(shape, dtype=np.int64))
        code = _CODES[types[name]]
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    encoded += b" " * (-len(encoded) % _ALIGNMENT)
    return len(encoded).to_bytes(8, "little") + encoded


def _finite(name: str, tensor: Tensor, dtype: np.dtype) -> np.ndarray:
    """The tensor as an array of a type, in C order."""
    with np.errstate(over="ignore"):  # said below, by name
        array = np.ascontiguousarray(tensor, dtype)
    if jnp.issubdtype(dtype, jnp.floating) and not np.isfinite(array).all():
        raise UserError(f"{name} is not finite as {dtype.name}; nothing written")
    return array
