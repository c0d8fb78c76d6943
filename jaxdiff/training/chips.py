"""What a plan knows of hardware: a table of chips, and the topologies that there are of each.

Sources, per chip: TPUs docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e} (peak in bfloat16, HBM
bandwidth, "bidirectional inter-chip interconnect bandwidth", of which half goes each way, and the
slices on offer); their memory is what libtpu 0.0.42.1 says is available when a program is too large
for it. GPUs: NVIDIA's data sheets of the SXM cards, dense bfloat16, NVLink each way. The row "cpu"
is one core of the machine at hand, by what docs/performance.md measures: of use for memory and
collectives, a rough guide to time.
"""

import math
import os
import re
from dataclasses import dataclass

from jaxdiff.errors import UserError, choose
from jaxdiff.training.metrics import PEAK_TFLOPS

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One kind of chip."""

    platform: str
    """As jax calls it: tpu, gpu or cpu."""
    memory: float
    """Bytes that a program can have; 0: the machine's own, shared by all its devices."""
    flops: float
    """Peak in bfloat16, FLOP/s."""
    memory_rate: float
    """Bytes/s between memory and chip."""
    link_rate: float
    """Bytes/s that all its links bring in together, and as many out."""
    topologies: tuple[str, ...]
    """Shapes on offer."""
    ring: int = 0
    """Links close to a ring along an axis that is a multiple of this; 0: no torus."""


def _peak(kind: str) -> float:
    return 1e12 * PEAK_TFLOPS[kind]


_PLANAR = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_SOLID = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16")
_SOLID_LARGE = (*_SOLID, "8x16x16", "16x16x16", "16x16x24")
_BOX = ("1", "2", "4", "8")

CHIPS = {
    "v4": Chip("tpu", 31.75 * GIB, _peak("TPU v4"), 1200e9, 150e9, _SOLID, 4),
    "v5e": Chip("tpu", 15.75 * GIB, _peak("TPU v5 lite"), 819e9, 200e9, _PLANAR, 16),
    "v5p": Chip("tpu", 95.74 * GIB, _peak("TPU v5"), 2765e9, 600e9, _SOLID_LARGE, 4),
    "v6e": Chip("tpu", 31.25 * GIB, _peak("TPU v6 lite"), 1640e9, 400e9, _PLANAR, 16),
    "a100": Chip("gpu", 80e9, _peak("NVIDIA A100"), 2039e9, 300e9, _BOX),
    "h100": Chip("gpu", 80e9, _peak("NVIDIA H100"), 3350e9, 450e9, _BOX),
    "h200": Chip("gpu", 141e9, _peak("NVIDIA H200"), 4800e9, 450e9, _BOX),
    "cpu": Chip("cpu", 0, 90e9, 10e9, 5e9, (*_BOX, "16", "32", "64")),
}
CHIPS["gpu"] = CHIPS["h100"]
"""By the name before the colon of a topology."""


@dataclass(frozen=True)
class Topology:
    """So many chips of a kind, connected."""

    name: str
    """As the user gave it, "v5e:16x16"."""
    chip: Chip
    """The kind."""
    count: int
    """How many."""
    memory: float
    """Bytes that a program can have on each."""
    link_rate: float
    """Bytes/s into each chip by collectives over all of them."""


def parse_topology(name: str) -> Topology:
    """The topology that "v5e:16x16" or "cpu:8" names.

    Where the links along an axis are a line and not a ring, half the bandwidth along it is left.

    >>> parse_topology("v5p:4x4x4").count
    64

    Raises:
      UserError: there is no such chip, or no such number of them; lists those there are.
    """
    kind, _, shape = name.partition(":")
    if kind not in CHIPS:
        choose("topology", name, _all_names())
    chip = CHIPS[kind]
    if shape not in chip.topologies:
        offered = ", ".join(f"{kind}:{each}" for each in chip.topologies)
        raise UserError(f"unknown topology {name!r}; of {kind} there are: {offered}")
    axes = [int(n) for n in re.findall(r"\d+", shape)]
    rings = [1.0 if not chip.ring or n % chip.ring == 0 else 0.5 for n in axes if n > 1]
    share = sum(rings) / len(rings) if rings else 1.0
    count = math.prod(axes)
    return Topology(name, chip, count, chip.memory or _own(count), chip.link_rate * share)


def _own(count: int) -> float:
    """A device's share of the memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / count


def _all_names() -> list[str]:
    return [f"{kind}:{shape}" for kind, chip in CHIPS.items() for shape in chip.topologies]
