"""Parameter trees from torch tensors and back, strictly: every name and every shape must match."""

from typing import Any

import jax
import numpy as np

from jaxdiff.convert.names import our_layout, our_path, torch_key, torch_layout
from jaxdiff.errors import UserError
from jaxdiff.models import parameter_shapes

__all__ = ["Params", "from_torch", "parameter_shapes", "to_torch"]

Params = dict[str, Any]
_SHOWN = 3  # names of each kind of mismatch in a message


def from_torch(tensors: dict[str, np.ndarray], shapes: Params, source: str) -> Params:
    """Fill a tree of `shapes` with torch tensors, as float32.

    Args:
      tensors: torch keys and arrays of any float type.
      shapes: what `parameter_shapes` says.
      source: where the tensors came from, for the message.

    Raises:
      UserError: a parameter is missing, unexpected or of another shape; all are named by torch key.
    """
    leaves, treedef = jax.tree_util.tree_flatten_with_path(shapes)
    wanted = {_join(path): leaf for path, leaf in leaves}
    given, unexpected = {}, []
    for key, array in tensors.items():
        path = our_path(key)
        if path in wanted:
            given[path] = our_layout(path, array, len(wanted[path].shape))
        elif path is not None:
            unexpected.append(key)
    missing = [torch_key(path) for path in wanted if path not in given]
    wrong = [
        f"{torch_key(path)} is {given[path].shape}, expected {wanted[path].shape}"
        for path in given
        if given[path].shape != wanted[path].shape
    ]
    _require_match(source, missing, unexpected, wrong)
    arrays = [np.ascontiguousarray(given[path], np.float32) for path in wanted]
    return jax.tree_util.tree_unflatten(treedef, arrays)


def to_torch(
    params: Params, *, prefix: str = "", linear_projection: bool = True
) -> dict[str, np.ndarray]:
    """The torch keys and arrays of a parameter tree, the inverse of `from_torch`.

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
            f"{source} does not match its config.json: {', '.join(found)}; "
            "check that both come from the same model"
        )
