"""XLA flags, the compile cache and one heap, set once before jax starts.

`train.py`, `sample.py`, `tests/conftest.py` and the benchmarks call `configure()` first, so that
they all run the same compiler set-up. This module never imports jax at import time.

Why a flag is needed: from jaxlib 0.10.1 on, XLA:CPU hands reductions and single convolutions to
YNNPACK. The "reduce" fusion returns wrong numbers for a product with a broadcast operand that feeds
a sum, without any warning (on 64 x 64, jaxlib 0.10.2 is off by a factor of 1e28 and 0.12.0.1 says
NaN; jax#39103), and the "individual_convolution" fusion runs on one core. `tests/test_platform.py`
keeps the wrong case.
"""

import os
import sys
from importlib import metadata
from pathlib import Path

from jaxdiff.heap import share_heap

_YNN_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
_YNN_VALUE = "-individual_convolution,-reduce"
_YNN_SINCE = (0, 10, 1)  # an older jaxlib aborts on a flag that it does not know
DEVICE_FLAG = "--xla_force_host_platform_device_count"
# Read when jax is imported; what libtpu would otherwise ask Google's cloud for, and complain.
_NO_ACCELERATOR = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # a plan beside another: no chip can be in use by both
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}
_MIN_COMPILE_SECONDS = 0.1  # cache programs that take longer than this to compile


def configure(*, host_devices: int | None = None, accelerator: bool = True) -> None:
    """Set the XLA flags, the compile cache and one heap; calling it again changes nothing.

    What the user has set in `XLA_FLAGS` or `JAX_COMPILATION_CACHE_DIR` is kept. The heap is that of
    a process that computes on a CPU (`jaxdiff.heap`); JAXDIFF_KEEP_HEAP=0 leaves it as it is.

    Args:
      host_devices: how many devices the CPU shall pretend to be; None leaves it as it is.
      accelerator: False where there is none to be looked for, only one to compile for.

    Raises:
      RuntimeError: jax has already started a backend, so new settings would be ignored.
      UserError: JAXDIFF_KEEP_HEAP is neither 0 nor 1.
    """
    if not accelerator:
        os.environ |= _NO_ACCELERATOR
    version = jaxlib_version()
    flags = merge_flags(os.environ.get("XLA_FLAGS", ""), wanted_flags(version, host_devices))
    if flags != os.environ.get("XLA_FLAGS", ""):
        _require_not_started()
        os.environ["XLA_FLAGS"] = flags
    _set_cache()
    share_heap()


def jaxlib_version() -> str:
    """The installed jaxlib's version, read without importing jax."""
    return metadata.version("jaxlib")


def wanted_flags(version: str, host_devices: int | None = None) -> dict[str, str]:
    """The XLA flags that jaxlib `version` needs and knows, as name -> value."""
    flags = {}
    if _release(version) >= _YNN_SINCE:
        flags[_YNN_FLAG] = _YNN_VALUE
    if host_devices is not None:
        flags[DEVICE_FLAG] = str(host_devices)
    return flags


def merge_flags(current: str, wanted: dict[str, str]) -> str:
    """Append the wanted flags to an `XLA_FLAGS` string unless it names them already.

    >>> merge_flags("--a=1", {"--a": "2", "--b": "3"})
    '--a=1 --b=3'
    """
    present = {flag.partition("=")[0] for flag in current.split()}
    added = [f"{name}={value}" for name, value in wanted.items() if name not in present]
    return " ".join([*([current] if current else []), *added])


def cache_directory() -> Path:
    """Where compiled programs are kept: one directory per jaxlib, since entries do not mix."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "jaxdiff" / f"xla-{jaxlib_version()}"


def _set_cache() -> None:
    """Point jax at the compile cache, through the environment or, once imported, its config."""
    settings = {
        "jax_compilation_cache_dir": str(cache_directory()),
        "jax_persistent_cache_min_compile_time_secs": _MIN_COMPILE_SECONDS,
    }
    jax = sys.modules.get("jax")
    for name, value in settings.items():
        if name.upper() in os.environ:
            continue
        os.environ[name.upper()] = str(value)  # jax reads this when it is imported
        if jax is not None:
            jax.config.update(name, value)


def _require_not_started() -> None:
    """Raise if jax has started a backend: it reads XLA_FLAGS once, at that moment."""
    jax = sys.modules.get("jax")
    if jax is None:
        return
    current = jax.config.jax_num_cpu_devices
    try:  # jax refuses to change this option once a backend has started
        jax.config.update("jax_num_cpu_devices", 1 if current != 1 else 2)
    except RuntimeError as error:
        raise RuntimeError(
            "jaxdiff.platform.configure() came too late: jax has already started; "
            "call it before anything that touches a device"
        ) from error
    jax.config.update("jax_num_cpu_devices", current)


def _release(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: '0.10.2.dev1' -> (0, 10, 2)."""
    numbers = []
    for part in version.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)
