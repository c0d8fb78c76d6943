"""What measurements share: laps, stages of a jitted function, memory, rates, where it was."""

import os
import resource
import statistics
import time
from collections.abc import Sequence
from importlib import metadata
from typing import Any

_GIGA = 1e9


class Laps:
    """Seconds between one mark and the next, by name, in order.

    Args:
      began: `time.time()` when the first lap began, perhaps in another process.
    """

    def __init__(self, began: float) -> None:
        self.seconds: dict[str, float] = {}
        self._last = began

    def __call__(self, name: str) -> float:
        """End a lap; its seconds."""
        now = time.time()
        self.seconds[name] = now - self._last
        self._last = now
        return self.seconds[name]


class Staged:
    """A jitted function that is traced, lowered and compiled in stages that are timed.

    Args:
      jitted: the function; keyword arguments are static.
    """

    def __init__(self, jitted: Any) -> None:
        self._jitted, self._stages = jitted, {}
        self.trace, self.compile = 0.0, 0.0
        """Seconds of tracing and lowering, and of compiling."""
        self.first: tuple[tuple, dict] | None = None
        """The first call's arguments."""

    def __call__(self, *args: Any, **static: Any) -> Any:
        """Call it; of shapes that are new, after compiling it for them."""
        import jax

        self.first = self.first or (args, static)
        shapes = tuple((x.shape, str(x.dtype)) for x in jax.tree.leaves(args))
        if shapes not in self._stages:
            begin = time.perf_counter()
            traced = self._jitted.trace(*args, **static)
            lowered = traced.lower()
            between = time.perf_counter()
            self._stages[shapes] = traced, lowered.compile()
            self.trace += between - begin
            self.compile += time.perf_counter() - between
        return self._stages[shapes][1](*args)

    def compile_again(self) -> float:
        """Seconds to compile all of it again, from the compile cache on disk alone."""
        return sum(compile_again(traced) for traced, _ in self._stages.values())


def compile_again(traced: Any) -> float:
    """Seconds to compile what was compiled before, from the compile cache on disk alone."""
    import jax

    jax.clear_caches()
    lowered = traced.lower()
    begin = time.perf_counter()
    lowered.compile()
    return time.perf_counter() - begin


def peak_memory() -> float:
    """Gigabytes at the worst moment: of the fullest device, or of this process where that is a CPU.

    A process's peak has the interpreter, its libraries and the compiler in it.
    """
    import jax

    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    if peaks := [each["peak_bytes_in_use"] for each in stats if "peak_bytes_in_use" in each]:
        return max(peaks) / _GIGA
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / _GIGA


def rates(seconds: Sequence[float], images: int, flops: float) -> dict[str, float | None]:
    """Rates by the median of repeated measurements.

    Args:
      seconds: of each repetition.
      images: of a repetition.
      flops: operations of an image, over all devices.
    """
    import jax

    from jaxdiff.training.metrics import peak_tflops

    median, peak = statistics.median(seconds), peak_tflops()
    tflops = flops * images / median / 1e12 / jax.device_count()
    return {
        "median": median,
        "min": min(seconds),
        "images": images / median,
        "tflops": tflops,
        "mfu": tflops / peak if peak else None,
    }


RATES = "images/s", "TFLOP/s per device", "MFU", "peak GB"


def rate_cells(measured: dict[str, Any]) -> list[str]:
    """The cells below `RATES`."""
    mfu = "" if measured["mfu"] is None else f"{measured['mfu']:.1%}"
    return [
        f"{measured['images']:.3g}",
        f"{measured['tflops']:.3g}",
        mfu,
        f"{measured['peak']:.2f}",
    ]


def place() -> str:
    """The devices of this process."""
    import jax

    return f"{jax.device_count()} x {jax.devices()[0].device_kind}"


def conditions(devices: str) -> str:
    """On what, and beside how much else, something was measured."""
    return (
        f"{devices}, jax {metadata.version('jax')}, {os.cpu_count()} cores, load average "
        f"{os.getloadavg()[0]:.1f}"
    )
