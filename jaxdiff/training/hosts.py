"""Several processes as one run: how they find each other, agree, and stop together.

jax's distributed runtime does the work. A process that dies is missed after `HEARTBEAT` seconds,
and the others are ended with a message; nothing waits for it longer.
"""

import argparse
import hashlib
import json
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from jaxdiff.errors import UserError

log = logging.getLogger(__name__)

HEARTBEAT = 30  # seconds without a sign of life after which a process counts as dead
_SHUTDOWN = 60  # seconds that a process which is done waits for the others
_PACKAGE = Path(__file__).parents[1]
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain")


class Hosts(NamedTuple):
    """Where a process stands among those of a run; None: as the cluster says, if there is one."""

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None


def split_flags(arguments: Sequence[str]) -> tuple[Hosts, list[str]]:
    """Take --coordinator HOST:PORT, --num-processes P and --process-id p from a command line.

    Raises:
      UserError: some of the three are given and others are not, or one is no number.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--coordinator")
    parser.add_argument("--num-processes", type=int)
    parser.add_argument("--process-id", type=int)
    try:
        found, rest = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from error
    hosts = Hosts(found.coordinator, found.num_processes, found.process_id)
    missing = [f"--{name.replace('_', '-')}" for name, x in hosts._asdict().items() if x is None]
    if missing and len(missing) < len(hosts) and hosts != Hosts(num_processes=1):
        raise UserError(
            f"{' and '.join(missing)} is missing: give --coordinator, --num-processes and "
            "--process-id together, or none of them on a TPU pod, SLURM or Kubernetes"
        )
    return hosts, rest


def connect(hosts: Hosts, *, stops_together: bool = True) -> None:
    """Join the processes of a run, before any device is used.

    Without flags, jax asks TPU pods, SLURM, Open MPI and Kubernetes who they are; where none of
    them answers, the process runs alone. `--num-processes 1` asks nobody.

    Args:
      hosts: the flags.
      stops_together: SIGTERM tells all processes to stop, as `Preemption` says; if False, it ends
        the process that gets it, as it does any program.

    Raises:
      UserError: the others cannot be found.
    """
    if hosts == Hosts(num_processes=1):
        return
    try:
        jax.distributed.initialize(
            *hosts,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=_SHUTDOWN,
        )
    except Exception as error:  # whatever a cluster's environment makes jax stumble over
        if hosts == Hosts() and "coordinator_address should be" in str(error):
            return  # no cluster
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"cannot join the other processes ({reason}); give --coordinator, --num-processes and "
            "--process-id, or --num-processes 1 to run alone"
        ) from error
    if not stops_together:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which jax's service has taken
    log.info("process %d of %d", jax.process_index(), jax.process_count())


def exit_together(run: Callable[[], int]) -> int:
    """Call `run`; a process that fails among several leaves at once, so that none waits for it."""
    try:
        code = run()
    except (Exception, KeyboardInterrupt):
        if not jax.distributed.is_initialized() or jax.process_count() == 1:
            raise
        traceback.print_exc()
        code = 1
    if code and jax.distributed.is_initialized() and jax.process_count() > 1:
        print(f"process {jax.process_index()} stops, and so will the others", file=sys.stderr)
        sys.stderr.flush()
        sys.stdout.flush()
        os._exit(code)  # the usual way out would wait for processes that wait for this one
    return code


def code_version() -> dict[str, str]:
    """What this process runs: a hash of jaxdiff's own files, and the versions of libraries."""
    digest = hashlib.sha256()
    for file in sorted(_PACKAGE.rglob("*.py")):
        digest.update(file.relative_to(_PACKAGE).as_posix().encode() + file.read_bytes())
    libraries = {name: metadata.version(name) for name in _LIBRARIES}
    return {"version of jaxdiff": digest.hexdigest()[:12], **libraries}


def require_agreement(facts: dict[str, Any]) -> None:
    """Check that every process has the same facts; a barrier, too.

    Args:
      facts: name -> JSON value.

    Raises:
      UserError: names the processes that differ from the first, and in what.
    """
    if jax.process_count() == 1:
        return
    text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    length = int(np.max(multihost_utils.process_allgather(np.int32(len(text)))))
    padded = np.pad(text, (0, length - len(text)), constant_values=ord(" "))
    first, *others = map(json.loads, map(bytes, multihost_utils.process_allgather(padded)))
    differing = [
        f"process {number} has {name}={other.get(name)!r}, process 0 {first.get(name)!r}"
        for number, other in enumerate(others, 1)
        for name in sorted({**first, **other})
        if other.get(name) != first.get(name)
    ]
    if differing:
        more = f"; and {len(differing) - 4} more" if len(differing) > 4 else ""
        raise UserError(
            f"the processes of this run disagree: {'; '.join(differing[:4])}{more}. Start all of "
            "them with the same command and the same code"
        )


def all_say(yes: bool) -> bool:
    """Whether every process says yes."""
    if jax.process_count() == 1:
        return yes
    return bool(np.all(multihost_utils.process_allgather(np.bool_(yes))))


def wait_for_all(name: str) -> None:
    """Wait until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def gather(tree: PyTree) -> PyTree:
    """Whole arrays on every host, one at a time; every process must call it."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return jax.tree.map(lambda x: multihost_utils.process_allgather(x, tiled=True), tree)


class Preemption:
    """Notes SIGTERM, the word of clusters that a machine will be taken away soon.

    Within the block it ends no process. Of several processes it reaches one or all; jax's
    preemption service makes them stop at the same step.
    """

    def __init__(self) -> None:
        self._noted = False
        self._previous: Any = None

    def __enter__(self) -> "Preemption":
        alone = jax.process_count() == 1
        if alone and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted = True

    def reached(self, before: int, step: int) -> bool:
        """Whether to save and stop now, after the steps `before` + 1 to `step`."""
        if jax.process_count() == 1:
            return self._noted
        # The service names the step to stop at; every number must be asked about.
        numbers = range(before + 1, step + 1)
        return any([multihost_utils.reached_preemption_sync_point(n) for n in numbers])
