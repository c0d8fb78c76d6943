"""The real train step of a run, traced and lowered for a mesh of devices that need not exist.

Axis legend: B examples of a batch.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from jaxdiff.planning.blueprint import Blueprint, blueprint
from jaxdiff.planning.liveness import kept_bytes
from jaxdiff.training.config import TrainConfig
from jaxdiff.training.dispatch import step_of
from jaxdiff.training.flops import count_flops
from jaxdiff.training.optimizer import make_optimizer
from jaxdiff.training.parallel import Runner
from jaxdiff.training.sharding import ROWS, abstract
from jaxdiff.training.step import StepKeys, TrainState, init_state, make_gradients

_ROWS = 13  # a batch that no dimension of a network is a multiple of


class TracedStep(NamedTuple):
    """A step over a mesh, before it is compiled."""

    traced: jax.stages.Traced
    """What jax made of it."""
    flops: float
    """Operations of a step, over all devices."""
    state: int
    """Bytes per device of parameters, average and moments."""
    inputs: int
    """Bytes per device of frozen parameters and the batch."""


class Probe(NamedTuple):
    """What an example costs, whatever the batch and the mesh; estimates where they are of bytes."""

    flops: float
    """Operations."""
    saved: float
    """Bytes that the forward pass keeps for the backward pass."""
    peak: float
    """Bytes at the worst moment."""
    moved: float
    """Bytes written and read."""


def abstract_state(blue: Blueprint, run: TrainConfig) -> TrainState:
    """The state of a run, by shapes."""
    optimizer = make_optimizer(run.optimizer, run.num_steps)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(lambda key: init_state(blue.init(key), optimizer), key)


def trace_step(run: TrainConfig, mesh: Mesh, runner: Runner) -> TracedStep:
    """Trace the step of a run, for the platform that `target.platform()` names.

    Args:
      run: the run.
      mesh: the devices.
      runner: what spreads the step over them.
    """
    blue, optimizer = blueprint(run), make_optimizer(run.optimizer, run.num_steps)
    state, key = abstract_state(blue, run), jax.eval_shape(lambda: jax.random.key(0))
    step = step_of(run, blue.loss, optimizer, runner)
    state, frozen, key = (
        abstract(tree, runner.shardings(tree)) for tree in (state, blue.frozen, key)
    )
    rows = NamedSharding(mesh, PartitionSpec(ROWS))
    batch = abstract(blue.batch, jax.tree.map(lambda _: rows, blue.batch))
    traced = runner.jit(step, state).trace(state, frozen, batch, key)
    return TracedStep(
        traced=traced,
        flops=count_flops(traced.jaxpr),
        state=device_bytes(state),
        inputs=device_bytes((frozen, batch)),
    )


def device_bytes(tree: PyTree[jax.ShapeDtypeStruct]) -> int:
    """Bytes that one device holds of arrays that lie as their shardings say."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def probe(run: TrainConfig) -> Probe:
    """Trace the gradient of a run's loss for the platform that `target.platform()` names."""
    data = dataclasses.replace(run.data, batch_size=_ROWS)
    optimizer = dataclasses.replace(run.optimizer, accumulate=1)
    blue = blueprint(dataclasses.replace(run, data=data, optimizer=optimizer))
    key = jax.eval_shape(lambda: jax.random.key(0))
    keys = StepKeys(key, jax.eval_shape(lambda: jax.random.split(jax.random.key(0), _ROWS)))
    params = jax.eval_shape(blue.init, key)
    gradients = make_gradients(blue.loss, accumulate=1)
    jaxpr = jax.make_jaxpr(gradients)(params, blue.frozen, blue.batch, keys)
    kept = kept_bytes(jaxpr, lambda size: size % _ROWS == 0)
    return Probe(
        count_flops(jaxpr) / _ROWS,
        kept.at_first / _ROWS,
        kept.peak / _ROWS,
        kept.moved / _ROWS,
    )
