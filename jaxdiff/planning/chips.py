"""What a plan knows of hardware: a table of chips, and the topologies that there are of each.

Sources, per chip: TPUs docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e} (peak in bfloat16, HBM
bandwidth, slices on offer; "bidirectional inter-chip interconnect bandwidth", half of it each way,
over the chip's 4 or 6 links; v4's links from Jouppi et al. 2023, table 4); their memory is what
libtpu 0.0.42.1 says is available when a program is too large for it. GPUs: NVIDIA's data sheets of
the SXM cards, dense bfloat16, NVLink each way. The row "cpu" is one core of the machine at hand, by
what docs/performance.md measures: of use for memory and collectives, a rough guide to time.
"""

import math
import os
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
    """Bytes/s each way: of one link between neighbours, or of all where there is a switch."""
    topologies: tuple[str, ...]
    """Shapes on offer."""
    ring: int = 0
    """Links close to rings where axes are multiples of this; 0: no neighbours but a switch."""


def _peak(kind: str) -> float:
    return 1e12 * PEAK_TFLOPS[kind]


_PLANAR = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_SOLID = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16")
_SOLID_LARGE = (*_SOLID, "8x16x16", "16x16x16", "16x16x24")
_BOX = ("1", "2", "4", "8")

CHIPS = {
    "v4": Chip("tpu", 31.75 * GIB, _peak("TPU v4"), 1200e9, 50e9, _SOLID, 4),
    "v5e": Chip("tpu", 15.75 * GIB, _peak("TPU v5 lite"), 819e9, 50e9, _PLANAR, 16),
    "v5p": Chip("tpu", 95.74 * GIB, _peak("TPU v5"), 2765e9, 100e9, _SOLID_LARGE, 4),
    "v6e": Chip("tpu", 31.25 * GIB, _peak("TPU v6 lite"), 1640e9, 100e9, _PLANAR, 16),
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
    axes: tuple[int, ...]
    """How many there are along each axis, the longest first; axes of one are left out."""
    memory: float
    """Bytes that a program can have on each."""

    @property
    def count(self) -> int:
        """How many chips."""
        return math.prod(self.axes)

    def rings(self) -> list[bool]:
        """Whether the links of each axis close to a ring; of three axes, all of them or none."""
        closed = [self.chip.ring > 0 and n % self.chip.ring == 0 for n in self.axes]
        return [all(closed)] * 3 if len(closed) == 3 else closed

    def rate(self, group: int) -> float:
        """Bytes/s that a collective among `group` devices brings into each of them.

        Two links of every axis that is a ring, one of a line, whose ends have no more. A group is
        taken to fill the longest axes that divide it, and what is left of it to be a line.
        """
        if not self.chip.ring:
            return self.chip.link_rate
        links = 0
        for n, ring in zip(self.axes, self.rings(), strict=True):
            if group % n == 0:
                links, group = links + 1 + ring, group // n
        return self.chip.link_rate * (links + (group > 1))


def parse_topology(name: str) -> Topology:
    """The topology that "v5e:16x16" or "cpu:8" names.

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
    axes = sorted((int(n) for n in shape.split("x") if n != "1"), reverse=True)
    return Topology(name, chip, tuple(axes), chip.memory or _own(math.prod(axes)))


def _own(count: int) -> float:
    """A device's share of the memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / count


def _all_names() -> list[str]:
    return [f"{kind}:{shape}" for kind, chip in CHIPS.items() for shape in chip.topologies]
