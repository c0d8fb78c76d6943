"""Pictures of any size to the size that a published network reads, by that network's own rule.

A Fréchet distance moves by whole points with the filter (Parmar et al. 2022), so each is the one
that the published numbers were made with.

Axis legend: B pictures, H W pixels, C channels, S side.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8


def tf1_bilinear(images: Float[Array, "B H W C"], side: int) -> Float[Array, "B S S C"]:
    """Bilinear as TensorFlow 1 did it: output pixel i lies at input i H / S, without half pixels.

    Nothing is averaged where a picture shrinks, the picture is shifted by up to half a pixel, and
    the last rows and columns repeat the border. (`tf.image.resize_bilinear`, align_corners=False,
    which is a part of the 2015 graph of Inception that the Fréchet distance was defined by.)
    """
    for axis in (1, 2):
        size = images.shape[axis]
        at = jnp.arange(side, dtype=jnp.float32) * (size / side)
        low = jnp.floor(at).astype(jnp.int32)
        high = jnp.minimum(low + 1, size - 1)
        share = (at - low).reshape((-1, 1, 1) if axis == 1 else (-1, 1))
        first, second = (jnp.take(images, index, axis=axis) for index in (low, high))
        images = first + (second - first) * share
    return images


def bilinear(images: Float[Array, "B H W C"], side: int) -> Float[Array, "B S S C"]:
    """Bilinear between pixel centres, without averaging where a picture shrinks, as in PyTorch."""
    shape = (images.shape[0], side, side, images.shape[3])
    return jax.image.resize(images, shape, "linear", antialias=False)


def bicubic_crop(images: UInt8[Array, "B H W C"], side: int) -> Float[Array, "B S S C"]:
    """The shorter side to S, bicubic with antialiasing, then the central square: 0 .. 255, whole.

    What Pillow does for CLIP: across, then down, in whole levels both times. (Pillow rounds its
    filters' weights too, so that a few pixels differ by a level.)
    """
    shorter = min(images.shape[1:3])
    size = [side * length // shorter for length in images.shape[1:3]]
    images = images.astype(jnp.float32)
    for axis in (2, 1):
        if images.shape[axis] != size[axis - 1]:
            shape = (*images.shape[:axis], size[axis - 1], *images.shape[axis + 1 :])
            resized = jax.image.resize(images, shape, "cubic", antialias=True)
            images = jnp.round(jnp.clip(resized, 0.0, 255.0))
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    return images[:, top : top + side, left : left + side]
