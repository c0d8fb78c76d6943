"""Low-rank changes of dense layers and convolutions (Hu et al. 2021), merged or added on the fly.

    W' = W + w (alpha / R) down up                                                               (1)

(Hu et al. 2021, eq. 3 and section 4.1, with a weight w that the user turns.) A convolution's change
is a narrow convolution `down` and a 1x1 one `up`; where `mid` is given, the 1x1 `down` comes first
and `mid` holds the spatial part (Yeh et al. 2023, section 3.2).

A layer is named by the path of its module in its network's parameter tree, such as
`down_blocks_0/attentions_0/transformer_blocks_0/attn1/to_q`.

Axis legend: I inputs, O outputs, R rank, H W kernel height and width.
"""

import math
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from flax.linen.module import InterceptorContext
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from jaxdiff.errors import UserError
from jaxdiff.models.linear import Conv, Dense
from jaxdiff.rng import named_keys

Params = dict[str, Any]
LAYERS = (Dense, Conv, nn.Dense, nn.Conv)
"""The modules whose kernels can be changed."""


class LoraLayer(NamedTuple):
    """The change of one layer's kernel; a pytree, of jax or numpy arrays of any float type."""

    down: Any
    """[I R], or [H W I R] for a convolution without `mid`."""
    up: Any
    """[R O]."""
    alpha: Any
    """A scalar; the change is scaled by alpha / R. It is given, not trained."""
    mid: Any = None
    """[H W R R], the spatial part of a convolution whose `down` is [I R]."""


Layers = dict[str, LoraLayer]
Weighted = Sequence[tuple[Layers, ArrayLike]]

TARGETS: dict[str, str] = {
    "attention": r"attn[12]/(to_[qkv]|to_out_0)$",
    "text_attention": r"self_attn/(q|k|v|out)_proj$",
    "transformer": r"attentions_\d+/",
    "convolutions": r"(conv|conv1|conv2|conv_shortcut)$",
    "all": r"",
}
"""Layers to train, by name: patterns for `init_lora`."""


def kernel_shape(layer: LoraLayer) -> tuple[int, ...]:
    """The shape of the kernel that this layer changes: [I O] or [H W I O]."""
    spatial = layer.down.shape[:-2] if layer.mid is None else layer.mid.shape[:2]
    return (*spatial, layer.down.shape[-2], layer.up.shape[-1])


def init_lora(key: Key[Array, ""], params: Params, targets: str, rank: int, alpha: float) -> Layers:
    """A change that changes nothing yet: `down` uniform in +-1 / sqrt(fan in), `up` zero.

    (Hu et al. 2021, section 4.1; the uniform draw is that of other trainers, so that their learning
    rates carry over.) What a layer draws depends on `key` and its own path alone.

    Args:
      key: one key for the network.
      params: its parameters, or their shapes.
      targets: a pattern (`re.search`) of paths of dense layers and convolutions; see `TARGETS`.
      rank: R.
      alpha: scales the change by alpha / R.

    Raises:
      UserError: no layer matches `targets`, or `rank` is not positive.
    """
    if rank < 1:
        raise UserError(f"a LoRA's rank must be at least 1, not {rank}")
    kernels = _kernels(params)
    chosen = [path for path in kernels if re.search(targets, path)]
    if not chosen:
        raise UserError(
            f"no layer matches LoRA targets {targets!r}; a layer's name is like "
            f"{next(iter(kernels), 'nothing')}"
        )
    keys, layers = named_keys(key, *chosen), {}
    for path in chosen:
        *spatial, inputs, outputs = kernels[path].shape
        bound = 1.0 / math.sqrt(inputs * math.prod(spatial))
        shape = (*spatial, inputs, rank)
        down = jax.random.uniform(keys[path], shape, jnp.float32, -bound, bound)
        layers[path] = LoraLayer(down, jnp.zeros((rank, outputs)), jnp.float32(alpha))
    return layers


def merge(params: Params, layers: Layers, weight: ArrayLike) -> Params:
    """The network's parameters with one LoRA at `weight` in them (eq. 1); see `merge_all`."""
    return merge_all(params, [(layers, weight)])


def merge_all(params: Params, loras: Weighted) -> Params:
    """The network's parameters with the sum of several LoRAs in them (eq. 1).

    The change is computed and added in float32 and rounded once to a kernel's own type: at weight 0
    it is the base exactly. `params` itself stays as it is, and what no LoRA touches is shared with
    it; to take the LoRAs off, use it again.

    Raises:
      UserError: a layer is not in `params`, or is for a kernel of another shape.
    """
    changed = flatten_dict(params, sep="/")
    for path in dict.fromkeys(path for layers, _ in loras for path in layers):
        name = f"{path}/kernel"
        if name not in changed:
            raise UserError(f"the LoRA changes {path}, which this network does not have")
        base = changed[name]
        given = [(layers[path], weight) for layers, weight in loras if path in layers]
        for layer, _ in given:
            if kernel_shape(layer) != base.shape:
                raise UserError(
                    f"the LoRA's {path} is for a kernel of {kernel_shape(layer)}, "
                    f"this network's is {tuple(base.shape)}"
                )
        changed[name] = _changed(base, given)
    return unflatten_dict(changed, sep="/")


def intercept(loras: Weighted) -> AbstractContextManager[None]:
    """A context in which a network's calls are those of the merged one, the parameters untouched.

    Every dense layer and convolution whose path is in a LoRA adds w (alpha / R) up(down(x)) to its
    output. Layers and weights may be traced: other values compile nothing, and there are gradients
    for all but alpha. Enter it around the one network's `apply`, since another network (a
    ControlNet) may have modules of the same paths.
    """

    def add_changes(call: Any, args: Any, kwargs: Any, context: InterceptorContext) -> Any:
        out, module = call(*args, **kwargs), context.module
        if context.method_name != "__call__" or not isinstance(module, LAYERS):
            return out
        path = "/".join(module.path)
        for layers, weight in loras:
            if path in layers:
                change = weight * _scale(layers[path]) * _apply(module, layers[path], *args)
                out = out + change.astype(out.dtype)
        return out

    return nn.intercept_methods(add_changes)


def _kernels(params: Params) -> dict[str, Any]:
    """The kernels of a tree by the paths of their modules."""
    flat = flatten_dict(params, sep="/")
    ending = "/kernel"
    return {name.removesuffix(ending): flat[name] for name in flat if name.endswith(ending)}


@jax.jit
def _changed(base: ArrayLike, given: list[tuple[LoraLayer, ArrayLike]]) -> Array:
    """One kernel with its changes, in its own type; jitted, or every shape would compile often."""
    change = sum(weight * _scale(layer) * _product(layer) for layer, weight in given)
    return (jnp.asarray(base, jnp.float32) + change).astype(base.dtype)


def _scale(layer: LoraLayer) -> Float[Array, ""]:
    """alpha / R; the settings' share of the change, which has no gradient."""
    return jax.lax.stop_gradient(jnp.asarray(layer.alpha, jnp.float32)) / layer.up.shape[0]


def _product(layer: LoraLayer) -> Float[Array, "..."]:
    """`down up` as a kernel, float32: [I O] or [H W I O]."""
    down, up = (jnp.asarray(array, jnp.float32) for array in (layer.down, layer.up))
    if layer.mid is not None:
        mid = jnp.asarray(layer.mid, jnp.float32)
        down = jnp.einsum("ip,hwpr->hwir", down, mid, precision="highest")
    return jnp.matmul(down, up, precision="highest")


def _apply(module: nn.Module, layer: LoraLayer, x: Array) -> Array:
    """up(down(x)) with the module's strides, padding and compute type: [... I] -> [... O]."""

    def dense(x: Array, kernel: ArrayLike) -> Array:
        x, kernel = promote_dtype(x, kernel, dtype=module.dtype)
        return jnp.matmul(x, kernel, precision=module.precision)

    kernel = layer.down
    if layer.mid is not None:
        x, kernel = dense(x, layer.down), layer.mid
    narrow = module.clone(features=kernel.shape[-1], use_bias=False)
    return dense(narrow.apply({"params": {"kernel": kernel}}, x), layer.up)
