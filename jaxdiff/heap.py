"""The heap of a process that computes on a CPU: kept when it is freed, and made of huge pages.

XLA allocates the temporary memory of every call anew. glibc takes it from the system and hands it
back, so that every call waits for its pages of 4 KB to be cleared, and its products for the
processor to find them. Kept, and in pages of 2 MB, the same train step takes two thirds to nine
tenths of the time (docs/performance.md). The price: a process that does not shrink, and may take
twice the memory with a large model, whose blocks, once freed, are nibbled at before a call wants as
much again. So it is done for small models, and JAXDIFF_KEEP_HEAP=1 and 0 say otherwise.
"""

import ctypes
import importlib.util
import os
import sys

_MMAP_MAX, _TRIM_THRESHOLD, _ARENA_MAX = -4, -1, -8  # of mallopt, glibc's malloc.h
_HUGE_PAGES, _HUGE = 14, 1 << 21  # MADV_HUGEPAGE, bytes
_SHARE = 2  # of the machine's memory, one part in so many becomes huge pages once it is used
_FEW = 300_000_000  # parameters: Stable Diffusion 1.5 has 1.07 thousand million
_ACCELERATORS = ("jax_plugins", "libtpu")  # what jax finds GPUs and TPUs by


def share_heap() -> None:
    """Have all threads allocate from one heap; call it before jax starts its own.

    Threads that have a heap of their own by the time that the size of the model is known would
    not see what `keep_heap` does.
    """
    libc = _library()
    if libc is not None:
        libc.mallopt(_ARENA_MAX, 1)


def keep_heap(parameters: int) -> bool:
    """Set up the heap; call it before the first large computation. Returns whether that was done.

    It is left alone where the model is large, unless JAXDIFF_KEEP_HEAP=1 is in the environment,
    and in any case with JAXDIFF_KEEP_HEAP=0, where jax has accelerators to compute on, where the C
    library is not glibc, and where the user has set it up otherwise (`MALLOC_...` or
    `GLIBC_TUNABLES`).

    Args:
      parameters: how many numbers the process' networks hold.
    """
    wanted = os.environ.get("JAXDIFF_KEEP_HEAP", "1" if parameters < _FEW else "0") == "1"
    libc = _library() if wanted else None
    if libc is None:
        return False
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, -1)  # never
    _advise(libc, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // _SHARE)
    return True


def _library() -> ctypes.CDLL | None:
    """glibc, where it is there and its heap is ours to set up."""
    if not _computes_on_cpu() or _chosen():
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "gnu_get_libc_version") else None


def _advise(libc: ctypes.CDLL, size: int) -> None:
    """Grow the heap by `size` bytes that nobody touches yet, and ask for huge pages there."""
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    start = libc.malloc(size)
    if start is None:  # a limit on the address space: pages stay small
        return
    first = -(-start // _HUGE) * _HUGE
    libc.madvise(first, (start + size - first) // _HUGE * _HUGE, _HUGE_PAGES)
    libc.free(start)


def _computes_on_cpu() -> bool:
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms:
        return platforms == "cpu"
    return sys.platform == "linux" and not any(map(importlib.util.find_spec, _ACCELERATORS))


def _chosen() -> bool:
    return any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
