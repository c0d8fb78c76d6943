"""Dense layers and 3x3 convolutions with the parameters of Flax's, in forms that CPUs run fast.

Biases are added by `sums.rows`, and a dense layer sees one matrix of rows, so that all gradients
are plain matrix products. On a CPU, convolutions of stride 1 in float32 go by `winograd` where that
is less work and pays for the time that XLA takes to compile it.

Axis legend: B batch, H W pixels, I inputs, O outputs.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax.typing import DTypeLike

from jaxdiff import target
from jaxdiff.models.sums import rows
from jaxdiff.models.winograd import TILE, winograd_convolution

default_init = nn.linear.default_kernel_init
zeros = nn.initializers.zeros_init()
ONE_EACH_SIDE = ((1, 1), (1, 1))

_FEWEST_CHANNELS = 64  # below, transforming tiles costs about what it saves
_WORTH_COMPILING = 1 << 23  # H W I O; below, a picture is drawn before a second of compiling pays
_PIXELS_PER_TILE = 8  # of 16; below, most of a tile is padding
_SMALL_KERNEL = 1 << 17  # I x O; what a loop keeps of a small one, transformed, is 4 times its size
_TILES_FOR_A_LARGE_ONE = 16  # below, transforming the kernel costs more than it saves


class Dense(nn.Module):
    """x W + b: [... I] -> [... O].

    Attributes:
      features: O.
      use_bias: whether there is a b.
      kernel_init: initialises W [I O]; b starts at zero.
      dtype: compute type; parameters are float32.
    """

    features: int
    use_bias: bool = True
    kernel_init: Any = default_init
    dtype: DTypeLike = jnp.float32
    precision: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", zeros, (self.features,)) if self.use_bias else None
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        flat = x.reshape(-1, x.shape[-1])
        y = jnp.matmul(flat, kernel, precision=self.precision)
        return add_bias(y, bias).reshape(*x.shape[:-1], self.features)


class Conv(nn.Module):
    """A 3x3 convolution: [B H W I] -> [B H' W' O].

    Attributes:
      features: O.
      strides: in both directions.
      padding: pixels before and after, down and across.
      use_bias, kernel_init, dtype: as of `Dense`, with W [3 3 I O].
    """

    features: int
    strides: int = 1
    padding: Sequence[tuple[int, int]] = ONE_EACH_SIDE
    use_bias: bool = True
    kernel_init: Any = default_init
    dtype: DTypeLike = jnp.float32
    precision: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, (3, 3, x.shape[-1], self.features))
        bias = self.param("bias", zeros, (self.features,)) if self.use_bias else None
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        if self.strides == 1 and self.padding == ONE_EACH_SIDE and prefers_winograd(x, kernel):
            y = _convolution(x, kernel)
        else:
            y = _plain_convolution(x, kernel, self.strides, self.padding, self.precision)
        return add_bias(y.reshape(-1, self.features), bias).reshape(y.shape)


def add_bias(y: jax.Array, bias: jax.Array | None) -> jax.Array:
    """y [R O], and a bias [O] on each of its rows if there is one."""
    return y if bias is None else y + rows(bias, y.shape[0])


def prefers_winograd(x: jax.Array, kernel: jax.Array) -> bool:
    """Whether x [B H W I] with a kernel [3 3 I O] goes by `winograd_convolution`.

    Decided by platform, type and the size of one picture, never by the batch: the same picture is
    computed in the same way beside any others.
    """
    _, height, width, inputs = x.shape
    outputs = kernel.shape[-1]
    tiles = -(-height // TILE) * -(-width // TILE)
    return (
        target.platform() == "cpu"
        and x.dtype == jnp.float32
        and min(inputs, outputs) >= _FEWEST_CHANNELS
        and height * width >= _PIXELS_PER_TILE * tiles
        and (inputs * outputs <= _SMALL_KERNEL or tiles >= _TILES_FOR_A_LARGE_ONE)
    )


def _plain_convolution(
    x: jax.Array,
    kernel: jax.Array,
    stride: int = 1,
    padding: Sequence[tuple[int, int]] = ONE_EACH_SIDE,
    precision: Any = None,
) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )


@jax.custom_jvp
def _convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution of stride 1 and padding 1, as it is computed where no gradient is asked for.

    A large one by `winograd`. A small one plainly: XLA compiles that in a fifth of a second less.
    """
    if math.prod(x.shape[1:]) * kernel.shape[-1] < _WORTH_COMPILING:
        return _plain_convolution(x, kernel)
    return winograd_convolution(x, _kept(kernel, x))


@_convolution.defjvp
def _convolution_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    """In training every convolution is taken thousands of times, and goes by `winograd`."""
    return jax.jvp(lambda x, w: winograd_convolution(x, _kept(w, x)), primals, tangents)


def _kept(kernel: jax.Array, x: jax.Array) -> jax.Array:
    """The kernel; a large one so that a loop transforms it anew, rather than keep four times it."""
    if kernel.shape[2] * kernel.shape[3] <= _SMALL_KERNEL:
        return kernel
    return jax.lax.optimization_barrier((kernel, x))[0]
