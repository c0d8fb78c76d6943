"""InceptionV3 in the arrangement that the Fréchet distance is defined by.

Szegedy et al. 2016 ("Rethinking the Inception architecture"), table 1, as in the TensorFlow graph
of 2015-12-05 whose weights every published FID was taken with. It differs from the other
InceptionV3 in circulation: 1008 classes, the average pools leave the padding out of the average,
the last block (Mixed_7c) pools by the maximum, and pictures come in by TensorFlow 1's resize.

Names are those of PyTorch ports of those weights: `Mixed_5b.branch3x3dbl_2.conv.weight`.

Axis legend: B pictures, H W pixels, C channels, S side.
"""

from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt8

from jaxdiff.errors import UserError, choose
from jaxdiff.models.checks import require_positive
from jaxdiff.models.inception_blocks import MIXED, STEM, Branches, Conv, Pool, Step
from jaxdiff.models.linear import Dense
from jaxdiff.models.resizing import bilinear, tf1_bilinear

_EPSILON = 1e-3
_SMALLEST = 75  # pixels; below, nothing is left for the last blocks

ARRANGEMENTS = ("tf1", "torch")
"""How pictures come in: as in the graph of 2015, or as in pytorch-fid, whose numbers differ."""


@dataclass(frozen=True)
class InceptionConfig:
    """The shape of the network, and how it sees a picture."""

    num_classes: int = 1008
    """Outputs of the classifier, which no distance uses."""
    image_size: int = 299
    """Side of what the first layer sees, in pixels."""
    arrangement: str = "tf1"
    """tf1: legacy resize and (x - 128) / 128; torch: centred resize and x / 127.5 - 1."""

    def __post_init__(self) -> None:
        """Refuse an unknown arrangement, and numbers that make no network."""
        choose("arrangement of Inception", self.arrangement, ARRANGEMENTS)
        require_positive("Inception config", self, ("num_classes",))
        if self.image_size < _SMALLEST:
            raise UserError(
                f"Inception config: image_size must be at least {_SMALLEST}, not {self.image_size}"
            )


class InceptionOutput(NamedTuple):
    """What the network says of pictures, float32."""

    features: jax.Array
    """[B 2048], the mean over the last feature map: "pool3"."""
    logits: jax.Array
    """[B num_classes]."""


class FixedBatchNorm(nn.Module):
    """(x - running mean) / sqrt(running variance + 0.001) scale + bias: [... C].

    (Ioffe & Szegedy 2015, at inference; the running moments are parameters here.)
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape, one, zero = (x.shape[-1],), nn.initializers.ones_init(), nn.initializers.zeros_init()
        scale, variance = (self.param(name, one, shape) for name in ("scale", "running_var"))
        bias, mean = (self.param(name, zero, shape) for name in ("bias", "running_mean"))
        factor = scale * jax.lax.rsqrt(variance + _EPSILON)
        return (x * factor + (bias - mean * factor)).astype(self.dtype)


class ConvNorm(nn.Module):
    """A convolution, batch norm and ReLU: [B H W C] -> [B H' W' features]."""

    spec: Conv
    padded: bool
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        _, features, kernel, stride = self.spec
        padding = "SAME" if self.padded else "VALID"
        conv = nn.Conv(
            features, kernel, stride, padding, use_bias=False, dtype=self.dtype, name="conv"
        )
        return nn.relu(FixedBatchNorm(self.dtype, name="bn")(conv(x)))


class Mixed(nn.Module):
    """Branches side by side, concatenated: [B H W C] -> [B H' W' C']."""

    branches: Branches
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def step(h: jax.Array, spec: Step) -> jax.Array:
            if isinstance(spec, Pool):
                return pool3x3(h, spec)
            if isinstance(spec, Conv):
                return ConvNorm(spec, spec.stride == 1, self.dtype, name=spec.name)(h)
            return jnp.concatenate([step(h, each) for each in spec], axis=-1)

        outs = []
        for branch in self.branches:
            h = x
            for spec in branch:
                h = step(h, spec)
            outs.append(h)
        return jnp.concatenate(outs, axis=-1)


class InceptionV3(nn.Module):
    """The network, of pictures as `prepare` makes them."""

    config: InceptionConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B S S 3"]) -> InceptionOutput:
        for spec, padded in STEM:
            if isinstance(spec, Pool):
                x = pool3x3(x, spec)
            else:
                x = ConvNorm(spec, padded, self.dtype, name=spec.name)(x)
        for name, branches in MIXED.items():
            x = Mixed(branches, self.dtype, name=name)(x)
        features = x.astype(jnp.float32).mean(axis=(1, 2))
        logits = Dense(self.config.num_classes, dtype=self.dtype, name="fc")(features)
        return InceptionOutput(features, logits.astype(jnp.float32))


def pool3x3(x: Float[Array, "B H W C"], spec: Pool) -> Float[Array, "B H2 W2 C"]:
    """A 3x3 pool; an average is over the pixels that are there, without the padding."""
    window, strides = (3, 3), (spec.stride, spec.stride)
    if spec.kind == "average":
        return nn.avg_pool(x, window, strides, "SAME", count_include_pad=False)
    return nn.max_pool(x, window, strides, "SAME" if spec.stride == 1 else "VALID")


def prepare(config: InceptionConfig, images: UInt8[Array, "B H W 3"]) -> Float[Array, "B S S 3"]:
    """Pictures of any size as the network wants them."""
    pixels = images.astype(jnp.float32)
    if config.arrangement == "tf1":
        return (tf1_bilinear(pixels, config.image_size) - 128.0) / 128.0
    return bilinear(pixels, config.image_size) / 127.5 - 1.0
