"""Which mesh, batch and recomputation to train with: estimated for all, compiled for the best.

Axis legend: rows, the examples of a micro-batch on a device.
"""

import dataclasses
import time
from collections.abc import Iterator

from jax.sharding import Mesh

from jaxdiff import target
from jaxdiff.errors import UserError
from jaxdiff.planning.blueprint import blueprint, has_unet, recomputes, with_unet_options
from jaxdiff.planning.chips import GIB, Topology, parse_topology
from jaxdiff.planning.compiled import make_plan
from jaxdiff.planning.estimate import Costs, estimate, probe_costs
from jaxdiff.planning.plan import Plan, for_platform
from jaxdiff.planning.topology import planned_devices
from jaxdiff.planning.traced import abstract_state
from jaxdiff.training.config import TrainConfig
from jaxdiff.training.options import MeshConfig
from jaxdiff.training.sharding import make_mesh
from jaxdiff.training.step import TrainState

_TRIES = 3  # plans compiled at the most
_MARGIN = 0.9  # of the memory, that an estimate may fill
_ROWS = tuple(2**n for n in range(11))


def sweep(run: TrainConfig, name: str) -> list[Plan]:
    """Estimated plans for meshes, recomputation and examples per device, the fastest first.

    The run's own number of examples in a batch is kept where it is a multiple of what the devices
    hold, by accumulation.

    Raises:
      UserError: there is no such topology, nothing fits on it, or the run has a tensor axis, whose
        traffic has no estimate.
    """
    if run.mesh.tensor != 1:
        raise UserError(
            "--plan-batches estimates meshes of data and fsdp only; leave mesh.tensor out, and "
            "plan that mesh by itself"
        )
    topology = parse_topology(name)
    devices = planned_devices(topology)
    planned, found = for_platform(run, topology), []
    with target.tracing_for(topology.chip.platform):
        costs, state = probe_costs(planned), abstract_state(blueprint(planned), planned)
    for config in _meshes(topology.count):
        mesh = make_mesh(config, devices)
        for remat in costs.by_remat:
            variant = with_unet_options(dataclasses.replace(run, mesh=config), remat=remat)
            found += _fitting(variant, topology, mesh, costs, state)
    if not found:
        raise UserError(f"nothing fits on {name}, by estimate; take more or larger chips")
    return sorted(found, key=lambda plan: (-float(f"{plan.images_per_second:.2g}"), plan.total))


def recommend(run: TrainConfig, name: str, effort: str | None = None) -> Plan:
    """Sweep, print what was found, and compile the best until one fits.

    With effort "none" nothing is compiled, and the best is the one estimated so.

    Raises:
      UserError: as of `sweep`, or none of the best fits.
    """
    start = time.perf_counter()
    found = sweep(run, name)
    print(table(found))
    print(f"estimated in {time.perf_counter() - start:.0f} s")
    if effort == "none":
        print(f"\n  {command(found[0])}\n")
        return found[0]
    for plan in found[:_TRIES]:
        compiled = make_plan(plan.run, name, effort)
        if compiled.fits:
            print(f"\n  {command(compiled)}\n")
            return compiled
        print(f"{command(compiled)} does not fit after all; trying the next")
    raise UserError(f"none of the {_TRIES} best fits on {name}; take more or larger chips")


def table(plans: list[Plan]) -> str:
    """Estimated plans, the best of each mesh and recomputation."""
    lines = [" data  fsdp  remat     a device  batch   memory   images/s    about MFU  binds"]
    seen = set()
    for plan in plans:
        key = (plan.mesh["data"], plan.mesh["fsdp"], recomputes(plan.run))
        if key in seen:
            continue
        seen.add(key)
        binds = max(plan.times, key=plan.times.get)
        lines.append(
            f"{key[0]:5d} {key[1]:5d}  {key[2]:<8} {plan.rows:9d} "
            f"{plan.run.data.batch_size:6d} {plan.total / GIB:4.1f} GiB "
            f"{plan.images_per_second:10.0f} {plan.mfu:12.1%}  {binds}"
        )
    return "\n".join(lines)


def command(plan: Plan) -> str:
    """The options that make a run this plan's."""
    mesh, run = plan.mesh, plan.run
    owner = "objective.unet" if hasattr(run.objective, "unet") else "objective"
    remat = f"--{owner}.remat {recomputes(run)} " if has_unet(run) else ""
    return (
        f"--mesh.data {mesh['data']} --mesh.fsdp {mesh['fsdp']} {remat}"
        f"--data.batch-size {run.data.batch_size} --optimizer.accumulate {run.optimizer.accumulate}"
    )


def _meshes(count: int) -> Iterator[MeshConfig]:
    """Ways to share devices between data and fsdp."""
    for fsdp in (n for n in range(1, count + 1) if count % n == 0):
        yield MeshConfig(count // fsdp, fsdp)


def _fitting(
    run: TrainConfig, topology: Topology, mesh: Mesh, costs: Costs, state: TrainState
) -> Iterator[Plan]:
    """Estimates of the numbers of examples a device that there is room for."""
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    for rows in _ROWS:
        wanted, held = run.data.batch_size, rows * parts
        accumulate = wanted // held if wanted % held == 0 else 1
        variant = dataclasses.replace(
            run,
            data=dataclasses.replace(run.data, batch_size=held * accumulate),
            optimizer=dataclasses.replace(run.optimizer, accumulate=accumulate),
        )
        plan = estimate(variant, topology, mesh, costs, state)
        if plan.total > _MARGIN * topology.memory:
            return
        yield plan
