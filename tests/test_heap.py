"""The heap of a CPU process: freed memory stays where that is asked for."""

import os
import subprocess
import sys

import pytest

_CODE = """
import resource
import numpy as np
from jaxdiff.heap import keep_heap
kept = keep_heap()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(1 << 26, np.uint8)
print("found", kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = (1 << 26) // 4096


def _found(**environment):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", _CODE], env=env | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    _, kept, faults = done.stdout.split()
    return kept == "True", int(faults)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap")
def test_memory_that_was_freed_needs_no_new_pages():
    kept, faults = _found(JAX_PLATFORMS="cpu", JAXDIFF_KEEP_HEAP="1")
    assert kept and faults < PAGES / 100


@pytest.mark.parametrize(
    "chosen", [{"MALLOC_ARENA_MAX": "4"}, {"JAX_PLATFORMS": "cuda"}, {"JAXDIFF_KEEP_HEAP": "0"}]
)
def test_what_the_user_chose_is_kept(chosen):
    assert _found(**{"JAX_PLATFORMS": "cpu", "JAXDIFF_KEEP_HEAP": "1"} | chosen)[0] is False
