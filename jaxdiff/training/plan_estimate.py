"""A plan from what was traced alone, within seconds: good enough to choose what to compile.

    memory = state + batch + gradients + rows * (peak of an example)
    bytes moved = 2 state + 4 gradients + examples * (moved of an example)                       (1)
    sent: fsdp gathers what it cuts, forward and backward, and reduces and scatters its gradients;
    data all-reduces the shards; what is not cut is all-reduced: once for every micro-batch

Axis legend: rows, the examples of a micro-batch on a device.
"""

from typing import NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdiff import target
from jaxdiff.training.blueprint import blueprint, recomputes, with_unet_options
from jaxdiff.training.chips import Topology
from jaxdiff.training.collectives import Collective
from jaxdiff.training.config import TrainConfig
from jaxdiff.training.plan import Plan
from jaxdiff.training.sharding import DATA, FSDP, ROWS, abstract, shardings
from jaxdiff.training.step import Params, TrainState
from jaxdiff.training.traced import Probe, device_bytes, probe


class Costs(NamedTuple):
    """What an example costs with and without recomputation."""

    plain: Probe
    again: Probe
    own: float
    """Operations of the network itself, as papers count them: none is done twice, or cheaper."""

    def of(self, run: TrainConfig) -> Probe:
        """As the run computes it."""
        return self.again if recomputes(run) else self.plain


def probe_costs(run: TrainConfig, *, both: bool = True) -> Costs:
    """Trace an example's cost, for the platform that `target.platform()` names.

    Args:
      run: the run.
      both: with recomputation too where the run does without.
    """
    plain = again = probe(with_unet_options(run, remat=False))
    if both or recomputes(run):
        again = probe(with_unet_options(run, remat=True))
    with target.tracing_for("tpu"):  # whose layers have no other forms
        own = probe(with_unet_options(run, remat=False, attention="einsum"))
    return Costs(plain, again, own.flops)


def estimate(
    run: TrainConfig, topology: Topology, mesh: Mesh, costs: Costs, state: TrainState
) -> Plan:
    """Estimate what a step needs, by eq. (1).

    Args:
      run: the run.
      topology: the devices.
      mesh: the same, laid out.
      costs: of an example.
      state: its shapes.
    """
    cost, shared = costs.of(run), mesh.shape["tensor"]
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    examples, times = run.data.batch_size // parts, run.optimizer.accumulate
    placed = abstract(state, shardings(state, mesh))
    held, gradients = device_bytes(placed), device_bytes(placed.params)
    return Plan(
        run=run,
        topology=topology,
        mesh=dict(mesh.shape),
        parameters=sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        model_flops=costs.own * examples / shared,
        flops=cost.flops * examples / shared,
        state=held,
        inputs=_inputs(run, mesh),
        saved=cost.saved * examples / times / shared,
        gradients=gradients,
        temporaries=gradients + cost.peak * examples / times / shared,
        code=0.0,
        traffic=2.0 * held + 4.0 * gradients + cost.moved * examples / shared,
        collectives=_expected(placed.params, mesh, times),
        source="estimated from the traced step, not compiled"
        + (", without what mesh.tensor sends" if shared > 1 else ""),
    )


def _inputs(run: TrainConfig, mesh: Mesh) -> float:
    """Bytes per device of the batch and of frozen parameters."""
    blue, rows = blueprint(run), NamedSharding(mesh, PartitionSpec(ROWS))
    batch = abstract(blue.batch, jax.tree.map(lambda _: rows, blue.batch))
    return device_bytes((batch, abstract(blue.frozen, shardings(blue.frozen, mesh))))


def _expected(params: Params, mesh: Mesh, times: int) -> list[Collective]:
    """What must go between devices for parameters that lie as their shardings say."""
    data, fsdp = mesh.shape[DATA], mesh.shape[FSDP]
    shared = [leaf for leaf in jax.tree.leaves(params) if FSDP in leaf.sharding.spec]
    cut = device_bytes(shared)
    whole = device_bytes(params) - cut
    all_kinds = [
        Collective("all-gather", cut * fsdp, fsdp, 2 * times),
        Collective("reduce-scatter", cut * fsdp, fsdp, times),
        Collective("all-reduce", cut, data, times),
        Collective("all-reduce", whole, data * fsdp, times),
    ]
    return [each for each in all_kinds if each.group > 1 and each.size]
