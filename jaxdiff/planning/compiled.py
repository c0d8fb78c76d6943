"""A plan read off the run's own step, compiled for devices that need not be there."""

import dataclasses
import re
import time
from typing import Any

import jax

from jaxdiff import target
from jaxdiff.errors import UserError
from jaxdiff.planning.blueprint import blueprint
from jaxdiff.planning.chips import parse_topology
from jaxdiff.planning.collectives import read_collectives
from jaxdiff.planning.estimate import estimate, probe_costs
from jaxdiff.planning.plan import Plan, for_platform
from jaxdiff.planning.topology import compiling, planned_devices
from jaxdiff.planning.traced import TracedStep, abstract_state, trace_step
from jaxdiff.training.config import TrainConfig
from jaxdiff.training.parallel import make_runner
from jaxdiff.training.sharding import make_mesh

TPU_EFFORT = "O0"  # of the compiler: six times as fast as what a run takes (docs/planning.md)
_AS_A_RUN = (None, "O2", "O3")
_HOPELESS = 2.0  # of the memory, by estimate: such a step keeps the compiler busy for an hour
_USED = re.compile(r"[Uu]sed ([\d.]+)([KMGT])|required for HLO temporaries \(([\d.]+)([KMGT])\)")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def make_plan(run: TrainConfig, name: str, effort: str | None = None) -> Plan:
    """Compile the step of a run for the topology called `name`, and read off what it needs.

    Args:
      run: the run; its mesh must make up the topology.
      name: such as "v5e:16x16" or "cpu:8".
      effort: of the compiler, "O0" to "O3", or "none" to estimate and compile nothing; None for
        `TPU_EFFORT` and, where it is no TPU, a run's own.

    Raises:
      UserError: there is no such topology, or the run does not divide over it.
    """
    start, busy = time.perf_counter(), time.process_time()
    topology = parse_topology(name)
    if run.parallel != "mesh":
        raise UserError("a plan is for --parallel mesh, which computes the same as pmap")
    if run.steps_per_dispatch > 1:
        raise UserError("a plan is of one step; leave --steps-per-dispatch out")
    if effort is None and topology.chip.platform == "tpu":
        effort = TPU_EFFORT
    devices, planned = planned_devices(topology), for_platform(run, topology)
    runner, mesh = make_runner(run, devices), make_mesh(run.mesh, devices)
    with target.tracing_for(topology.chip.platform):
        state = abstract_state(blueprint(planned), planned)
        plan = estimate(planned, topology, mesh, probe_costs(planned, sweep=False), state)
        if effort != "none" and plan.total > _HOPELESS * topology.memory:
            plan = dataclasses.replace(plan, source=f"{plan.source}: far too large for that")
        elif effort != "none":
            with compiling(effort):
                found = _compiled(trace_step(planned, mesh, runner), plan)
            firm = effort in _AS_A_RUN and "refused" not in found
            plan = dataclasses.replace(plan, **found, source=_source(effort), firm=firm)
    spent = time.perf_counter() - start, time.process_time() - busy
    return dataclasses.replace(plan, run=run, seconds=spent)


def _compiled(step: TracedStep, plan: Plan) -> dict[str, Any]:
    """What the compiled step says of itself, or the compiler of one that does not fit."""
    try:
        compiled = step.traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return _refused(" ".join(str(error).split()), plan)
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    fresh = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return {
        "flops": step.flops / plan.topology.count,
        "state": step.state,
        "inputs": step.inputs,
        "temporaries": memory.temp_size_in_bytes + fresh,
        "code": memory.generated_code_size_in_bytes,
        "traffic": traffic(cost["bytes accessed"], plan),
        "collectives": read_collectives(compiled.as_text(), plan.topology.count),
    }


def traffic(counted: float, plan: Plan) -> float:
    """Bytes moved in a step whose compiler counts the loop over micro-batches as one turn of it.

    Outside the loop lies the optimizer: it reads and writes the state, and reads the gradients,
    which the loop has written.
    """
    outside = 2 * plan.state + 2 * plan.gradients
    return min(outside, counted) + max(counted - outside, 0) * plan.run.optimizer.accumulate


def _refused(message: str, plan: Plan) -> dict[str, Any]:
    """How much a step that does not fit would take."""
    found = {"refused": message[:300]}
    if used := _USED.search(message):
        number, unit = (each for each in used.groups() if each)
        rest = float(number) * _UNITS[unit] - plan.state - plan.inputs
        found["temporaries"] = max(rest, plan.gradients)
    return found


def _source(effort: str | None) -> str:
    return "compiled" + (f" with effort {effort}" if effort else " as a run is")
