"""Parameter trees from torch tensors and back, strictly: every name and every shape must match."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.convert.names import our_layout, our_path, torch_key, torch_layout
from jaxdiff.errors import UserError
from jaxdiff.models import (
    Autoencoder,
    AutoencoderConfig,
    TextEncoder,
    TextEncoderConfig,
    UNet,
    UNetConfig,
)

Params = dict[str, Any]
_SHOWN = 3  # names of each kind of mismatch in a message


def parameter_shapes(config: UNetConfig | AutoencoderConfig | TextEncoderConfig) -> Params:
    """The tree of `ShapeDtypeStruct` that a network of this shape has; allocates nothing."""
    return jax.eval_shape(_init(config))["params"]


def from_torch(tensors: dict[str, np.ndarray], shapes: Params, source: str) -> Params:
    """Fill a tree of `shapes` with torch tensors, as float32.

    Args:
      tensors: torch keys and arrays of any float type.
      shapes: what `parameter_shapes` says.
      source: where the tensors came from, for the message.

    Raises:
      UserError: a parameter is missing, unexpected or of another shape; all are named by torch key.
    """
    leaves, treedef = jax.tree_util.tree_flatten_with_path(shapes)
    wanted = {_join(path): leaf for path, leaf in leaves}
    given, unexpected = {}, []
    for key, array in tensors.items():
        path = our_path(key)
        if path in wanted:
            given[path] = our_layout(path, array, len(wanted[path].shape))
        elif path is not None:
            unexpected.append(key)
    missing = [torch_key(path) for path in wanted if path not in given]
    wrong = [
        f"{torch_key(path)} is {given[path].shape}, expected {wanted[path].shape}"
        for path in given
        if given[path].shape != wanted[path].shape
    ]
    _require_match(source, missing, unexpected, wrong)
    arrays = [np.ascontiguousarray(given[path], np.float32) for path in wanted]
    return jax.tree_util.tree_unflatten(treedef, arrays)


def to_torch(
    params: Params, *, prefix: str = "", linear_projection: bool = True
) -> dict[str, np.ndarray]:
    """The torch keys and arrays of a parameter tree, the inverse of `from_torch`.

    Args:
      params: a tree of arrays.
      prefix: put before the keys ("text_model." for a text encoder).
      linear_projection: a UNet's `use_linear_projection`.
    """
    return {
        torch_key(_join(path), prefix=prefix): torch_layout(
            _join(path), np.asarray(leaf), linear_projection=linear_projection
        )
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
    }


def _init(config: UNetConfig | AutoencoderConfig | TextEncoderConfig) -> Callable[[], Params]:
    """A function of nothing that initialises the network; only ever traced."""
    if isinstance(config, UNetConfig):
        return lambda: _init_unet(config)
    if isinstance(config, AutoencoderConfig):
        size, latent = config.downscale, (1, 1, 1, config.latent_channels)
        image = (1, size, size, config.in_channels)
        return lambda: Autoencoder(config).init(
            jax.random.key(0), jnp.zeros(image), jnp.zeros(latent)
        )
    return lambda: TextEncoder(config).init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))


def _init_unet(config: UNetConfig) -> Params:
    size = 2 ** (len(config.block_out_channels) - 1)
    added = None
    if config.addition_embed_type is not None:
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        added = {"text_embeds": jnp.zeros((1, pooled)), "time_ids": jnp.zeros((1, 6))}
    x = jnp.zeros((1, size, size, config.in_channels))
    context = jnp.zeros((1, 1, config.cross_attention_dim))
    return UNet(config).init(jax.random.key(0), x, jnp.zeros(1), context, added)


def _join(path: tuple[Any, ...]) -> str:
    return "/".join(str(entry.key) for entry in path)


def _require_match(
    source: str, missing: list[str], unexpected: list[str], wrong: list[str]
) -> None:
    """Raise one line that names what does not match."""
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": wrong}
    found = []
    for kind, names in kinds.items():
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            found.append(f"{len(names)} {kind} ({'; '.join(names[:_SHOWN])}{more})")
    if found:
        raise UserError(
            f"{source} does not match its config.json: {', '.join(found)}; "
            "check that both come from the same model"
        )
