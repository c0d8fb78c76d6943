"""Two thin wrappers that spread one train step over devices: jit over a mesh, and pmap.

Both shard the batch, replicate the state, and compute the same numbers. A batch is given as this
process's rows of the global batch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdiff.errors import UserError, choose

AXIS = "data"


class Runner(NamedTuple):
    """How a step runs on the devices at hand."""

    put: Callable[[Any], Any]
    """Replicate a host tree over the devices."""
    get: Callable[[Any], Any]
    """One copy of a replicated tree, as arrays that this process holds."""
    put_batch: Callable[[dict[str, np.ndarray]], dict[str, jax.Array]]
    """Shard this process's rows of a batch."""
    jit: Callable[[Callable], Any]
    """Compile train_step(state, frozen, batch, key); the state is donated."""
    axis_name: str | None
    """Name of the device axis that the step must average over, if it must."""


def mesh_runner() -> Runner:
    """Jit over a one-axis mesh of all devices of all processes."""
    mesh = Mesh(np.array(jax.devices()), (AXIS,))
    replicated = NamedSharding(mesh, PartitionSpec())
    sharded = NamedSharding(mesh, PartitionSpec(AXIS))
    return Runner(
        put=lambda tree: jax.device_put(tree, replicated),
        get=lambda tree: tree,
        put_batch=lambda batch: {
            name: jax.make_array_from_process_local_data(sharded, rows)
            for name, rows in batch.items()
        },
        jit=lambda step: jax.jit(
            step,
            in_shardings=(replicated, replicated, sharded, replicated),
            out_shardings=(replicated, replicated),
            donate_argnums=0,
        ),
        axis_name=None,
    )


def pmap_runner() -> Runner:
    """Pmap over all devices; every array of the state has a leading device axis."""
    devices = jax.local_device_count()

    one_each = NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS,)), PartitionSpec(AXIS))

    def stack(tree: Any) -> Any:
        stacked = jax.tree.map(lambda x: jnp.broadcast_to(x, (devices, *jnp.shape(x))), tree)
        return jax.device_put(stacked, one_each)

    def one_copy(tree: Any) -> Any:
        return jax.tree.map(lambda x: x.addressable_shards[0].data[0], tree)

    return Runner(
        put=stack,
        get=one_copy,
        put_batch=lambda batch: {
            name: rows.reshape(devices, len(rows) // devices, *rows.shape[1:])
            for name, rows in batch.items()
        },
        jit=lambda step: jax.pmap(step, axis_name=AXIS, donate_argnums=0),
        axis_name=AXIS,
    )


RUNNERS = {"mesh": mesh_runner, "pmap": pmap_runner}


def make_runner(name: str, batch_size: int, accumulate: int) -> Runner:
    """The runner of a name, for a global batch.

    Raises:
      UserError: the name is unknown, or the batch does not divide over devices and micro-batches.
    """
    runner = RUNNERS[choose("--parallel", name, RUNNERS)]
    parts = jax.device_count() * accumulate
    if batch_size % parts:
        raise UserError(
            f"data.batch_size={batch_size} does not divide over {jax.device_count()} devices "
            f"times optimizer.accumulate={accumulate}; use a multiple of {parts}"
        )
    return runner()
