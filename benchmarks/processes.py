"""Pieces of work in processes of their own, so that memory, caches and first times are their own.

    call("benchmarks.train_step:measure", {"preset": "tiny"})

runs `python -m benchmarks.processes benchmarks.train_step:measure '{"preset": "tiny"}'`, whose last
line is the result as JSON. What is imported before the function is asked for is no part of jax.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxdiff import platform
from jaxdiff.errors import UserError

CPU = {"JAX_PLATFORMS": "cpu"}
"""Settings of a process that needs no accelerator, and must not take it."""

_NO_ROOM = "RESOURCE_EXHAUSTED", "MemoryError", "Out of memory", "bad_alloc"


class ProcessFailed(Exception):
    """A process ended without a result; the message says why, in a few words."""


def environment(**settings: str) -> dict[str, str]:
    """The environment of a process that imports `benchmarks`.

    Args:
      **settings: variables that differ from this process's.
    """
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    return os.environ | settings | {"PYTHONPATH": path}


@contextmanager
def empty_cache() -> Iterator[dict[str, str]]:
    """The settings of processes that share a compile cache, empty at first and removed after."""
    with tempfile.TemporaryDirectory() as folder:
        yield {"JAX_COMPILATION_CACHE_DIR": folder}


def call(target: str, arguments: dict[str, Any], **settings: str) -> Any:
    """What a function says in a process of its own.

    Args:
      target: MODULE:FUNCTION.
      arguments: of the function, by name; JSON values.
      **settings: variables of its environment.

    Raises:
      ProcessFailed: it ended otherwise, for lack of memory or in an error.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.processes", target, json.dumps(arguments)],
        env=environment(**settings),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise ProcessFailed(reason(done.returncode, done.stderr))
    return json.loads(done.stdout.splitlines()[-1])


def reason(code: int, said: str) -> str:
    """Why a process ended, from its exit code and what it said on standard error.

    >>> reason(1, "XlaRuntimeError: RESOURCE_EXHAUSTED: trying to allocate 90GiB")
    'out of memory'
    """
    if code == -signal.SIGKILL or any(sign in said for sign in _NO_ROOM):
        return "out of memory"  # a system without room kills who asks for more
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1].replace("|", "/") if lines else f"ended with code {code}"


def main(target: str, arguments: str) -> int:
    """Call the function and print what it returns; 0, or 2 on bad input."""
    module, _, name = target.partition(":")
    try:
        platform.configure()
        print(json.dumps(getattr(importlib.import_module(module), name)(**json.loads(arguments))))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
