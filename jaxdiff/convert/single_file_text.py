"""OpenCLIP's text transformer in a single file: projections fused, and one stored transposed.

    transformer.resblocks.I.attn.in_proj_weight [3D D]    q, k, v one above the other
    text_projection [D P]                                 diffusers stores [P D]

Axis legend: D width, P projected width.
"""

import functools
import re
from collections.abc import Mapping

import numpy as np

from jaxdiff.convert.single_file_names import Names, below, inverted, renamed
from jaxdiff.convert.tensors import Stored, Tensor

# diffusers' names and OpenCLIP's, but for the fused ones.
_OPEN_CLIP = {
    "text_model.embeddings.token_embedding": "token_embedding",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm": "ln_final",
    "text_projection.weight": "text_projection",
}
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
TEXT_MODEL = "text_model."
"""Before the names of a text encoder's tensors, but for its projection."""

_FUSED = ("q", "k", "v")
_PROJECTION = "text_projection"
_SPARE = r"transformer\.resblocks\.(\d+)\.|logit_scale$|attn_mask$|text_projection$"


def open_clip_names(layers: int) -> Names:
    """The names of the tensors of OpenCLIP's text transformer, but for the fused ones."""
    names = dict(_OPEN_CLIP)
    for i in range(layers):
        ours, theirs = f"text_model.encoder.layers.{i}", f"transformer.resblocks.{i}"
        names |= below(_OPEN_CLIP_LAYER, ours, theirs)
    return names


def count_layers(names: Mapping[str, object]) -> int:
    """How many layers the file has."""
    found = (re.match(r"transformer\.resblocks\.(\d+)\.", name) for name in names)
    return len({match[1] for match in found if match})


def from_open_clip(
    tensors: Mapping[str, Stored], layers: int, projects: bool
) -> tuple[dict[str, Stored], dict[str, Stored]]:
    """Tensors by diffusers' names, and those that no network needs by the file's.

    Args:
      tensors: by the file's names, without a prefix.
      layers: how many are used; Stable Diffusion 2 leaves out the last one.
      projects: whether the projection is used; Stable Diffusion 2 leaves it out too.
    """
    names = inverted(open_clip_names(layers))
    if not projects:
        del names[_PROJECTION]
    used, spare = {}, {}
    for name, tensor in tensors.items():
        fused = re.fullmatch(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(\w+)", name)
        ours = renamed(name, names)
        if fused and int(fused[1]) < layers:
            place = f"text_model.encoder.layers.{fused[1]}.self_attn"
            for i, letter in enumerate(_FUSED):
                used[f"{place}.{letter}_proj.{fused[2]}"] = _third(tensor, i)
        elif ours is not None:
            used[ours] = _transposed(tensor) if name == _PROJECTION else tensor
        elif re.match(_SPARE, name):
            spare[name] = tensor
        else:
            used[name] = tensor  # unknown, and said to be so where the parameters are filled
    return used, spare


def to_open_clip(tensors: Mapping[str, np.ndarray], layers: int) -> dict[str, Tensor]:
    """Tensors by the file's names, the inverse of `from_open_clip`."""
    names, named = open_clip_names(layers), {}
    for name, array in tensors.items():
        theirs = renamed(name, names)
        if theirs is not None:
            named[theirs] = array.T if theirs == _PROJECTION else array
    for i in range(layers):
        place = f"text_model.encoder.layers.{i}.self_attn"
        for kind in ("weight", "bias"):
            parts = [tensors[f"{place}.{letter}_proj.{kind}"] for letter in _FUSED]
            shape = (3 * parts[0].shape[0], *parts[0].shape[1:])
            join = functools.partial(np.concatenate, parts)
            fused = Stored(shape, parts[0].dtype, join)
            named[f"transformer.resblocks.{i}.attn.in_proj_{kind}"] = fused
    return named


def _third(tensor: Stored, index: int) -> Stored:
    """One of the three equal parts along the first axis."""
    rows = tensor.shape[0] // len(_FUSED)
    part = slice(index * rows, (index + 1) * rows)
    return Stored((rows, *tensor.shape[1:]), tensor.dtype, lambda: tensor.read()[part])


def _transposed(tensor: Stored) -> Stored:
    return Stored(tensor.shape[::-1], tensor.dtype, lambda: tensor.read().T)
