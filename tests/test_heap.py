"""The heap of a CPU process: freed memory stays, of small models and where that is asked for."""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from jaxdiff import heap

ROOT = Path(__file__).parents[1]
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
# As jax does it: memory is wanted by a thread that was there before the size was known.
_CODE = """
import ctypes, resource, sys
from concurrent.futures import ThreadPoolExecutor
from jaxdiff.heap import keep_heap
from jaxdiff.platform import configure
if "configured" in sys.argv:
    configure()
pool = ThreadPoolExecutor(1)
pool.submit(bytes, 1 << 10).result()
print("found", keep_heap(int(sys.argv[1])), end=" ")
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    pool.submit(lambda: len(bytes([1]) * (1 << 27))).result()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, end=" ")
ctypes.CDLL(None).malloc_stats()  # on standard error, a paragraph for each heap
"""
SMALL_PAGES = (1 << 27) // (1 << 12)
FEW = (1 << 27) // (1 << 21) // 2  # half as many as it has pages of 2 MB
SMALL, LARGE = 5_000_000, 1_000_000_000

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap")


class Found(NamedTuple):
    """What a process says of itself."""

    kept: bool
    first: int
    """Page faults when a block of memory is wanted for the first time."""
    again: int
    heaps: int


def _environment(**chosen):
    ours = ("MALLOC_", "GLIBC_", "JAXDIFF_", "LD_PRELOAD")
    return {k: v for k, v in os.environ.items() if not k.startswith(ours)} | chosen


def _found(parameters, *words, **chosen):
    command = [sys.executable, "-c", _CODE, str(parameters), *(words or ["configured"])]
    env = _environment(**{"JAX_PLATFORMS": "cpu"} | chosen)
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    _, kept, first, again = done.stdout.split()
    return Found(kept == "True", int(first), int(again), done.stderr.count("Arena "))


@on_linux
@pytest.mark.parametrize("parameters, chosen", [(SMALL, {}), (LARGE, {"JAXDIFF_KEEP_HEAP": "1"})])
def test_memory_that_was_freed_needs_no_new_pages(parameters, chosen):
    found = _found(parameters, **chosen)
    assert found.kept and found.again < FEW and found.heaps == 1


@on_linux
@pytest.mark.skipif(
    not HUGE_PAGES.is_file() or "[never]" in HUGE_PAGES.read_text(),
    reason="this system gives out no transparent huge pages",
)
def test_new_memory_comes_in_huge_pages():
    assert _found(SMALL).first < SMALL_PAGES / 8


@on_linux
def test_the_heap_of_a_large_model_is_left_alone():
    found = _found(LARGE)
    assert not found.kept and found.again > FEW


@on_linux
@pytest.mark.parametrize(
    "chosen", [{"MALLOC_ARENA_MAX": "4"}, {"JAX_PLATFORMS": "cuda"}, {"JAXDIFF_KEEP_HEAP": "0"}]
)
def test_what_the_user_chose_is_kept(chosen):
    found = _found(SMALL, **chosen)
    assert not found.kept and found.heaps >= 2


@on_linux
def test_a_process_that_is_not_configured_is_left_alone():
    found = _found(SMALL, "as it comes", JAXDIFF_KEEP_HEAP="1")
    assert not found.kept and found.heaps >= 2


@on_linux
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_another_allocator_is_left_alone(tmp_path):
    source, library = tmp_path / "other.c", tmp_path / "other.so"
    source.write_text(
        "#include <stddef.h>\n"
        "extern void *__libc_memalign(size_t, size_t);\n"
        "int posix_memalign(void **block, size_t alignment, size_t size)\n"
        "{ *block = __libc_memalign(alignment, size); return *block ? 0 : 12; }\n"
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    found = _found(SMALL, LD_PRELOAD=str(library))
    assert not found.kept and found.heaps >= 2


@pytest.fixture
def asked(monkeypatch):
    """This process, as if it were one to set up."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.delenv("JAXDIFF_KEEP_HEAP")
    monkeypatch.setattr(heap, "_shared", True)
    monkeypatch.setattr(heap, "_chosen", lambda: False)


@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_other_systems_are_not_asked_for_glibc(asked, monkeypatch, system):
    def refuse(name):
        raise TypeError  # as Windows does of None

    monkeypatch.setattr(heap, "sys", SimpleNamespace(platform=system))
    monkeypatch.setattr(heap.ctypes, "CDLL", refuse)
    assert heap.keep_heap(SMALL) is False
    assert heap.share_heap() is False


@on_linux
def test_an_option_that_is_refused_is_not_taken_for_done(asked, monkeypatch):
    class Refusing(ctypes.CDLL):
        def mallopt(self, name, value):
            return 0

    monkeypatch.setattr(heap, "_library", lambda: Refusing(None))
    monkeypatch.setattr(heap, "_advise", None)  # nor is anything done then
    assert heap.keep_heap(SMALL) is False
    assert heap.share_heap() is False


@pytest.mark.parametrize("script", [["train.py"], ["sample.py"], ["-m", "jaxdiff.evaluate"]])
@pytest.mark.parametrize("platforms", ["cpu", "cuda"])
def test_another_value_is_refused_before_anything_is_done(script, platforms):
    env = _environment(JAXDIFF_KEEP_HEAP="yes", JAX_PLATFORMS=platforms)
    command = [sys.executable, *script, "--help"]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr == "error: JAXDIFF_KEEP_HEAP is 'yes'; set it to 0 or 1, or not at all\n"
