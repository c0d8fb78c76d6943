"""LoRA files, in and out: safetensors in the layouts of kohya's scripts and of diffusers."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from jaxdiff.convert import lora_names as names
from jaxdiff.convert.lora_arrays import (
    Arrays,
    layer_from_torch,
    layer_to_torch,
    plain,
    torch_shape,
)
from jaxdiff.convert.model import Model
from jaxdiff.convert.tensors import (
    read_metadata,
    read_tensors,
    require_safetensors,
    write_tensors,
)
from jaxdiff.errors import UserError, choose
from jaxdiff.models.lora import Layers, LoraLayer, kernel_shape

LORA_META = "jaxdiff"  # of a file's header: what a LoRA trained here says of itself, in JSON
LORA_DRAWS = "draws"  # therein: the settings that it draws best with
_SHOWN = 3  # names in a message
_STALE = (names.PEFT_SETTINGS, "sshs_model_hash", "sshs_legacy_hash")  # true of one file only


@dataclass(frozen=True)
class Lora:
    """A low-rank change of a model; layers are named by the paths of their modules."""

    unet: Layers
    """Of the UNet."""
    text: dict[str, Layers]
    """Of the text encoders, by their names."""
    meta: dict[str, str]
    """The header of its file: what the trainer noted."""

    @property
    def parts(self) -> dict[str, Layers]:
        """The changes by the names of the parts: `unet`, `text_encoder`, `text_encoder_2`."""
        return {names.UNET: self.unet, **self.text}


def load_lora(path: str | Path, model: Model) -> Lora:
    """Read a LoRA for this model; arrays keep the type that the file has.

    kohya's and diffusers' layouts are read, old and new, with linear layers, convolutions (LoCon)
    and text encoders. A layer without an alpha has its rank as alpha.

    Raises:
      UserError: the file is missing, truncated, a pickle or no LoRA, or does not fit the model: the
        first layer of another shape is named with both shapes, or the keys that no layer answers
        to.
    """
    source = require_safetensors(path)
    tensors, header = read_tensors([source]), read_metadata(source)
    names.refuse_other_kinds(list(tensors), str(source))
    alphas = names.peft_alphas(header, str(source))
    shapes = names.kernel_shapes(model)
    found, unknown = _sort(tensors, model, str(source))
    parts: dict[str, Layers] = {part: {} for part in shapes}
    wrong = []
    for (part, path_), arrays in found.items():
        name, shape = names.torch_name(part, path_), shapes[part][path_]
        layer = layer_from_torch(arrays, len(shape), f"{source}: {name}")
        if "alpha" not in arrays:
            alpha = names.peft_alpha(alphas.get(part, {}), name, layer.up.shape[0])
            layer = layer._replace(alpha=np.asarray(alpha, np.float32))
        if kernel_shape(layer) != shape:
            theirs, ours = torch_shape(kernel_shape(layer)), torch_shape(shape)
            wrong.append(f"{name} is for a weight of {theirs}, the model's is {ours}")
        parts[part][path_] = layer
    _require_fit(source, wrong, unknown, len(found))
    return Lora(parts.pop(names.UNET), parts, header)


def save_lora(
    path: str | Path,
    lora: Lora,
    model: Model,
    *,
    layout: str = "diffusers",
    dtype: DTypeLike | None = None,
) -> None:
    """Write a LoRA, whole or not at all.

    Args:
      path: the file, `*.safetensors`.
      lora: of `model`.
      model: gives the layers' names, and their kinds where a matrix here is a 1x1 convolution
        there.
      layout: "diffusers" (alpha is multiplied in, since most readers take none there; a
        convolution's `mid` too), or "kohya" (all as it is).
      dtype: of the arrays; None keeps each one's own.

    Raises:
      UserError: `layout` is unknown, an array is not finite in `dtype`, or the file cannot be
        written.
    """
    to_stem, endings, prepare = _LAYOUTS[choose("LoRA layout", layout, _LAYOUTS)]
    linear, tensors = model.unet_config.use_linear_projection, {}
    for part, layers in lora.parts.items():
        for path_, layer in layers.items():
            arrays = layer_to_torch(path_, prepare(layer), linear_projection=linear)
            stem = to_stem(part, path_, model)
            tensors |= {stem + end: arrays[key] for key, end in endings.items() if key in arrays}
    meta = {name: text for name, text in lora.meta.items() if name not in _STALE}
    file = require_safetensors(path)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(file, tensors, dtype, meta)
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror or error}") from error


def draws(lora: Lora, source: str) -> dict[str, Any]:
    """Settings that a LoRA draws best with, by its own word: of a student, few steps.

    Raises:
      UserError: its header is damaged; `source` names the file.
    """
    try:
        return dict(json.loads(lora.meta.get(LORA_META, "{}")).get(LORA_DRAWS, {}))
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{source}: what its header says under {LORA_META!r} cannot be read ({error}); export "
            "the LoRA again"
        ) from error


def lora_hash(path: str | Path) -> str:
    """Twelve hexadecimal digits by which web UIs know a LoRA: SHA-256 of all but the header."""
    with Path(path).open("rb") as stream:
        stream.seek(8 + int.from_bytes(stream.read(8), "little"))
        return hashlib.file_digest(stream, "sha256").hexdigest()[:12]


class _Layout(NamedTuple):
    """How a layout is written."""

    stem: Callable[[str, str, Model], str]
    """(part, path of a layer, model) -> the layer's name."""
    endings: dict[str, str]
    """What follows it, by array; other arrays are left out."""
    prepare: Callable[[LoraLayer], LoraLayer]
    """What leaves the change as it is and moves it into these arrays."""


_LAYOUTS = {
    "diffusers": _Layout(
        names.diffusers_stem, {"down": ".lora_A.weight", "up": ".lora_B.weight"}, plain
    ),
    "kohya": _Layout(
        names.kohya_stem,
        {
            "down": ".lora_down.weight",
            "mid": ".lora_mid.weight",
            "up": ".lora_up.weight",
            "alpha": ".alpha",
        },
        lambda layer: layer,
    ),
}


def _sort(
    tensors: Arrays, model: Model, source: str
) -> tuple[dict[tuple[str, str], Arrays], list[str]]:
    """The arrays by part and path of their layer, and the keys that are no layer's."""
    table, towers = names.layer_names(model), [tower.name for tower in model.text]
    found: dict[tuple[str, str], Arrays] = {}
    unknown = []
    for key, array in tensors.items():
        said = names.split_key(key, towers)
        path = said and table.get(said.part, {}).get(said.name)
        if path is None:
            unknown.append(key)
            continue
        arrays = found.setdefault((said.part, path), {})
        if said.array in arrays:
            raise UserError(f"{source} holds {key} twice, by two names")
        arrays[said.array] = array
    return found, unknown


def _require_fit(source: Path, wrong: list[str], unknown: list[str], count: int) -> None:
    """Raise one line that names what does not fit."""
    if wrong:
        raise UserError(
            f"{source}: {wrong[0]} ({len(wrong)} of {count} layers do not fit); "
            "it was made for another architecture"
        )
    if unknown or not count:
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        raise UserError(
            f"{source} has {len(unknown)} keys that are no LoRA layer of this model "
            f"({'; '.join(unknown[:_SHOWN])}{more}); use a LoRA made for its architecture"
        )
