"""The heap of a CPU process: freed memory stays, of small models and where that is asked for."""

import os
import subprocess
import sys

import pytest

# As jax does it: memory is wanted by a thread that was there before the size was known.
_CODE = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from jaxdiff.heap import keep_heap, share_heap
share_heap()
pool = ThreadPoolExecutor(1)
pool.submit(bytes, 1 << 10).result()
kept = keep_heap(int(sys.argv[1]))
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    pool.submit(lambda: len(bytes([1]) * (1 << 27))).result()
print("found", kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
FEW = (1 << 27) // (1 << 21) // 2  # half as many as it has pages of 2 MB


SMALL, LARGE = 5_000_000, 1_000_000_000


def _found(parameters, **environment):
    ours = ("MALLOC_", "GLIBC_", "JAXDIFF_")
    env = {k: v for k, v in os.environ.items() if not k.startswith(ours)} | environment
    command = [sys.executable, "-c", _CODE, str(parameters)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    _, kept, faults = done.stdout.split()
    return kept == "True", int(faults)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap")
@pytest.mark.parametrize("parameters, chosen", [(SMALL, {}), (LARGE, {"JAXDIFF_KEEP_HEAP": "1"})])
def test_memory_that_was_freed_needs_no_new_pages(parameters, chosen):
    kept, faults = _found(parameters, JAX_PLATFORMS="cpu", **chosen)
    assert kept and faults < FEW


def test_the_heap_of_a_large_model_is_left_alone():
    kept, faults = _found(LARGE, JAX_PLATFORMS="cpu")
    assert not kept and faults > FEW


@pytest.mark.parametrize(
    "chosen", [{"MALLOC_ARENA_MAX": "4"}, {"JAX_PLATFORMS": "cuda"}, {"JAXDIFF_KEEP_HEAP": "0"}]
)
def test_what_the_user_chose_is_kept(chosen):
    assert _found(SMALL, **{"JAX_PLATFORMS": "cpu"} | chosen)[0] is False
