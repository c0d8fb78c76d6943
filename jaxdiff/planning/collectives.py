"""The collectives of a compiled program, read from its HLO text.

What a device sends, and receives, for a full array of S bytes in a group of n devices, by the best
algorithms on a ring (Chan et al. 2007, section 4):

    all-gather, reduce-scatter, all-to-all: S (n - 1) / n;   all-reduce: 2 S (n - 1) / n         (1)

and S for a permutation.
"""

import logging
import math
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

log = logging.getLogger(__name__)

_KINDS = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1.0,
}
_BITS = {"pred": 8, "bf16": 16}
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_OPERATION = re.compile(rf"= (.+?) ({'|'.join(_KINDS)})(-start)?\((.*)$")
_ARRAY = re.compile(r"\b(pred|bf16|[fsuc]\d+)(?:e\d\w*)?\[([\d,]*)\]")
_CALLED = re.compile(
    r"\b(?:calls|to_apply|body|condition|branch_computations)=(?:\{([^}]*)\}|%?([\w.\-]+))"
)
_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_LOOP = re.compile(r" while\(.*\bcondition=%?([\w.\-]+)")
_BOUND = re.compile(r"ROOT .* compare\(.*[ %]([\w.\-]+)\), direction=LT")


class Collective(NamedTuple):
    """One operation between devices."""

    kind: str
    """Its name in HLO, such as all-reduce."""
    size: float
    """Bytes S of the full array."""
    group: int
    """Devices n that take part together."""
    times: int
    """How often it runs in one execution of the program."""

    @property
    def sent(self) -> float:
        """Bytes that each device sends, by eq. (1), all times together."""
        return self.times * self.size * _KINDS[self.kind](self.group)


def read_collectives(hlo: str, devices: int) -> list[Collective]:
    """The collectives of a program for `devices` devices; those of groups of one are left out.

    Where the turns of a loop cannot be read, what it sends is counted once, and a warning says so.
    """
    computations = dict(_computations(hlo))
    times, unsure = _times(computations)
    found, seen = [], set()
    for name, lines in computations.items():
        for line in lines if times[name] else ():
            operation = _OPERATION.search(line)
            channel = re.search(r"channel_id=(\d+)", line)
            if operation is None or (channel and channel[1] in seen):
                continue
            if channel:  # an asynchronous one may be written in several pieces
                seen.add(channel[1])
            found.append(_read(operation, "all-reduce-scatter" in name, devices, times[name]))
            if name in unsure and found[-1].group > 1:
                log.warning("a loop's turns cannot be read: its %s is counted once", operation[2])
    return [each for each in found if each.group > 1]


def _read(operation: re.Match, scattered: bool, devices: int, times: int) -> Collective:
    """One line of HLO, in a TPU's fused reduce-scatter (`scattered`) or elsewhere."""
    result, kind, started, rest = operation.groups()
    group, size = _group(rest, devices), _bytes(result)
    if started and kind in ("all-gather", "reduce-scatter"):
        size *= group / (group + 1)  # the result is (what went in, what comes out)
    elif started and kind == "collective-permute":
        size /= 2
    elif kind == "reduce-scatter":
        size *= group
    return Collective("reduce-scatter" if scattered else kind, size, group, times)


def _computations(hlo: str) -> Iterator[tuple[str, list[str]]]:
    """Name and lines of each computation; the entry is called ENTRY."""
    name, lines = None, []
    for line in hlo.splitlines():
        header = None if line.startswith(" ") else _HEADER.match(line)
        if header:
            name, lines = "ENTRY" if header[1] else header[2], []
        elif line.startswith("}") and name:
            yield name, lines
            name = None
        else:
            lines.append(line)


def _times(computations: dict[str, list[str]]) -> tuple[dict[str, int], set[str]]:
    """How often each computation runs, and which of them in loops of unknown length, as if once."""
    times: dict[str, int] = defaultdict(int)
    unsure: set[str] = set()

    def visit(name: str, count: int, sure: bool) -> None:
        times[name] += count
        if not sure:
            unsure.add(name)
        for line in computations.get(name, ()):
            turns = _turns(line, computations)
            for several, one in _CALLED.findall(line):
                for called in re.findall(r"[\w.\-]+", several or one):
                    visit(called, count * (turns or 1), sure and turns is not None)

    visit("ENTRY", 1, True)
    return times, unsure


def _turns(line: str, computations: dict[str, list[str]]) -> int | None:
    """Turns of the loop in a line, 1 where there is none; None where they cannot be read.

    The CPU's compiler says them. The TPU's does not: there they are the bound in the condition,
    i < bound, since a scan counts from 0 by 1.
    """
    if known := _TURNS.search(line):
        return int(known[1])
    loop = _LOOP.search(line)
    if loop is None:
        return 1
    condition = "\n".join(computations.get(loop[1], ()))
    bound = _BOUND.search(condition)
    constant = bound and re.search(rf"{re.escape(bound[1])} = s32\S* constant\((\d+)\)", condition)
    return int(constant[1]) if constant else None


def _bytes(types: str) -> float:
    """Bytes of all arrays that a type names."""
    total = 0.0
    for kind, dims in _ARRAY.findall(types):
        bits = _BITS.get(kind) or int(re.sub(r"\D", "", kind))
        total += bits / 8 * math.prod(int(n) for n in dims.split(",") if n)
    return total


def _group(attributes: str, devices: int) -> int:
    """Devices of a group, in any of the ways in which HLO writes groups."""
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
        return len(listed[1].split(","))
    if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]", attributes):
        return int(iota[2])
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", attributes):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
        part = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", mesh[2])
        return math.prod(int(size or sizes[axis]) for axis, size in part)
    return devices
