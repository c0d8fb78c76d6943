"""Parameter trees from torch tensors and back, strictly: every name and every shape must match."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from numpy.typing import DTypeLike

from jaxdiff.convert.names import our_layout, our_path, torch_key, torch_layout
from jaxdiff.convert.tensors import Tensor
from jaxdiff.errors import UserError
from jaxdiff.models import parameter_shapes

__all__ = ["Params", "from_torch", "parameter_shapes", "to_torch"]

Params = dict[str, Any]
_SHOWN = 3  # names of each kind of mismatch in a message
_BLOCK = 128  # rows and columns
_ALIGNMENT = 64  # bytes; jax uses such an array where it lies instead of copying it


def from_torch(
    tensors: Mapping[str, Tensor],
    shapes: Params,
    source: str,
    dtype: DTypeLike | None = np.float32,
) -> Params:
    """Fill a tree of `shapes` with torch tensors, read one after the other.

    Args:
      tensors: by torch key, of any float type.
      shapes: what `parameter_shapes` says.
      source: where the tensors came from, for messages.
      dtype: of the parameters; None keeps each tensor's own.

    Raises:
      UserError: a parameter is missing, unexpected or of another shape (all are named by torch
        key), or does not fit `dtype`.
    """
    leaves, treedef = jax.tree_util.tree_flatten_with_path(shapes)
    wanted = {_join(path): tuple(leaf.shape) for path, leaf in leaves}
    given, unexpected = {}, []
    for key, tensor in tensors.items():
        path = our_path(key)
        if path in wanted:
            given[path] = tensor
        elif path is not None:
            unexpected.append(key)
    missing = [torch_key(path) for path in wanted if path not in given]
    ours = {path: _our_shape(path, given[path], len(wanted[path])) for path in given}
    wrong = [
        f"{torch_key(path)} is {shape}, expected {wanted[path]}"
        for path, shape in ours.items()
        if shape != wanted[path]
    ]
    _require_match(source, missing, unexpected, wrong)
    arrays = {path: _read(path, given[path], len(wanted[path]), source, dtype) for path in given}
    return jax.tree_util.tree_unflatten(treedef, [arrays[path] for path in wanted])


def to_torch(
    params: Params, *, prefix: str = "", linear_projection: bool = True
) -> dict[str, np.ndarray]:
    """The torch keys and arrays of a parameter tree, the inverse of `from_torch`; copies nothing.

    Args:
      params: a tree of arrays.
      prefix: put before the keys ("text_model." for a text encoder).
      linear_projection: a UNet's `use_linear_projection`.
    """
    return {
        torch_key(_join(path), prefix=prefix): torch_layout(
            _join(path), np.asarray(leaf), linear_projection=linear_projection
        )
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
    }


def _our_shape(path: str, tensor: Tensor, axes: int) -> tuple[int, ...]:
    """The shape of a torch tensor in our layout."""
    return our_layout(path, np.broadcast_to(np.float32(0), tensor.shape), axes).shape


def _read(path: str, tensor: Tensor, axes: int, source: str, dtype: DTypeLike | None) -> np.ndarray:
    """A torch tensor in our layout and type."""
    array = our_layout(path, np.asarray(tensor), axes)
    out = _aligned(array.shape, np.dtype(dtype or array.dtype))
    try:
        with np.errstate(over="raise"):
            _copy(array, out)
    except FloatingPointError as error:
        raise UserError(
            f"{source}: {torch_key(path)} does not fit {out.dtype.name}; load it as float32"
        ) from error
    return out


def _copy(array: np.ndarray, out: np.ndarray) -> None:
    """Fill `out` block by block: a transposed matrix in one go misses the caches all the time."""
    if array.ndim < 2:
        out[...] = array
        return
    rows, columns = array.shape[-2:]
    for i in range(0, rows, _BLOCK):
        for j in range(0, columns, _BLOCK):
            block = (..., slice(i, i + _BLOCK), slice(j, j + _BLOCK))
            out[block] = array[block]


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array of any content that begins where jax wants one to."""
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def _join(path: tuple[Any, ...]) -> str:
    return "/".join(str(entry.key) for entry in path)


def _require_match(
    source: str, missing: list[str], unexpected: list[str], wrong: list[str]
) -> None:
    """Raise one line that names what does not match."""
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": wrong}
    found = []
    for kind, names in kinds.items():
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            found.append(f"{len(names)} {kind} ({'; '.join(names[:_SHOWN])}{more})")
    if found:
        raise UserError(
            f"{source} does not match its configuration: {', '.join(found)}; "
            "check that both come from the same model"
        )
