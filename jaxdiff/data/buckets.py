"""Pictures of several shapes: the sizes there are, how a picture is fitted to one, and their order.

Every batch holds pictures of one size, so that a step is one compiled function per size.

Axis legend: N examples, B examples of a batch, H height, W width.
"""

import functools
from collections.abc import Callable

import numpy as np
from jaxtyping import Int, Int32, UInt8
from PIL import Image


def bucket_sizes(resolution: int, step: int, max_aspect: float) -> Int[np.ndarray, "S 2"]:
    """Sizes (height, width): for each width the tallest of area at most resolution^2.

    Sides are multiples of `step`, and no side is more than `max_aspect` times the other.

    >>> bucket_sizes(64, 16, 2.0).tolist()
    [[80, 48], [64, 64], [48, 80]]
    """
    area, sizes = resolution**2, set()
    for short in range(step, resolution + 1, step):
        long = area // short // step * step
        if long <= max_aspect * short:
            sizes |= {(short, long), (long, short)}
    return np.array(sorted(sizes, reverse=True))


def nearest_bucket(
    shapes: Int[np.ndarray, "N 2"], sizes: Int[np.ndarray, "S 2"]
) -> Int[np.ndarray, "N 2"]:
    """For each picture (height, width) the size whose aspect ratio is nearest, by logarithms."""
    aspect, wanted = (np.log(x[:, 0] / x[:, 1]) for x in (shapes, sizes))
    return sizes[np.abs(aspect[:, None] - wanted[None]).argmin(axis=1)]


def centre_crop(old: tuple[int, int], new: tuple[int, int]) -> tuple[int, int, int, int]:
    """Top, left, height and width of the largest central part of `old` shaped like `new`.

    Both are (height, width).
    """
    scale = max(new[0] / old[0], new[1] / old[1])
    high, wide = (min(round(n / scale), o) for n, o in zip(new, old, strict=True))
    return (old[0] - high) // 2, (old[1] - wide) // 2, high, wide


def fit(picture: Image.Image, height: int, width: int) -> UInt8[np.ndarray, "H W 3"]:
    """The centre of an RGB picture of the wanted aspect ratio, resized with antialiasing."""
    top, left, high, wide = centre_crop((picture.height, picture.width), (height, width))
    picture = picture.crop((left, top, left + wide, top + high))
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(picture, np.uint8)


def size_conditioning(old: tuple[int, int], new: tuple[int, int]) -> Int32[np.ndarray, "6"]:
    """What SDXL is told of a picture that `fit` made (Podell et al. 2023, section 2.2).

    Original height and width, top and left of the crop in resized pixels, height and width.
    """
    top, left, high, _ = centre_crop(old, new)
    scale = new[0] / high
    return np.array([*old, round(top * scale), round(left * scale), *new], np.int32)


def bucket_order(
    shapes: Int[np.ndarray, "N 2"], batch_size: int, seed: int
) -> Callable[[int], int]:
    """The endless order in which every run of `batch_size` examples has one shape.

    An epoch is a fresh shuffle: each shape's pictures in batches, a last one that is short filled
    up with pictures of that shape from its front, then the batches in random order. Number n is a
    function of (shapes, batch_size, seed) alone.

    Returns:
      n -> the number of the example in the source.
    """
    kinds = np.unique(shapes, axis=0, return_inverse=True)[1].reshape(-1)
    groups = [np.flatnonzero(kinds == kind) for kind in range(kinds.max() + 1)]
    per_epoch = sum(-(-len(group) // batch_size) for group in groups)

    @functools.lru_cache(maxsize=2)
    def plan(epoch: int) -> np.ndarray:
        draws = np.random.Generator(np.random.Philox(key=[seed, epoch]))
        batches = []
        for group in groups:
            count = -(-len(group) // batch_size) * batch_size
            batches.append(np.resize(draws.permutation(group), (count // batch_size, batch_size)))
        return draws.permutation(np.concatenate(batches))

    def index(number: int) -> int:
        batch, row = divmod(number, batch_size)
        epoch, place = divmod(batch, per_epoch)
        return int(plan(epoch)[place, row])

    return index
