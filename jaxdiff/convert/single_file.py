"""A model as one .safetensors file, the layout that A1111 and ComfyUI read and write.

    model.diffusion_model.*   the UNet                       first_stage_model.*   the autoencoder
    cond_stage_model.*        a text encoder                 conditioner.embedders.I.*   SDXL's

What is written here also carries everything else of a model directory, configurations, tokenizers
and noise, in its header: it comes back equal. Of other files, that is guessed from shapes.
"""

import dataclasses
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from jaxdiff.convert import single_file_vae as vae_file
from jaxdiff.convert.configs import Config
from jaxdiff.convert.layout import TOWERS, LoadTokenizer, assemble, read_layout
from jaxdiff.convert.merge import Params, from_torch, parameter_shapes
from jaxdiff.convert.model import Model
from jaxdiff.convert.scheduler import PredictionName
from jaxdiff.convert.single_file_guess import Parts, guess_layout
from jaxdiff.convert.single_file_header import unpack
from jaxdiff.convert.single_file_names import (
    UNET_PREFIX,
    find_skeleton,
    inverted,
    renamed,
    unet_names,
)
from jaxdiff.convert.single_file_text import TEXT_MODEL, count_layers, from_open_clip
from jaxdiff.convert.tensors import (
    Stored,
    open_tensors,
    read_metadata,
    require_safetensors,
)
from jaxdiff.convert.vocabulary import find_tokenizers
from jaxdiff.errors import UserError

Sections = dict[str, dict[str, Stored]]
"""By prefix, tensors by the rest of their names; those of no known prefix below ""."""


class _Place(NamedTuple):
    """Where a single file has a text encoder, and in whose names."""

    prefix: str
    tower: str
    open_clip: bool


_SGM_TOWER = "conditioner.embedders.0.model."
_PLACES = (
    _Place("cond_stage_model.transformer.", "text_encoder", False),
    _Place("cond_stage_model.model.", "text_encoder", True),
    _Place("conditioner.embedders.0.transformer.", "text_encoder", False),
    _Place(_SGM_TOWER, "text_encoder_2", True),  # the refiner's only one
    _Place("conditioner.embedders.1.model.", "text_encoder_2", True),
)
_TEXT_SPARE = r"(text_model\.)?(text_projection\.weight|logit_scale|embeddings\.position_ids)$"

# Left out: averages of the weights, and what an autoencoder's training needs.
_DROPPED = r"model_ema\.|first_stage_model\.(loss|model_ema)\."
# Other kinds of files, by a name in them, and what to do with each.
_OTHERS = (
    (r"lora_|.*\.lora_(A|B|up|down)\.", "a LoRA; give it with --lora"),
    (r"control_model\.|.*controlnet_cond_embedding\.", "a ControlNet; give it with --controlnet"),
    (r"emb_params$|clip_[lg]$", "a textual inversion; give it with --embedding"),
    (r"down_blocks\.|encoder\.", "one part of a model directory; give the directory"),
    (r"(model\.diffusion_model\.)?(double|joint)_blocks\.", "a Flux or SD3 model: not supported"),
)


def load_single_file(
    path: Path,
    load_tokenizer: LoadTokenizer | None = None,
    *,
    dtype: DTypeLike | None = np.float32,
    prediction: PredictionName | None = None,
    tokenizer_dir: Path | None = None,
) -> Model:
    """Load a model from one file; arguments and errors are those of `load_model`."""
    sections = _sections(open_tensors([require_safetensors(path)]), str(path))
    metadata, places = read_metadata(path), _places(sections)
    with tempfile.TemporaryDirectory() as scratch:
        embedded = Path(scratch)
        if unpack(metadata, embedded, str(path)):
            layout, notes = read_layout(embedded, None), []
        else:
            parts = _parts(sections, places, str(path))
            layout, note = guess_layout(parts, metadata, prediction, str(path))
            notes = [note]
        if prediction is not None:
            noise = dataclasses.replace(layout.noise, prediction=prediction)
            layout = layout._replace(noise=noise)
        towers = [tower for tower in TOWERS if tower in layout.configs]
        if load_tokenizer is not None:
            tokenizers, found = find_tokenizers(
                {tower: layout.configs[tower].hidden_act == "gelu" for tower in towers},
                load_tokenizer,
                tokenizer_dir=tokenizer_dir,
                embedded=embedded,
                max_length=layout.configs[towers[0]].max_position_embeddings,
                source=str(path),
            )
            layout = layout._replace(tokenizers=tokenizers)
            notes += [f"{path} carries no tokenizer; read from {found}"] if found else []
    params, unused = _read_params(sections, places, layout.configs, str(path), dtype)
    return assemble(layout, params, notes=tuple(notes), unused=unused)


def _sections(tensors: Mapping[str, Stored], source: str) -> Sections:
    """The tensors of each network, below its prefix."""
    prefixes = (UNET_PREFIX, vae_file.PREFIX, *(place.prefix for place in _PLACES))
    sections: Sections = {}
    for name, tensor in tensors.items():
        if re.match(_DROPPED, name):
            continue
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
        sections.setdefault(prefix, {})[name.removeprefix(prefix)] = tensor
    text = any(place.prefix in sections for place in _PLACES)
    needed = {"UNet": UNET_PREFIX in sections, "autoencoder": vae_file.PREFIX in sections}
    missing = [part for part, there in (needed | {"text encoder": text}).items() if not there]
    if missing:
        kinds = (kind for pattern, kind in _OTHERS for name in tensors if re.match(pattern, name))
        seems = next(kinds, "a part of a model; a checkpoint holds all of them")
        raise UserError(f"{source} holds no {', no '.join(missing)}: it seems to be {seems}")
    return sections


def _places(sections: Sections) -> dict[str, _Place]:
    """The text encoders that are there, by folder."""
    places = {place.tower: place for place in _PLACES if place.prefix in sections}
    refiner = places.get("text_encoder_2")
    large = "label_emb.0.0.weight" in sections[UNET_PREFIX]
    if refiner is not None and not large:  # Stable Diffusion 2 in the later layout
        return {"text_encoder": refiner}
    return places


def _parts(sections: Sections, places: Mapping[str, _Place], source: str) -> Parts:
    """All networks by diffusers' names, for guessing their shapes."""
    towers = {}
    for name, (prefix, _, open_clip) in places.items():
        tensors, layers = sections[prefix], 0
        if open_clip:
            layers = count_layers(tensors)
            tensors, _ = from_open_clip(tensors, layers, projects=True)
        bare = {key.removeprefix(TEXT_MODEL): tensor for key, tensor in tensors.items()}
        numbers = (re.match(r"encoder\.layers\.(\d+)\.", key) for key in bare)
        towers[name] = (bare, open_clip, len({match[1] for match in numbers if match}))
    blocks = find_skeleton(sections[UNET_PREFIX], source)
    return Parts(
        _by_our_names(sections[UNET_PREFIX], inverted(unet_names(blocks))),
        blocks,
        _by_our_names(sections[vae_file.PREFIX], _vae_names(sections)),
        towers,
        sections.get("", {}),
    )


def _read_params(
    sections: Sections,
    places: Mapping[str, _Place],
    configs: Mapping[str, Config],
    source: str,
    dtype: DTypeLike | None,
) -> tuple[dict[str, Params], dict[str, np.ndarray]]:
    """The parameters of every network by folder, and the tensors that none needs."""
    blocks = find_skeleton(sections[UNET_PREFIX], source)
    tensors = {
        "unet": _by_our_names(sections[UNET_PREFIX], inverted(unet_names(blocks))),
        "vae": _by_our_names(sections[vae_file.PREFIX], _vae_names(sections)),
    }
    unused: dict[str, Any] = dict(sections.get("", {}))
    for name in configs.keys() - tensors.keys():
        if name not in places:
            raise UserError(f"{source} holds no {name}, which its header describes")
        tensors[name], spare = _text_tensors(sections[places[name].prefix], places[name], configs)
        unused |= {places[name].prefix + key: tensor for key, tensor in spare.items()}
    params = {
        name: from_torch(tensors[name], parameter_shapes(config), f"{source} ({name})", dtype)
        for name, config in configs.items()
    }
    return params, {name: np.asarray(tensor) for name, tensor in unused.items()}


def _text_tensors(
    tensors: dict[str, Stored], place: _Place, configs: Mapping[str, Config]
) -> tuple[dict[str, Stored], dict[str, Stored]]:
    """The tensors of a text encoder by diffusers' names, and those that it does not need."""
    config = configs[place.tower if place.tower in configs else "text_encoder"]
    projects = config.projection_dim is not None
    if place.open_clip:
        return from_open_clip(tensors, config.num_hidden_layers, projects)
    spare = {
        key: tensor
        for key, tensor in tensors.items()
        if re.match(_TEXT_SPARE, key) and not (projects and "projection" in key)
    }
    return {key: tensors[key] for key in tensors.keys() - spare.keys()}, spare


def _vae_names(sections: Sections) -> dict[str, str]:
    return inverted(vae_file.find_vae_names(sections[vae_file.PREFIX]))


def _by_our_names(tensors: Mapping[str, Stored], names: Mapping[str, str]) -> dict[str, Stored]:
    """Tensors by diffusers' names; an unknown one by its own."""
    return {renamed(name, names) or name: tensor for name, tensor in tensors.items()}
