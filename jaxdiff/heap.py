"""The heap of a process that computes on a CPU: kept when it is freed, and made of huge pages.

XLA allocates the temporary memory of every call anew. glibc takes it from the system and hands it
back, so that every call waits for its pages of 4 KB to be cleared, and its products for the
processor to find them. Kept, and in pages of 2 MB, the same train step takes two thirds to nine
tenths of the time (docs/performance.md). The price: a process that does not shrink, and may take
twice the memory with a large model, whose blocks, once freed, are nibbled at before a call wants as
much again. So it is done for small models, and JAXDIFF_KEEP_HEAP=1 and 0 say otherwise.

It is the process that is set up, so whoever owns it decides: `platform.configure()` has the threads
share a heap, and without that nothing here changes anything.
"""

import ctypes
import importlib.util
import os
import sys

from jaxdiff.errors import UserError

_MMAP_MAX, _TRIM_THRESHOLD, _ARENA_MAX = -4, -1, -8  # of mallopt, glibc's malloc.h
_HUGE_PAGES, _HUGE = 14, 1 << 21  # MADV_HUGEPAGE, bytes
_SHARE = 2  # of the machine's memory, one part in so many becomes huge pages once it is used
_FEW = 300_000_000  # parameters: Stable Diffusion 1.5 has 1.07 thousand million
_ACCELERATORS = ("jax_plugins", "libtpu")  # what jax finds GPUs and TPUs by
_DONE = 1  # mallopt's word for success
_shared = False  # whether the threads of this process share a heap


def share_heap() -> bool:
    """Have all threads allocate from one heap; call it before jax starts its own.

    Threads that have a heap of their own by the time that the size of the model is known would
    not see what `keep_heap` does. Nothing is done with JAXDIFF_KEEP_HEAP=0, where jax has
    accelerators to compute on, where memory does not come from glibc, and where the user has set
    its heap up otherwise (`MALLOC_...` or `GLIBC_TUNABLES`).

    Returns:
      Whether they share it.

    Raises:
      UserError: JAXDIFF_KEEP_HEAP is neither 0 nor 1.
    """
    global _shared
    libc = None if _asked() == "0" else _library()
    _shared = libc is not None and libc.mallopt(_ARENA_MAX, 1) == _DONE
    return _shared


def keep_heap(parameters: int) -> bool:
    """Keep the heap that threads share; call it before the first large computation.

    It is left alone where threads do not share it, since `share_heap` was not called or had reason
    to do nothing, and where the model is large, unless JAXDIFF_KEEP_HEAP=1 is in the environment.

    Args:
      parameters: how many numbers the process' networks hold.

    Returns:
      Whether it is kept.

    Raises:
      UserError: JAXDIFF_KEEP_HEAP is neither 0 nor 1.
    """
    wanted = (_asked() or ("1" if parameters < _FEW else "0")) == "1"
    libc = _library() if wanted and _shared else None
    if libc is None:
        return False
    options = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1}  # none, never
    if any(libc.mallopt(name, value) != _DONE for name, value in options.items()):
        return False
    _advise(libc, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // _SHARE)
    return True


def _asked() -> str | None:
    """What JAXDIFF_KEEP_HEAP says, if anything."""
    asked = os.environ.get("JAXDIFF_KEEP_HEAP")
    if asked not in (None, "0", "1"):
        raise UserError(f"JAXDIFF_KEEP_HEAP is {asked!r}; set it to 0 or 1, or not at all")
    return asked


def _library() -> ctypes.CDLL | None:
    """glibc, where memory comes from it and its heap is ours to set up."""
    if sys.platform != "linux" or not _computes_on_cpu() or _chosen():
        return None
    libc = ctypes.CDLL(None)
    glibc = hasattr(libc, "mallopt") and hasattr(libc, "gnu_get_libc_version")
    return libc if glibc and not _replaced(libc) else None


def _replaced(libc: ctypes.CDLL) -> bool:
    """Whether another allocator stands before glibc's, such as a preloaded jemalloc.

    Seen by what XLA allocates with: an executable may have an address of its own for `malloc`.
    """
    found, own = (
        ctypes.cast(each.posix_memalign, ctypes.c_void_p).value
        for each in (libc, ctypes.CDLL("libc.so.6"))
    )
    return found != own


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
    return not any(map(importlib.util.find_spec, _ACCELERATORS))


def _chosen() -> bool:
    return any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
