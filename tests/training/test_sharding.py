"""Where arrays lie: the table of names, the mesh, and the bytes that a device really holds."""

import math
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxdiff import target
from jaxdiff.convert.merge import parameter_shapes
from jaxdiff.errors import UserError
from jaxdiff.models import AutoencoderConfig, TextEncoderConfig, UNet, UNetConfig
from jaxdiff.presets import tiny
from jaxdiff.training.options import MeshConfig
from jaxdiff.training.sharding import (
    ROWS,
    TENSOR,
    TENSOR_CUTS,
    _count_slices,
    axis_sizes,
    bytes_per_device,
    make_mesh,
    partition_spec,
    place,
    shardings,
)
from jaxdiff.training.step import init_state

SIZES = {"data": 1, "fsdp": 2, "tensor": 2}


def _names(tree):
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]


@pytest.mark.parametrize(
    ("name", "shape", "spec"),
    [
        ("unet/attn1/to_q/kernel", (32, 64), ("fsdp", "tensor")),
        ("unet/attn1/to_out_0/kernel", (64, 32), ("tensor", "fsdp")),
        ("opt/mu/resnets_0/conv1/kernel", (3, 3, 8, 16), (None, None, "fsdp", "tensor")),
        ("resnets_1/conv2/kernel", (3, 3, 16, 8), (None, None, "tensor", "fsdp")),
        ("resnets_1/norm2/scale", (16,), ("tensor",)),
        ("transformer_blocks_0/norm2/scale", (16,), (None,)),
        ("token_embedding/embedding", (540, 16), ("fsdp", None)),
        ("conv_out/kernel", (3, 3, 64, 3), (None, None, "fsdp", None)),
        ("attn1/to_q/kernel", (3, 5), (None, None)),  # divides by nothing
        ("step", (), ()),
    ],
)
def test_a_parameter_is_cut_as_its_name_says(name, shape, spec):
    assert partition_spec(name, shape, SIZES) == PartitionSpec(*spec)


def test_every_row_of_the_table_is_of_use():
    networks = UNetConfig(), TextEncoderConfig(), AutoencoderConfig()
    names = [name for config in networks for name in _names(parameter_shapes(config))]
    assert all(any(re.search(pattern, name) for name in names) for pattern, _ in TENSOR_CUTS)


@pytest.mark.parametrize(
    ("asked", "devices", "found"),
    [
        (MeshConfig(), 8, (8, 1, 1)),
        (MeshConfig(data=1, fsdp=-1), 8, (1, 8, 1)),
        (MeshConfig(data=1, fsdp=-1, tensor=2), 8, (1, 4, 2)),
        (MeshConfig(fsdp=4), 256, (64, 4, 1)),
    ],
)
def test_what_is_left_goes_where_it_is_asked(asked, devices, found):
    assert axis_sizes(asked, devices) == found


@pytest.mark.parametrize("asked", [MeshConfig(fsdp=3), MeshConfig(data=2, fsdp=2), MeshConfig(16)])
def test_a_mesh_that_does_not_make_up_the_devices_is_refused(asked):
    with pytest.raises(UserError, match=r"mesh.data=.* does not make up 8 devices.* 1, 2, 4, 8"):
        make_mesh(asked)


@pytest.mark.parametrize("asked", [MeshConfig(2, 2, 2), MeshConfig(fsdp=2, tensor=2)])
def test_a_mesh_of_three_axes_is_refused(asked):
    """A UNet's gradients are wrong there by half of themselves: XLA's, with and without Shardy."""
    with pytest.raises(UserError, match=r"mesh.data=2 x mesh.fsdp=2 x mesh.tensor=2: on three"):
        make_mesh(asked)


@pytest.mark.parametrize(("platform", "slices"), [("gpu", 1), ("cpu", 1), ("tpu", 4)])
def test_hosts_are_no_slices(platform, slices):
    devices = [SimpleNamespace(platform=platform, slice_index=i // 8) for i in range(32)]
    assert _count_slices(devices) == slices


@pytest.mark.parametrize(("data", "fsdp"), [(0, 1), (-1, -1), (1, -2)])
def test_sizes_that_are_none_are_refused(data, fsdp):
    with pytest.raises(UserError, match=r"mesh\."):
        MeshConfig(data=data, fsdp=fsdp)


def _state(config):
    params = parameter_shapes(config)
    return jax.eval_shape(lambda params: init_state(params, optax.adam(1e-3)), params)


def test_bytes_of_a_device_fall_as_one_over_fsdp():
    shapes = _state(tiny.objective.unet)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    held = {}
    for fsdp in (1, 2, 4, 8):
        mesh = make_mesh(MeshConfig(fsdp=fsdp))
        held[fsdp] = bytes_per_device(place(zeros, shardings(shapes, mesh)))
    assert held[1] == sum(x.nbytes for x in jax.tree.leaves(zeros))
    for fsdp in (2, 4, 8):  # vectors stay whole: a hundredth of this small network
        assert held[1] / fsdp < held[fsdp] < 1.1 * held[1] / fsdp


def test_of_a_large_network_nothing_worth_mention_stays_whole():
    shapes = _state(UNetConfig())
    sizes = {"data": 1, "fsdp": 64, "tensor": 1}

    def share(name, x):
        cuts = sum(axis is not None for axis in partition_spec(name, x.shape, sizes))
        return math.prod(x.shape) / 64**cuts

    held = sum(map(share, _names(shapes), jax.tree.leaves(shapes)))
    whole = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))
    assert held < 1.05 * whole / 64


# ------------------------------------------------------------------------------------- gradients


@pytest.fixture(scope="module")
def unet_gradient():
    """A small UNet's gradient on a mesh (None: on one device), at parameters that are all moved."""
    config = UNetConfig(
        sample_size=8,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    unet, rng = UNet(config), np.random.default_rng(0)
    shapes = parameter_shapes(config)
    draw = lambda s: (0.2 * rng.normal(size=s.shape)).astype(np.float32)  # noqa: E731
    params = jax.tree.map(draw, shapes)
    batch = [draw(np.empty(shape)) for shape in ((8, 8, 8, 4), (8,), (8, 16, 16))]

    def loss(params, x, t, context):
        return jnp.mean(unet.apply({"params": params}, x, 1000 * t, context) ** 2)

    def gradient(config):
        if config is None:
            return jax.device_get(jax.jit(jax.grad(loss))(params, *batch))
        mesh = make_mesh(config)
        places, by_rows = shardings(shapes, mesh), NamedSharding(mesh, PartitionSpec(ROWS))
        with target.cut_over(mesh, ROWS, TENSOR):
            cut = jax.jit(jax.grad(loss), in_shardings=(places, *3 * (by_rows,)))
            return jax.device_get(cut(params, *batch))

    return gradient


@pytest.fixture(scope="module")
def of_one_device(unet_gradient):
    """The gradient to compare with."""
    return unet_gradient(None)


_OTHERS = [(8, 1, 1), (2, 4, 1), (4, 1, 2), (2, 1, 4), (1, 2, 4), (1, 1, 8)]


@pytest.mark.parametrize(
    "sizes", [(1, 4, 2), *(pytest.param(each, marks=pytest.mark.slow) for each in _OTHERS)]
)
def test_gradients_do_not_depend_on_the_mesh(sizes, unet_gradient, of_one_device):
    """Those of every parameter, to 1e-5 of its largest one."""
    found = unet_gradient(MeshConfig(*sizes))
    for (path, expected), got in zip(
        jax.tree_util.tree_leaves_with_path(of_one_device), jax.tree.leaves(found), strict=True
    ):
        apart = np.abs(got - expected).max() / max(np.abs(expected).max(), 1e-6)
        assert apart < 1e-5, (jax.tree_util.keystr(path), apart)
