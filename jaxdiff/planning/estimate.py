"""A plan from what was traced alone, within seconds: good enough to choose what to compile.

    memory = state + batch + gradients + rows * (peak of an example)
    bytes moved = 2 state + 4 gradients + examples * (moved of an example)                       (1)
    sent: fsdp gathers what it cuts, forward and backward, and reduces and scatters its gradients;
    data all-reduces the shards; what is not cut is all-reduced: once for every micro-batch, and
    matrices and kernels in the type that the run computes in

Axis legend: rows, the examples of a micro-batch on a device.
"""

from typing import NamedTuple, get_args

import jax
from jax.sharding import Mesh

from jaxdiff import target
from jaxdiff.models import Remat, count_parameters
from jaxdiff.planning.blueprint import blueprint, has_unet, recomputes, with_unet_options
from jaxdiff.planning.chips import Topology
from jaxdiff.planning.collectives import Collective
from jaxdiff.planning.plan import Plan
from jaxdiff.planning.traced import Probe, device_bytes, probe
from jaxdiff.training.config import TrainConfig
from jaxdiff.training.sharding import DATA, FSDP, abstract, shardings
from jaxdiff.training.step import Params, TrainState


class Costs(NamedTuple):
    """What an example costs with and without recomputation, and what a step has besides."""

    by_remat: dict[Remat, Probe]
    """By what the run computes again."""
    own: float
    """Operations of the network itself, as papers count them: none is done twice, or cheaper."""
    row: int
    """Bytes of an example as it is read."""
    frozen: Params
    """Shapes of parameters that nobody trains."""

    def of(self, run: TrainConfig) -> Probe:
        """As the run computes it."""
        return self.by_remat[recomputes(run)]


def probe_costs(run: TrainConfig, *, sweep: bool = True) -> Costs:
    """Trace an example's cost, for the platform that `target.platform()` names.

    Args:
      run: the run.
      sweep: with all that it could compute again, not only what it does.
    """
    kinds = get_args(Remat) if sweep and has_unet(run) else (recomputes(run),)
    by_remat = {kind: probe(with_unet_options(run, remat=kind)) for kind in kinds}
    with target.tracing_for("tpu"):  # whose layers have no other forms
        own = probe(with_unet_options(run, remat="none", attention="einsum"))
    blue = blueprint(run)
    row = sum(leaf.size * leaf.dtype.itemsize for leaf in blue.batch.values())
    return Costs(by_remat, own.flops, row // run.data.batch_size, blue.frozen)


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
        parameters=count_parameters(state.params),
        model_flops=costs.own * examples / shared,
        flops=cost.flops * examples / shared,
        state=held,
        inputs=costs.row * examples
        + device_bytes(abstract(costs.frozen, shardings(costs.frozen, mesh))),
        saved=cost.saved * examples / times / shared,
        gradients=gradients,
        temporaries=gradients + cost.peak * examples / times / shared,
        code=0.0,
        traffic=2.0 * held + 4.0 * gradients + cost.moved * examples / shared,
        collectives=_expected(run, placed.params, mesh),
        source="estimated from the traced step, not compiled"
        + (", without what mesh.tensor sends" if shared > 1 else ""),
    )


def _expected(run: TrainConfig, params: Params, mesh: Mesh) -> list[Collective]:
    """What must go between devices for parameters that lie as their shardings say."""
    data, fsdp, times = mesh.shape[DATA], mesh.shape[FSDP], run.optimizer.accumulate

    def as_computed(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        kind = run.dtype if leaf.ndim > 1 else leaf.dtype
        return jax.ShapeDtypeStruct(leaf.shape, kind, sharding=leaf.sharding)

    sent = jax.tree.leaves(jax.tree.map(as_computed, params))
    cut = device_bytes([leaf for leaf in sent if FSDP in leaf.sharding.spec])
    whole = device_bytes(sent) - cut
    all_kinds = [
        Collective("all-gather", cut * fsdp, fsdp, 2 * times),
        Collective("reduce-scatter", cut * fsdp, fsdp, times),
        Collective("all-reduce", cut, data, times),
        Collective("all-reduce", whole, data * fsdp, times),
    ]
    return [each for each in all_kinds if each.group > 1 and each.size]
