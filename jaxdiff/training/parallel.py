"""Two thin wrappers that spread one train step over devices: jit over a mesh, and pmap.

Both compute the same numbers. Between steps, and in checkpoints, a state is a tree of global arrays
that lie as `Runner.shardings` says; a batch comes as this process's rows of the global batch.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from jaxdiff import target
from jaxdiff.errors import UserError, choose
from jaxdiff.training.config import TrainConfig
from jaxdiff.training.objective import Share
from jaxdiff.training.options import MeshConfig
from jaxdiff.training.sharding import DATA, FSDP, ROWS, TENSOR, make_mesh, shardings

HostBatch = dict[str, np.ndarray]


class Runner(NamedTuple):
    """How a step runs on the devices at hand."""

    shardings: Callable[[PyTree], PyTree]
    """A tree of arrays or their shapes -> where each of them lies."""
    put: Callable[[PyTree], PyTree]
    """Arrays that lie so, as the step takes them."""
    get: Callable[[PyTree], PyTree]
    """What the step made of them, as arrays that lie so."""
    put_batch: Callable[[HostBatch], dict[str, jax.Array]]
    """This process's rows of a batch, [b ...] or [steps b ...], as the step takes them."""
    share: Share
    """Which of the batch's rows this process reads."""
    jit: Callable[[Callable, PyTree], jax.stages.Wrapped]
    """Compile train_step(state, frozen, batch, key), given a state; the state is donated."""
    axis_name: str | None
    """Name of the device axis that the step must average over, if it must."""


def mesh_runner(mesh: Mesh, batch_size: int, *, stacked: bool) -> Runner:
    """Jit over a mesh of all devices of all processes.

    Args:
      mesh: made by `sharding.make_mesh`.
      batch_size: rows of the global batch.
      stacked: whether batches come as [steps b ...].
    """
    spec = PartitionSpec(None, ROWS) if stacked else PartitionSpec(ROWS)
    by_rows, replicated = NamedSharding(mesh, spec), NamedSharding(mesh, PartitionSpec())
    owned = _owned_rows(mesh, batch_size)
    mine = owned[jax.process_index()]

    def put_rows(rows: np.ndarray) -> jax.Array:
        axis = int(stacked)

        def piece(index: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = index[axis].indices(batch_size)
            first = int(np.searchsorted(mine, start))
            return rows[(*index[:axis], slice(first, first + stop - start))]

        shape = (*rows.shape[:axis], batch_size, *rows.shape[axis + 1 :])
        return jax.make_array_from_callback(shape, by_rows, piece)

    def jit(step: Callable, state: PyTree) -> jax.stages.Wrapped:
        @functools.wraps(step)
        def cut(*args: PyTree) -> PyTree:
            with target.cut_over(mesh, ROWS, TENSOR):
                return step(*args)

        return jax.jit(cut, out_shardings=(shardings(state, mesh), replicated), donate_argnums=0)

    return Runner(
        shardings=lambda tree: shardings(tree, mesh),
        put=lambda tree: tree,
        get=lambda tree: tree,
        put_batch=lambda batch: {name: put_rows(rows) for name, rows in batch.items()},
        share=_share(owned),
        jit=jit,
        axis_name=None,
    )


def _owned_rows(mesh: Mesh, batch_size: int) -> dict[int, np.ndarray]:
    """Process -> the numbers of the rows of a batch that its devices hold, rising."""
    indices = NamedSharding(mesh, PartitionSpec(ROWS)).devices_indices_map((batch_size,))
    owned: dict[int, set[int]] = {}
    for device, (rows,) in indices.items():
        owned.setdefault(device.process_index, set()).update(range(*rows.indices(batch_size)))
    return {process: np.array(sorted(rows)) for process, rows in owned.items()}


def _share(owned: dict[int, np.ndarray]) -> Share:
    """This process's part of the batch; processes whose devices hold the same rows share one.

    Raises:
      UserError: some hold a part of the rows that others hold.
    """
    parts = sorted({tuple(rows.tolist()) for rows in owned.values()})
    if len(set().union(*parts)) != sum(map(len, parts)):
        raise UserError(
            "mesh.tensor lays some rows of the batch on parts of several processes; let it divide "
            "the devices of a process, or be a multiple of them"
        )
    return Share(parts.index(tuple(owned[jax.process_index()].tolist())), len(parts))


def pmap_runner(*, stacked: bool) -> Runner:
    """Pmap over all devices; within a step every array of the state has a leading device axis.

    Args:
      stacked: whether batches come as [steps b ...].
    """
    devices = jax.local_devices()
    one_each = NamedSharding(Mesh(np.array(devices), (DATA,)), PartitionSpec(DATA))
    replicated = NamedSharding(Mesh(np.array(jax.devices()), (DATA,)), PartitionSpec())

    def stack(x: jax.Array) -> jax.Array:
        copies = [shard.data[None] for shard in x.addressable_shards]
        shape = (len(devices), *x.shape)
        return jax.make_array_from_single_device_arrays(shape, one_each, copies)

    def unstack(x: jax.Array) -> jax.Array:
        copies = [shard.data[0] for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays(x.shape[1:], replicated, copies)

    def split(rows: np.ndarray) -> np.ndarray:
        axis = int(stacked)
        parts = rows.shape[:axis] + (len(devices), -1) + rows.shape[axis + 1 :]
        return rows.reshape(parts).swapaxes(0, axis)

    return Runner(
        shardings=lambda tree: jax.tree.map(lambda x: replicated, tree),
        put=lambda tree: jax.tree.map(stack, tree),
        get=lambda tree: jax.tree.map(unstack, tree),
        put_batch=lambda batch: {name: split(rows) for name, rows in batch.items()},
        share=Share(jax.process_index(), jax.process_count()),
        jit=lambda step, state: jax.pmap(step, axis_name=DATA, donate_argnums=0),
        axis_name=DATA,
    )


def make_runner(config: TrainConfig, devices: Sequence[jax.Device] | None = None) -> Runner:
    """The runner that a run asks for.

    Args:
      config: the run.
      devices: what the mesh is made of; None for all devices.

    Raises:
      UserError: the mesh does not divide the devices, or the batch does not divide over the mesh
        and micro-batches.
    """
    stacked, batch_size = config.steps_per_dispatch > 1, config.data.batch_size
    if choose("--parallel", config.parallel, ("mesh", "pmap")) == "pmap":
        if config.mesh != MeshConfig():
            raise UserError("--parallel pmap has no mesh; leave the options of --mesh out")
        _check_batch(config, jax.device_count(), f"{jax.device_count()} devices")
        return pmap_runner(stacked=stacked)
    mesh = make_mesh(config.mesh, devices)
    data, fsdp = mesh.shape[DATA], mesh.shape[FSDP]
    _check_batch(config, data * fsdp, f"mesh.data={data} x mesh.fsdp={fsdp} devices")
    return mesh_runner(mesh, batch_size, stacked=stacked)


def _check_batch(config: TrainConfig, parts: int, said: str) -> None:
    """Refuse a batch that the devices cannot share."""
    accumulate, batch_size = config.optimizer.accumulate, config.data.batch_size
    if batch_size % (parts * accumulate):
        raise UserError(
            f"data.batch_size={batch_size} does not divide over {said} times "
            f"optimizer.accumulate={accumulate}; use a multiple of {parts * accumulate}"
        )
