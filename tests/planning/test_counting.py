"""What is counted in a traced or compiled function: operations, bytes kept, collectives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdiff import target
from jaxdiff.models.attention import einsum_attention, splash_attention
from jaxdiff.planning.collectives import Collective, read_collectives
from jaxdiff.planning.liveness import kept_bytes
from jaxdiff.training.flops import count_flops

X, W = jnp.zeros((4, 16)), jnp.zeros((16, 8))
IMAGE, KERNEL = jnp.zeros((2, 8, 8, 3)), jnp.zeros((3, 3, 3, 5))


def _conv(image, kernel, stride=1):
    return jax.lax.conv_general_dilated(
        image, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _count(function, *args):
    return count_flops(jax.make_jaxpr(function)(*args))


def test_products_and_convolutions_by_their_formulas():
    assert _count(jnp.matmul, X, W) == 2 * 4 * 16 * 8
    assert _count(_conv, IMAGE, KERNEL) == 2 * (2 * 8 * 8 * 5) * (3 * 3 * 3)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_gradient_is_twice_the_forward_pass(stride):
    forward = _count(lambda i, k: _conv(i, k, stride), IMAGE, KERNEL)
    whole = _count(jax.grad(lambda i, k: jnp.sum(_conv(i, k, stride) ** 2), (0, 1)), IMAGE, KERNEL)
    assert whole == pytest.approx(3 * forward)


def test_a_loop_counts_as_often_as_it_runs():
    square = jnp.zeros((8, 8))

    def loop(x):
        return jax.lax.scan(lambda c, _: (c @ square, None), x, length=7)[0]

    assert _count(loop, square) == 7 * 2 * 8**3


def test_recomputation_is_counted():
    def loss(w, through):
        return jnp.sum(through(lambda w: jnp.tanh(jnp.tanh(X @ w) @ W.T))(w))

    plain = _count(jax.grad(lambda w: loss(w, lambda f: f)), W)
    again = _count(jax.grad(lambda w: loss(w, jax.checkpoint)), W)
    assert again > plain


def _attended(kernel, through=lambda f: f):
    """A sum over what a kernel makes of x, with itself and of 13 examples."""
    return lambda x: jnp.sum(through(lambda x: kernel(x, x, x))(x) ** 2)


def test_a_kernel_counts_as_what_it_computes():
    """Logits that the gradient computes again are nothing that the network asks for."""
    x = jnp.zeros((2, 1024, 3, 40))
    with target.tracing_for("tpu"):
        for wrap in (lambda f: f, jax.grad):
            ours = _count(wrap(_attended(splash_attention)), x)
            assert ours == pytest.approx(_count(wrap(_attended(einsum_attention)), x), rel=1e-3)
        again = _count(jax.grad(_attended(splash_attention, jax.checkpoint)), x)
    assert again == pytest.approx(ours * 8 / 6, rel=1e-3)


def test_a_kernel_keeps_no_logits():
    x = jnp.zeros((13, 1024, 1, 40))
    with target.tracing_for("tpu"):
        kept = [
            kept_bytes(
                jax.make_jaxpr(jax.value_and_grad(_attended(kernel)))(x), lambda n: n % 13 == 0
            )
            for kernel in (splash_attention, einsum_attention)
        ]
    assert kept[0].at_first < 5 * x.nbytes < 13 * 1024 * 1024 * 4 < kept[1].at_first
    assert kept[0].peak < 13 * 1024 * 1024 * 4


def test_what_is_kept_at_a_time():
    """Three products in a row: two arrays at once. With a gradient all are saved for it."""
    square, size = jnp.zeros((8, 8)), 8 * 8 * 4

    def chain(x):
        return jnp.sum((((x @ square) @ square) @ square) ** 2)

    forward = kept_bytes(jax.make_jaxpr(chain)(square), lambda size: size > 4)
    assert forward.peak == 2 * size

    def tanh_chain(x):
        return jnp.sum(jnp.tanh(jnp.tanh(x @ square) @ square))

    kept = [
        kept_bytes(jax.make_jaxpr(jax.value_and_grad(f))(square), lambda size: size > 4)
        for f in (tanh_chain, jax.checkpoint(tanh_chain))
    ]
    assert kept[0].at_first > kept[1].at_first == 0


HLO = """HloModule step

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %r = f32[1024]{0} all-reduce(%g), channel_id=1, replica_groups=[2,4]<=[8], to_apply=%add
}

%all-reduce-scatter.1 (p: f32[64]) -> f32[16] {
  %q = f32[64]{0:T(256)} all-reduce(%p), channel_id=5, replica_groups={{0,1,2,3}}, to_apply=%add
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %w = (s32[], f32[8]) while(%t), body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %s = (bf16[16]{0}, bf16[64]{0}) all-gather-start(%x), channel_id=2, replica_groups={{0,1,2,3}}
  %d = bf16[64]{0} all-gather-done(%s)
  %m = bf16[10,6]{1,0:T(8,128)(2,1)} all-gather(%y), replica_groups=mesh['a'=2,'b'=4] {'b'}
  %f = f32[16]{0} fusion(%z), kind=kCustom, calls=%all-reduce-scatter.1
  %one = f32[4]{0} all-reduce(%z), channel_id=9, replica_groups={{0},{1}}, to_apply=%add
  ROOT %o = f32[8] copy(%d)
}
"""


def test_collectives_in_every_spelling():
    found = sorted(read_collectives(HLO, 8))
    assert found == [
        Collective("all-gather", 120, 4, 1),
        Collective("all-gather", 128, 4, 1),
        Collective("all-reduce", 4096, 4, 3),
        Collective("reduce-scatter", 256, 4, 1),
    ]
    assert found[2].sent == 3 * 2 * 4096 * 3 / 4
    assert found[0].sent == 120 * 3 / 4


def test_a_loop_of_a_tpus_program_turns_as_often_as_its_condition_says():
    condition = """%bounded (p: (s32[], f32[8])) -> pred[] {
  %four = s32[]{:T(128)} constant(4)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %four), direction=LT
}

ENTRY"""
    loop, known = "while(%t), ", ', backend_config={"known_trip_count":{"n":"3"}}'
    hlo = HLO.replace(known, "").replace(loop, loop + "condition=%bounded, ")
    found = sorted(read_collectives(hlo.replace("ENTRY", condition), 8))
    assert found[2] == Collective("all-reduce", 4096, 4, 4)
    assert found[3] == Collective("reduce-scatter", 256, 4, 1)


def test_a_loop_whose_turns_cannot_be_read_is_counted_once_and_said(caplog):
    """Only what the loop sends: what the rest of the program sends is certain."""
    unknown = HLO.replace('backend_config={"known_trip_count":{"n":"3"}}', "condition=%unread")
    found = sorted(read_collectives(unknown, 8))
    assert found[2] == Collective("all-reduce", 4096, 4, 1)
    (said,) = (record.getMessage() for record in caplog.records)
    assert said == "a loop's turns cannot be read: its all-reduce is counted once"


def test_collectives_of_a_real_program():
    """Gradients over a batch in eight parts are summed once: 2 S 7/8 bytes sent."""
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    spread, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    grad = jax.jit(jax.grad(lambda w, x: jnp.mean((x @ w) ** 2)), in_shardings=(whole, spread))
    x = jax.ShapeDtypeStruct((32, 16), jnp.float32)
    w = jax.ShapeDtypeStruct((16, 8), jnp.float32)
    (only,) = read_collectives(grad.lower(w, x).compile().as_text(), 8)
    assert only == Collective("all-reduce", 16 * 8 * 4, 8, 1)
    assert only.sent == 2 * 16 * 8 * 4 * 7 / 8
