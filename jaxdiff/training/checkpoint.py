"""Checkpoints of a run, by Orbax: the state, and a record of what it is.

The record has the number of examples consumed, the checksum of every array (`checksums`), what run
it is of, and a checksum of itself.
"""

import json
import logging
import re
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from etils import epath
from jaxtyping import PyTree

from jaxdiff.errors import UserError
from jaxdiff.training.checksums import checksums, wrong_arrays
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
      about: JSON values that every checkpoint carries: what run it is of.
      check: called with what a checkpoint carries before it is restored; raises `UserError` if that
        is of another run. Checkpoints of older versions carry nothing, and are not asked about.
    """

    def __init__(
        self,
        directory: epath.PathLike,
        keep: int,
        about: dict[str, Any] | None = None,
        check: Callable[[dict[str, Any]], None] = lambda about: None,
    ):
        self.directory, self._about, self._check = epath.Path(directory).resolve(), about, check
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
        record = {"examples": examples, "checksums": checksums(state), "about": self._about}
        data = ocp.args.JsonSave({**record, "crc": _crc(record)})
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), data=data)
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
          UserError: there are checkpoints, and none can be read; or the newest is of another run;
            or something else than damage is in the way. They are left as they are.
        """
        damaged: list[int] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            state, record, problem = self._try(step, abstract)
            if all_say(problem is None):
                saved = record.get("checksums")  # None: by an older version
                problem = None if saved is None else wrong_arrays(state, saved)
                if problem is None:
                    self._set_aside(damaged)
                    return Restored(step, state, record["examples"])
            problem = problem or "another process cannot read its part"
            log.warning("checkpoint %d is damaged, trying an older one: %s", step, problem)
            damaged.append(step)
        if damaged:
            raise UserError(
                f"none of the checkpoints {damaged} in {self.directory} can be read; "
                "move them away to start anew"
            )
        return None

    def _try(self, step: int, abstract: PyTree) -> tuple[PyTree, dict, str | None]:
        """The state, its record, and what is wrong with this process's part of the checkpoint.

        The handler reads without waiting for other processes, as the manager does, so one that
        fails does not leave the others waiting.
        """
        path = self.directory / str(step)
        try:
            record = _read_record(path / "data" / "metadata")
            if record.get("about") is not None:
                self._check(record["about"])
            arguments = ocp.args.StandardRestore(abstract)
            state = ocp.StandardCheckpointHandler().restore(path / "state", args=arguments)
            return state, record, None
        except UserError:
            raise
        except Exception as error:  # Orbax and TensorStore raise many kinds for damage
            reason = str(error).partition("\n")[0] or type(error).__name__
            if _in_the_way(error):
                raise UserError(
                    f"checkpoint {path} cannot be read: {reason}. It need not be damaged, and "
                    "stays as it is: mend that, and run the command again"
                ) from error
            return None, {}, reason

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

    def check_writing(self) -> None:
        """Notice that a checkpoint could not be written; waits for nothing.

        Raises:
          UserError: it could not.
        """
        if not self._manager.is_saving_in_progress():
            self.finish()

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
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_NO_DAMAGE = re.compile(
    "PERMISSION_DENIED|UNAUTHENTICATED|UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED"
    "|permission denied|out of memory|HttpError|Client[A-Za-z]*Error|Disconnected",
    re.IGNORECASE,
)
"""What TensorStore, XLA and object stores say where a checkpoint may be as good as ever."""


def _in_the_way(error: BaseException) -> bool:
    """Whether it was a missing permission, connection or memory that prevented reading."""
    if isinstance(error, OSError | MemoryError | ImportError):
        return not isinstance(error, _ABSENT)
    return _NO_DAMAGE.search(f"{type(error).__name__}: {error}") is not None


def _crc(record: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())


def _read_record(path: epath.Path) -> dict[str, Any]:
    """The record of a checkpoint; raises `ValueError` where it is not what was written."""
    record = json.loads(path.read_text())
    if set(record) in ({"examples"}, {"examples", "checksums"}):  # older versions had no more
        return record
    crc = record.pop("crc", None)
    if crc != _crc(record):
        raise ValueError("its record is not what was saved")
    return record
