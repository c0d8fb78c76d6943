"""Checkpoints of a run, by Orbax: the state, its checksums, and the examples consumed.

    c = sum_i b_i (2 i + 1)  mod 2^32                                                            (1)

is the checksum of an array whose element number i has the bits b_i. The factors are odd, so one
wrong bit always changes it; the sum does not depend on how the array is cut over devices, so they
compute it where it lies, and a state can be checked on other devices than it was saved from.
TensorStore checks its indices, but not the numbers themselves.
"""

import logging
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree, UInt32

from jaxdiff.errors import UserError
from jaxdiff.training.hosts import all_say

log = logging.getLogger(__name__)


class Restored(NamedTuple):
    """A checkpoint read back."""

    step: int
    state: Any
    examples: int


class Checkpoints:
    """The checkpoints of one run, written asynchronously and atomically.

    A step's directory is renamed into place when it is whole, so a killed process leaves the one
    before.

    Args:
      directory: where they lie; created. Object stores (gs://, s3://) work where `epath` has their
        plugins.
      keep: how many are kept, the newest.
    """

    def __init__(self, directory: epath.PathLike, keep: int):
        self.directory = epath.Path(directory).resolve()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.LatestN(keep),
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)
        self._writing = 0

    def save(self, step: int, state: PyTree, examples: int) -> None:
        """Start writing a checkpoint; the state may be donated to the next step at once.

        A step that is on disk already is left as it is.

        Raises:
          UserError: this one or the one before cannot be written; those on disk are as they were.
        """
        data = {"examples": examples, "checksums": checksums(state)}
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data))
        try:
            self._manager.wait_until_finished()
            self._writing = step
            if step in self._manager.all_steps():
                return
            written = self._manager.save(step, args=items)
        except Exception as error:  # Orbax and TensorStore raise many kinds for a full disk
            raise self._unwritten(error) from error
        if not written:
            raise RuntimeError(f"checkpoint {step} was refused; there is a newer one")

    def restore(self, abstract: PyTree) -> Restored | None:
        """The newest checkpoint that can be read, or None where there is none.

        Damaged ones that are newer are named in a warning and renamed to `STEP.damaged`, so that
        training can write their steps again.

        Args:
          abstract: the state's shapes, types and shardings; those of other devices than it was
            saved from serve as well.

        Raises:
          UserError: there are checkpoints, and none can be read; they are left as they are.
        """
        damaged: list[int] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                restored = self._read(step, abstract)
                problem = None
            except Exception as error:  # of many kinds, too
                problem = str(error).partition("\n")[0] or type(error).__name__
            if all_say(problem is None) and (problem := _wrong_arrays(*restored)) is None:
                self._set_aside(damaged)
                return Restored(step, restored[0], restored[1]["examples"])
            problem = problem or "another process cannot read its part"
            log.warning("checkpoint %d is damaged, trying an older one: %s", step, problem)
            damaged.append(step)
        if damaged:
            raise UserError(
                f"none of the checkpoints {damaged} in {self.directory} can be read; "
                "move them away to start anew"
            )
        return None

    def _read(self, step: int, abstract: PyTree) -> tuple[PyTree, dict]:
        """The state and what is known of it."""
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()
        )
        restored = self._manager.restore(step, args=items)
        return restored.state, restored.data

    def _set_aside(self, steps: list[int]) -> None:
        if jax.process_index() == 0:
            for step in steps:
                path = self.directory / str(step)
                names = (f"{step}.damaged{'' if n == 1 else n}" for n in range(1, 1000))
                path.rename(next(to for name in names if not (to := path.parent / name).exists()))
        if steps:
            all_say(True)  # a barrier
            self._manager.reload()

    def newest(self) -> str:
        """The newest finished checkpoint, in words."""
        steps = [int(path.name) for path in self.directory.iterdir() if path.name.isdigit()]
        return str(self.directory / str(max(steps))) if steps else "none"

    def _unwritten(self, error: Exception) -> UserError:
        reason = next((text for text in _FULL if text in str(error)), None)
        reason = reason or str(error).partition("\n")[0]
        return UserError(
            f"checkpoint {self._writing} cannot be written to {self.directory}: {reason}; training "
            f"stopped. The last good checkpoint: {self.newest()}. Make room, and run the command "
            "again"
        )

    def finish(self) -> None:
        """Wait until everything is on disk.

        Raises:
          UserError: it cannot be written.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._unwritten(error) from error

    def close(self) -> None:
        """Wait until everything is on disk, and let it go.

        Raises:
          UserError: it cannot be written.
        """
        self.finish()
        self._manager.close()


_FULL = ("No space left on device", "Disk quota exceeded", "File too large")


def checksums(tree: PyTree) -> list[int]:
    """The checksum (eq. 1) of every array of a tree, in the order of its leaves."""
    leaf = jax.tree.leaves(tree)[0]
    replicated = None
    if isinstance(leaf.sharding, NamedSharding):
        replicated = NamedSharding(leaf.sharding.mesh, PartitionSpec())
    sums = jax.jit(_checksums, out_shardings=replicated)(tree)
    return np.asarray(jax.device_get(sums)).tolist()


def _checksums(tree: PyTree) -> UInt32[Array, " leaves"]:
    return jnp.stack([_checksum(leaf) for leaf in jax.tree.leaves(tree)])


def _checksum(x: Array) -> UInt32[Array, ""]:
    bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}"))
    number, stride = jnp.zeros(x.shape, jnp.uint32), 1
    for axis in reversed(range(x.ndim)):
        number += jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * np.uint32(stride % 2**32)
        stride *= x.shape[axis]
    return jnp.sum(bits.astype(jnp.uint32) * (2 * number + 1), dtype=jnp.uint32)


def _wrong_arrays(state: PyTree, data: dict) -> str | None:
    """Which arrays are not what was saved, in words; None where all are, or nobody knows."""
    saved = data.get("checksums")
    if saved is None:  # by an older version
        return None
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(state)[0]]
    now = checksums(state)
    names = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, then, found in zip(paths, saved, now, strict=True)
        if then != found
    ]
    if not names:
        return None
    more = f" and {len(names) - 1} more arrays" if len(names) > 1 else ""
    return f"{names[0]}{more} are not what was saved"
