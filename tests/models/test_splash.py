"""The TPU's fused attention, interpreted on a CPU: against einsum, whole and cut over a mesh."""

import importlib.util
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdiff import target
from jaxdiff.models import attention
from jaxdiff.models.attention import einsum_attention, splash_attention
from jaxdiff.training.flops import count_flops

AXES = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")


@pytest.fixture
def short(monkeypatch):
    """Sequences of 128 tokens count as long."""
    monkeypatch.setattr(attention, "LONG", 128)


def _qkv(batch, queries, keys, heads, width=40, dtype=jnp.float32):
    names = jax.random.split(jax.random.key(0), 3)
    shapes = [(batch, n, heads, width) for n in (queries, keys, keys)]
    return [
        jax.random.normal(name, shape, dtype) for name, shape in zip(names, shapes, strict=True)
    ]


def _with_gradients(kernel):
    """The result for large logits, and the gradients of a sum of it weighted by position."""

    def loss(q, k, v):
        out = kernel(4 * q, k, v).astype(jnp.float32)
        return jnp.sum(out * jnp.sin(jnp.arange(out.size)).reshape(out.shape)), out

    def both(*qkv):
        (_, out), gradients = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(*qkv)
        return out, *gradients

    return both


def _assert_close(ours, theirs, share):
    """Differences are at most this share of the largest number."""
    for a, b in zip(ours, theirs, strict=True):
        a, b = (np.asarray(x, np.float32) for x in (a, b))
        assert np.abs(a - b).max() < share * np.abs(b).max()


# Several blocks of queries and one of keys; one and several; a width beyond a vector; a half type.
@pytest.mark.parametrize(
    ("queries", "keys", "width", "dtype", "share"),
    [
        (384, 128, 40, jnp.float32, 1e-5),
        (128, 384, 64, jnp.float32, 1e-5),
        (128, 128, 160, jnp.float32, 1e-5),
        (128, 256, 40, jnp.bfloat16, 2e-2),
    ],
)
@pytest.mark.usefixtures("short")
def test_splash_is_einsum(queries, keys, width, dtype, share):
    qkv = _qkv(2, queries, keys, 2, width, dtype)
    ours = jax.jit(_with_gradients(splash_attention))(*qkv)
    whole = [x.astype(jnp.float32) for x in qkv]
    assert splash_attention(*qkv).dtype == dtype
    assert [x.dtype for x in ours[1:]] == [dtype] * 3
    _assert_close(ours, _with_gradients(einsum_attention)(*whole), share)


@pytest.mark.usefixtures("short")
def test_splash_is_computed_again_under_remat():
    qkv = _qkv(1, 128, 128, 2)
    plain, again = (
        jax.jit(_with_gradients(kernel))(*qkv)
        for kernel in (splash_attention, jax.checkpoint(splash_attention))
    )
    _assert_close(again, plain, 1e-6)


def _jaxpr(function, qkv):
    return jax.make_jaxpr(function)(*qkv)


# Examples and heads that all axes divide, that `data` alone divides, and that none divides.
@pytest.mark.parametrize(("batch", "heads", "copies"), [(4, 2, 1), (2, 3, 4), (3, 4, 4), (3, 3, 8)])
@pytest.mark.usefixtures("short")
def test_splash_is_cut_over_a_mesh(batch, heads, copies):
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(2, 2, 2), AXES)
    qkv = _qkv(batch, 128, 128, heads)
    both = _with_gradients(splash_attention)
    whole = _with_gradients(einsum_attention)
    rows = PartitionSpec(ROWS) if batch % 4 == 0 else PartitionSpec()
    placed = [jax.device_put(x, NamedSharding(mesh, rows)) for x in qkv]
    with target.cut_over(mesh, ROWS, "tensor"):
        flops = count_flops(_jaxpr(both, qkv))
        ours = jax.jit(both)(*placed)
    assert flops == pytest.approx(copies * count_flops(_jaxpr(whole, qkv)), rel=2e-3)
    _assert_close(ours, whole(*qkv), 1e-5)


def test_splash_leaves_short_and_odd_sequences_to_einsum(monkeypatch):
    for queries, keys in ((256, 256), (1024, 77)):
        qkv = _qkv(1, queries, keys, 1, width=8)
        np.testing.assert_array_equal(splash_attention(*qkv), einsum_attention(*qkv))
    monkeypatch.setattr(attention, "LONG", 128)
    qkv = _qkv(1, 144, 144, 1, width=8)
    np.testing.assert_array_equal(splash_attention(*qkv), einsum_attention(*qkv))


def test_nothing_else_imports_pallas():
    code = "import sys, jaxdiff.training.loop; print('jax.experimental.pallas' in sys.modules)"
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert said.strip() == "False"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
@pytest.mark.parametrize("width", [40, 64, 80, 160])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_splash_compiles_for_tpus(width, dtype):
    from jax.experimental import topologies

    devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
    mesh = Mesh(np.array(devices).reshape(2, 1, 2), AXES)
    place = NamedSharding(mesh, PartitionSpec(ROWS, None, "tensor"))
    x = jax.ShapeDtypeStruct((4, 4096, 8, width), dtype, sharding=place)
    with target.tracing_for("tpu"), target.cut_over(mesh, ROWS, "tensor"):
        compiled = jax.jit(_with_gradients(splash_attention)).lower(x, x, x).compile()
    assert compiled.as_text().count("tpu_custom_call") >= 2
