"""Rows on disk that are computed once: what a frozen network makes of a picture or a caption.

A cache is a folder named by a hash of everything that its rows depend on (`facts.json` says what in
words), so that another picture, another weight or another version of this file is another cache.
Rows lie in chunks, one .npy file each, written whole or not at all: a computation that was
interrupted goes on behind the last whole chunk, and several processes may share the work.

Axis legend: N rows, B rows of a batch.
"""

import hashlib
import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int
from numpy.typing import DTypeLike

from jaxdiff import target
from jaxdiff.errors import UserError
from jaxdiff.training.step import Params

log = logging.getLogger(__name__)

VERSION = 1  # of what lies on disk; raise it where the meaning of rows changes
CHUNK = 128  # rows of a file
PER_DEVICE = 16  # rows that a device computes at a time

Compute = Callable[[np.ndarray], dict[str, np.ndarray]]
"""Numbers [B] of rows -> their fields [B ...]."""


@dataclass(frozen=True)
class Rows:
    """Random access to the rows of a cache."""

    digest: str
    """Hash of all that they depend on."""
    chunks: list[np.ndarray]
    """Memory-mapped files."""
    places: Int[np.ndarray, "N 2"]
    """Which chunk, and which row of it."""

    def __getitem__(self, index: int) -> np.void:
        """The fields of a row."""
        chunk, row = self.places[index]
        return self.chunks[chunk][row]


def cached_rows(
    folder: Path,
    kind: str,
    facts: dict[str, Any],
    groups: Sequence[tuple[np.dtype, Int[np.ndarray, " _"]]],
    compute: Compute,
) -> Rows:
    """Open a cache; what is missing is computed and written first.

    Args:
      folder: where caches lie; created.
      kind: what the rows are ("latents").
      facts: all that the rows depend on; JSON values.
      groups: rows of one form each: its structured type, and the numbers of the rows.
      compute: makes the rows.

    Raises:
      UserError: the folder can not be written or has no room.
    """
    facts = {"kind": kind, "version": VERSION, **facts}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:20]
    home = folder / f"{kind}-{digest}"
    total = sum(len(indices) for _, indices in groups)
    pieces = [
        (dtype, indices[start : start + CHUNK])
        for dtype, indices in groups
        for start in range(0, len(indices), CHUNK)
    ]
    places = np.empty((total, 2), np.int64)
    for chunk, (_, indices) in enumerate(pieces):
        places[indices, 0], places[indices, 1] = chunk, np.arange(len(indices))
    try:
        home.mkdir(parents=True, exist_ok=True)
        _write_whole(home / "facts.json", (json.dumps(facts, indent=2) + "\n").encode())
        _fill(home, pieces, compute)
        chunks = [_open(_file(home, i), *piece) for i, piece in enumerate(pieces)]
    except OSError as error:
        raise UserError(f"data.cache={folder} cannot be written: {error}") from error
    return Rows(digest, chunks, places)


def _fill(home: Path, pieces: list, compute: Compute) -> None:
    """Compute the chunks that are not there; each process begins at a place of its own."""
    first = jax.process_index() * len(pieces) // jax.process_count()
    missing = [i for i, piece in enumerate(pieces) if _open(_file(home, i), *piece) is None]
    missing = [i for i in missing if i >= first] + [i for i in missing if i < first]
    count, start = sum(len(pieces[i][1]) for i in missing), time.perf_counter()
    if missing:
        log.info("computing %d rows of the cache %s", count, home)
    for i in missing:
        dtype, indices = pieces[i]
        if _open(_file(home, i), dtype, indices) is not None:
            continue  # another process was faster
        rows = _finite_rows(dtype, compute(indices), home)
        with _temporary(_file(home, i)).open("wb") as file:
            np.save(file, rows, allow_pickle=False)
            name = file.name
        os.replace(name, _file(home, i))
    if missing:
        log.info("computed them in %.0f seconds", time.perf_counter() - start)


def _finite_rows(dtype: np.dtype, fields: dict[str, np.ndarray], home: Path) -> np.ndarray:
    """The rows as they are stored.

    Raises:
      UserError: a number is not finite, or becomes infinite as it is stored.
    """
    rows = np.empty(len(next(iter(fields.values()))), dtype)
    for name, values in fields.items():
        with np.errstate(over="ignore"):  # said below, by name
            rows[name] = values
        if not np.isfinite(rows[name]).all():
            stored = rows[name].dtype.name
            raise UserError(
                f"the cache {home} cannot be written: {name} is not finite as {stored}; "
                "train with --dtype float32, or without data.cache"
            )
    return rows


def _file(home: Path, chunk: int) -> Path:
    return home / f"{chunk:06d}.npy"


def _open(path: Path, dtype: np.dtype, indices: np.ndarray) -> np.ndarray | None:
    """A chunk, memory-mapped; None if it is not there, or not whole."""
    try:
        chunk = np.load(path, mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError):
        return None
    return chunk if chunk.dtype == dtype and chunk.shape == indices.shape else None


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def _write_whole(path: Path, content: bytes) -> None:
    temporary = _temporary(path)
    temporary.write_bytes(content)
    temporary.replace(path)


def storage_type(dtype: DTypeLike) -> str:
    """How what was computed in `dtype` is stored.

    Between 6e-5 and 65504, float16 holds all digits of a bfloat16; smaller numbers are rounded to
    multiples of 6e-8, and larger ones are refused when they are written.
    """
    return "<f4" if jnp.dtype(dtype) == jnp.float32 else "<f2"


def batched(function: Callable, params: Params) -> Callable:
    """Compile function(params, rows) and call it in batches of one size over local devices.

    Args:
      function: (params, array [B ...]) -> a tree of arrays [B ...].
      params: put on every device at the first call.

    Returns:
      An array of any length -> the tree, in numpy.
    """
    mesh = Mesh(np.array(jax.local_devices()), ("rows",))
    everywhere, spread = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("rows",)))
    compiled, placed, size = jax.jit(function), [], PER_DEVICE * mesh.size

    def call(rows: np.ndarray) -> Any:
        if not placed:
            placed.append(jax.device_put(params, everywhere))
        parts = []
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            take = np.minimum(np.arange(size), len(part) - 1)  # repeats the last row
            with target.cut_over(mesh, rows=("rows",)):
                made = compiled(placed[0], jax.device_put(part[take], spread))
            parts.append(jax.device_get(made))
        return jax.tree.map(lambda *x: np.concatenate(x)[: len(rows)], *parts)

    return call


def tree_hash(tree: Params) -> str:
    """Hash of a tree's names, shapes, types and numbers."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        array: Array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()
