"""Checkpoints of a run, by Orbax: the state, and how many examples have been consumed."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from jaxdiff.errors import UserError

log = logging.getLogger(__name__)


class Restored(NamedTuple):
    """A checkpoint read back."""

    step: int
    state: Any
    examples: int


class Checkpoints:
    """The checkpoints of one work directory, written asynchronously and atomically.

    A step's directory is renamed into place when it is whole, so a killed process leaves the one
    before.

    Args:
      directory: where they lie; created.
      keep: how many are kept, the newest.
    """

    def __init__(self, directory: Path, keep: int):
        self.directory = directory.resolve()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.LatestN(keep),
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def save(self, step: int, state: Any, examples: int) -> None:
        """Start writing a checkpoint; the state may be donated to the next step at once.

        A step that is on disk already is left as it is.

        Raises:
          RuntimeError: Orbax will not write it.
        """
        if step in self._manager.all_steps():
            return
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), data=ocp.args.JsonSave({"examples": examples})
        )
        if not self._manager.save(step, args=items):
            raise RuntimeError(f"checkpoint {step} was refused; there is a newer one")

    def restore(self, abstract: Any) -> Restored | None:
        """The newest checkpoint that can be read, or None where there is none.

        Damaged ones that are newer are named in a warning and renamed to `STEP.damaged`, so that
        training can write their steps again.

        Args:
          abstract: the state's shapes, types and shardings.

        Raises:
          UserError: there are checkpoints, and none can be read; they are left as they are.
        """
        damaged: list[int] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            items = ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()
            )
            try:
                restored = self._manager.restore(step, args=items)
            except Exception as error:  # Orbax and TensorStore raise many kinds for a bad file
                log.warning("checkpoint %d cannot be read, trying an older one: %s", step, error)
                damaged.append(step)
                continue
            self._set_aside(damaged)
            return Restored(step, restored.state, restored.data["examples"])
        if damaged:
            raise UserError(
                f"none of the checkpoints {damaged} in {self.directory} can be read; "
                "move them away to start anew"
            )
        return None

    def _set_aside(self, steps: list[int]) -> None:
        if jax.process_index() == 0:
            for step in steps:
                path = self.directory / str(step)
                path.rename(path.with_name(f"{step}.damaged"))
        if steps:
            self._manager.reload()

    def newest(self) -> str:
        """The newest finished checkpoint, in words."""
        self._manager.wait_until_finished()
        step = self._manager.latest_step()
        return "none" if step is None else str(self.directory / str(step))

    def close(self) -> None:
        """Wait until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()
