"""The arrays of one LoRA layer: torch's layouts and ours.

Axis legend: I inputs, O outputs, R rank, H W kernel height and width.
"""

import math
from itertools import pairwise

import numpy as np

from jaxdiff.convert.names import our_layout, torch_layout
from jaxdiff.errors import UserError
from jaxdiff.models.lora import LoraLayer, kernel_shape

Arrays = dict[str, np.ndarray]


def layer_from_torch(arrays: Arrays, axes: int, name: str) -> LoraLayer:
    """One layer in our layout; without an alpha its rank is the alpha.

    Args:
      arrays: `down` [R I] or [R I H W], `up` [O R] or [O R 1 1], perhaps `mid` [R R H W] and
        `alpha`, a scalar.
      axes: how many axes the kernel has here that this layer changes.
      name: of the layer, for messages.

    Raises:
      UserError: an array is missing or not finite, or they do not belong together.
    """
    for array in ("down", "up"):
        if array not in arrays:
            raise UserError(f"{name} has no {array} projection; the file is incomplete")
    for array in arrays.values():
        if not np.isfinite(array.astype(np.float32)).all():
            raise UserError(f"{name} has values that are not finite; its training went wrong")
    down, mid, up = arrays["down"], arrays.get("mid"), arrays["up"]
    down, up = our_layout("/kernel", down, axes if mid is None else 2), our_layout("/kernel", up, 2)
    mid = mid if mid is None else our_layout("/kernel", mid, 4)
    alpha = arrays.get("alpha", np.float32(up.shape[0] if up.ndim else 1))
    if not _chained(down, mid, up) or alpha.size != 1:
        shapes = ", ".join(f"{key} {array.shape}" for key, array in arrays.items())
        raise UserError(f"{name}: its arrays do not belong together ({shapes})")
    return LoraLayer(down, up, alpha.reshape(()), mid)


def layer_to_torch(path: str, layer: LoraLayer, *, linear_projection: bool) -> Arrays:
    """The arrays of a layer as kohya's files hold them, the inverse of `layer_from_torch`.

    Args:
      path: of the layer's module.
      layer: its change.
      linear_projection: the UNet's `use_linear_projection`.
    """
    unit = torch_layout(
        f"{path}/kernel", np.empty((1, 1)), linear_projection=linear_projection
    )  # one of the matrices that are 1x1 convolutions in torch has four axes now
    convolution = unit.ndim == 4 or len(kernel_shape(layer)) == 4
    arrays = {"down": layer.down, "mid": layer.mid, "up": layer.up}
    tensors = {
        key: torch_layout("/kernel", np.asarray(array))
        for key, array in arrays.items()
        if array is not None
    }
    if convolution:
        tensors = {k: a if a.ndim == 4 else a[:, :, None, None] for k, a in tensors.items()}
    return {**tensors, "alpha": np.asarray(layer.alpha)}


def plain(layer: LoraLayer) -> LoraLayer:
    """The same change with alpha = R and without `mid`: `up down` alone.

    alpha / R is shared out between the factors, to `down` as a power of two, so that small halves
    of a float16 file do not vanish.
    """
    rank = layer.up.shape[0]
    scale = float(np.asarray(layer.alpha, np.float32)) / rank
    share = 2.0 ** round(math.log2(scale) / 2) if scale > 0 else 1.0
    down, up = np.asarray(layer.down), np.asarray(layer.up)
    kernel = np.asarray(down, np.float32)
    if layer.mid is not None:
        kernel = np.einsum("ip,hwpr->hwir", kernel, np.asarray(layer.mid, np.float32))
    return LoraLayer(
        (share * kernel).astype(down.dtype),
        (scale / share * np.asarray(up, np.float32)).astype(up.dtype),
        np.float32(rank),
    )


def torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in torch of a kernel [I O] or [H W I O]: (O, I) or (O, I, H, W)."""
    *spatial, inputs, outputs = shape
    return (outputs, inputs, *spatial)


def _chained(down: np.ndarray, mid: np.ndarray | None, up: np.ndarray) -> bool:
    """Whether the factors have the right axes and hand on the same rank."""
    factors = [down, up] if mid is None else [down, mid, up]
    axes = [(2, 4), (2,)] if mid is None else [(2,), (4,), (2,)]
    return all(a.ndim in n for a, n in zip(factors, axes, strict=True)) and all(
        first.shape[-1] == second.shape[-2] for first, second in pairwise(factors)
    )
