"""How traffic between chips grows with their number, by plan: no accelerator is needed.

    python benchmarks/weak_scaling.py sd15 [--kind v5e] [--rows 8] [--compile] [--out scaling.png]

Weak scaling: every chip has the same number of examples. The table has, for data-parallel and FSDP,
the bytes that a chip sends in a step and the least times of eq. (1) of `jaxdiff.planning.plan`, by
estimate or, with --compile, read from the compiled step; and the examples on a chip below which the
links would take longer than computing: their time does not depend on the examples, but for those
that are micro-batches. The picture has bytes over chips.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from jaxdiff import platform  # noqa: E402
from jaxdiff.cli import exit_code, or_exit  # noqa: E402

or_exit(lambda: platform.configure(accelerator=False))

from matplotlib.figure import Figure  # noqa: E402

from benchmarks.curves import Axis, curves  # noqa: E402
from jaxdiff import target  # noqa: E402
from jaxdiff.planning.blueprint import blueprint  # noqa: E402
from jaxdiff.planning.chips import CHIPS, parse_topology  # noqa: E402
from jaxdiff.planning.compiled import make_plan  # noqa: E402
from jaxdiff.planning.estimate import estimate, probe_costs  # noqa: E402
from jaxdiff.planning.plan import Plan  # noqa: E402
from jaxdiff.planning.topology import planned_devices  # noqa: E402
from jaxdiff.planning.traced import abstract_state  # noqa: E402
from jaxdiff.presets import PRESETS  # noqa: E402
from jaxdiff.training.config import TrainConfig  # noqa: E402
from jaxdiff.training.options import MeshConfig  # noqa: E402
from jaxdiff.training.sharding import make_mesh  # noqa: E402

FSDP = 16  # devices that share the state; what is left of the chips is data-parallel
MESHES = {"data": lambda n: MeshConfig(n, 1), "fsdp": lambda n: MeshConfig(-1, min(FSDP, n))}
KINDS = tuple(kind for kind, chip in CHIPS.items() if chip.platform == "tpu")  # of 8 to 256 chips


def plans(run: TrainConfig, kind: str, rows: int, *, compiled: bool) -> dict[str, list[Plan]]:
    """Plans by mesh, over the topologies of a kind of chip with 8 chips and more."""
    names = [f"{kind}:{shape}" for shape in CHIPS[kind].topologies]
    topologies = [each for each in map(parse_topology, names) if 8 <= each.count <= 256]
    with target.tracing_for(CHIPS[kind].platform):
        costs, state = probe_costs(run, sweep=False), abstract_state(blueprint(run), run)
    found = {}
    for label, mesh_of in MESHES.items():
        found[label] = []
        for topology in topologies:
            variant = dataclasses.replace(
                run,
                mesh=mesh_of(topology.count),
                data=dataclasses.replace(run.data, batch_size=rows * topology.count),
            )
            if compiled:
                found[label].append(make_plan(variant, topology.name))
                continue
            mesh = make_mesh(variant.mesh, planned_devices(topology))
            found[label].append(estimate(variant, topology, mesh, costs, state))
    return found


def table(found: dict[str, list[Plan]]) -> str:
    """A line per mesh and topology."""
    head = "mesh  topology     chips  a chip sends   compute   memory    links     binds"
    lines = [f"{head:<76} links bind below  its memory"]
    for label, row in found.items():
        for plan in row:
            times, fill = plan.times, plan.total / plan.topology.memory
            cells = " ".join(f"{1e3 * seconds:6.1f} ms" for seconds in times.values())
            binds = max(times, key=times.get)
            least = plan.rows * times["interconnect"] / times["compute"]
            place = f"{label:<5} {plan.topology.name:<12} {plan.topology.count:5d}"
            verdict = "" if plan.fits else " does not fit"
            lines.append(
                f"{place} {sent(plan):10.3f} GB  {cells}  {binds:<12} "
                f"{least:4.1f} a chip {fill:12.0%}{verdict}"
            )
    return "\n".join(lines)


def sent(plan: Plan) -> float:
    """Gigabytes that a chip sends in a step."""
    return sum(each.sent for each in plan.collectives) / 1e9


def picture(found: dict[str, list[Plan]], title: str) -> Figure:
    """Gigabytes sent by a chip over the number of chips, on a logarithmic axis."""
    lines = {
        label: [(plan.topology.count, sent(plan)) for plan in row] for label, row in found.items()
    }
    return curves(lines, title, Axis("chips", logarithmic=True), Axis("sent", "{x:.1f} GB"))


def main(words: list[str]) -> int:
    """Print the table; write the picture. 0 on success, 2 on bad input."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("preset", choices=sorted(PRESETS))
    parser.add_argument("--kind", default="v5e", choices=KINDS)
    parser.add_argument("--rows", type=int, default=8, help="examples on a chip")
    parser.add_argument("--compile", action="store_true", help="compile every plan")
    parser.add_argument("--out", type=Path, help="a PNG file")
    asked = parser.parse_args(words)

    def run() -> None:
        found = plans(PRESETS[asked.preset][1], asked.kind, asked.rows, compiled=asked.compile)
        print(table(found))
        if asked.out:
            title = (
                f"{asked.preset}: sent by a chip of {asked.kind} in a step, {asked.rows} examples"
            )
            picture(found, title).savefig(asked.out)

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
