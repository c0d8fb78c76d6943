"""What is traced for another platform has that platform's forms, and is never taken for ours."""

import jax
import jax.numpy as jnp
import pytest

from jaxdiff import target
from jaxdiff.models.attention import attention_kernel, blocked_attention, einsum_attention
from jaxdiff.models.layers import ResnetBlock


def _primitives(platform):
    block = ResnetBlock(64, groups=4)
    x = jax.ShapeDtypeStruct((1, 48, 48, 64), jnp.float32)  # large enough for Winograd to pay
    params = jax.eval_shape(block.init, jax.random.key(0), x)
    with target.tracing_for(platform):
        jaxpr = jax.make_jaxpr(lambda p, x: block.apply(p, x))(params, x)
    return [equation.primitive.name for equation in jaxpr.jaxpr.eqns]


def test_a_block_has_the_forms_of_the_platform():
    """Winograd's products and sums by ones are the CPU's alone."""
    cpu, tpu = _primitives("cpu"), _primitives("tpu")
    assert "conv_general_dilated" not in cpu and "dot_general" in cpu
    assert tpu.count("conv_general_dilated") == 2 and "dot_general" not in tpu


@pytest.mark.parametrize(
    ("name", "kernel"), [("cpu", blocked_attention), ("tpu", einsum_attention)]
)
def test_attention_goes_by_the_platform(name, kernel):
    with target.tracing_for(name):
        assert attention_kernel("auto", jnp.bfloat16) is kernel


def test_nothing_traced_for_one_platform_serves_another():
    seen = jax.jit(lambda x: x + (1 if target.platform() == "tpu" else 0))
    here = int(seen(0))
    with target.tracing_for("tpu"):
        assert int(seen(0)) == 1
    assert int(seen(0)) == here == 0
