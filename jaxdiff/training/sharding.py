"""Where every array of a run lies on a mesh of devices: one short table of names.

    data      the batch is cut; parameters are whole
    fsdp      the batch is cut, and so are parameters, their average and the optimizer's moments
    tensor    the layers themselves are cut: heads, hidden units and channels

The tensor axis cuts layers in pairs (Shoeybi et al. 2019, section 3): the first by its outputs, the
second by its inputs, so that a pair needs one sum over devices. (Not the feed-forward layers of a
UNet: their first makes two halves side by side, which one cut would put on different devices, and
which are multiplied by each other.) The fsdp axis then cuts the largest
dimension that it divides of every matrix and kernel (Rajbhandari et al. 2020, stage 3); vectors, a
thousandth of a network, stay whole.

The optimizer's moments and the average bear the names of their parameters, so they lie with them.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from jaxdiff.errors import UserError
from jaxdiff.training.options import MeshConfig

DATA, FSDP, TENSOR = AXES = ("data", "fsdp", "tensor")
ROWS = (DATA, FSDP)
"""The axes that cut a batch."""

_OUTPUTS, _INPUTS = -1, -2  # dimensions of a kernel [... I O]; biases and scales are [O]
TENSOR_CUTS: tuple[tuple[str, int], ...] = (
    (r"(to_[qkv]|[qkv]_proj)/(kernel|bias)$", _OUTPUTS),  # attention: by heads
    (r"(to_out_0|out_proj)/kernel$", _INPUTS),
    (r"(fc1|linear_1)/(kernel|bias)$", _OUTPUTS),  # feed-forward: by hidden units
    (r"(fc2|linear_2)/kernel$", _INPUTS),
    (r"resnets_\d+/(conv1|time_emb_proj|norm2)/(kernel|bias|scale)$", _OUTPUTS),  # by channels
    (r"resnets_\d+/(conv2|conv_shortcut)/kernel$", _INPUTS),
    (r"(samplers_0/conv|conv_in)/(kernel|bias)$", _OUTPUTS),  # alone: gathered again after it
)
"""Pattern (`re.search`) of a parameter's name -> the dimension that the tensor axis cuts, counted
from the end; the first match holds, and no match means that it cuts none."""


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Lay devices out as `config` says, neighbours of the last axes nearest to each other.

    Devices of several slices (TPU pods joined by a data-centre network) are joined along `data`.

    Args:
      config: the sizes of the axes.
      devices: all devices of all processes, or those of a topology to compile for.

    Raises:
      UserError: the sizes do not make up the number of devices, or `data` that of slices.
    """
    devices = list(jax.devices() if devices is None else devices)
    shape = axis_sizes(config, len(devices))
    slices = _count_slices(devices)
    if slices == 1:
        grid = mesh_utils.create_device_mesh(
            shape, devices, allow_split_physical_axes=True, contiguous_submeshes=False
        )
    elif shape[0] % slices == 0:
        within = (shape[0] // slices, *shape[1:])
        grid = mesh_utils.create_hybrid_device_mesh(
            within, (slices, 1, 1), devices, allow_split_physical_axes=True
        )
    else:
        raise UserError(
            f"mesh.data={shape[0]} does not divide over {slices} slices; a slice holds whole "
            "rows of mesh.fsdp x mesh.tensor devices"
        )
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _count_slices(devices: Sequence[Any]) -> int:
    """XLA gives every host of GPUs or CPUs a slice_index of its own; only TPUs have slices."""
    indices = {getattr(d, "slice_index", 0) for d in devices if d.platform == "tpu"}
    return max(len(indices), 1)


def axis_sizes(config: MeshConfig, devices: int) -> tuple[int, int, int]:
    """The sizes of the axes data, fsdp and tensor; -1 becomes what is left of the devices.

    Raises:
      UserError: they do not make up the number of devices, or all three are more than 1. There XLA
        (jaxlib 0.10.2, with Shardy and without) computes wrong gradients of a UNet, without a word.
    """
    asked = {name: getattr(config, name) for name in AXES}
    known = math.prod(size for size in asked.values() if size != -1)
    said = " x ".join(f"mesh.{name}={size}" for name, size in asked.items())
    if devices % known or (-1 not in asked.values() and known != devices):
        divisors = ", ".join(str(n) for n in range(1, devices + 1) if devices % n == 0)
        raise UserError(
            f"{said} does not make up {devices} devices; their product must be {devices} "
            f"(-1: what is left), so each is one of {divisors}"
        )
    data, fsdp, tensor = (devices // known if size == -1 else size for size in asked.values())
    if min(data, fsdp, tensor) > 1:
        raise UserError(
            f"mesh.data={data} x mesh.fsdp={fsdp} x mesh.tensor={tensor}: on three axes at once "
            "XLA computes wrong gradients of convolutions; set one of them to 1"
        )
    return data, fsdp, tensor


def partition_spec(name: str, shape: Sequence[int], sizes: Mapping[str, int]) -> PartitionSpec:
    """Which mesh axis cuts which dimension of the parameter called `name`.

    An axis that does not divide a dimension leaves it whole.

    Args:
      name: its path in the tree, or that of the state, with slashes between.
      shape: its shape.
      sizes: the size of each mesh axis.
    """
    spec: list[str | None] = [None] * len(shape)
    tensor, fsdp = sizes[TENSOR], sizes[FSDP]
    cut = next((cut for pattern, cut in TENSOR_CUTS if re.search(pattern, name)), None)
    if tensor > 1 and cut is not None and -cut <= len(shape) and shape[cut] % tensor == 0:
        spec[cut] = TENSOR
    free = [i for i in range(len(shape)) if spec[i] is None and shape[i] % fsdp == 0]
    if fsdp > 1 and len(shape) > 1 and free:
        spec[max(free, key=lambda i: shape[i])] = FSDP
    return PartitionSpec(*spec)


def shardings(tree: PyTree, mesh: Mesh) -> PyTree[NamedSharding]:
    """The sharding of every array of a tree of arrays or their shapes: parameters or a state."""

    def sharding(path: tuple, leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return NamedSharding(mesh, partition_spec(name, np.shape(leaf), mesh.shape))

    return jax.tree_util.tree_map_with_path(sharding, tree)


def abstract(tree: PyTree, places: PyTree[NamedSharding]) -> PyTree[jax.ShapeDtypeStruct]:
    """Shapes, types and shardings of a tree: what to restore, or to compile for."""
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree, places
    )


def place(tree: PyTree, places: PyTree[NamedSharding]) -> PyTree[jax.Array]:
    """Put a tree of arrays of the host, which every process has whole, where they shall lie."""

    def put(x: Any, place: NamedSharding) -> jax.Array:
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, place, lambda index: host[index])

    return jax.tree.map(put, tree, places)


def bytes_per_device(tree: PyTree) -> int:
    """The most bytes of a tree of arrays that one device of this process holds."""
    held: dict[jax.Device, int] = {}
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            held[shard.device] = held.get(shard.device, 0) + shard.data.nbytes
    return max(held.values(), default=0)
