"""The keys of LoRA files: which layer of which network, and which of its arrays.

    lora_unet_mid_block_attentions_0_proj_in.lora_down.weight                  kohya
    lora_unet_middle_block_1_proj_in.lora_down.weight                          kohya, SDXL
    unet.mid_block.attentions.0.proj_in.lora_A.weight                          diffusers (peft)
    unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight    older

With underscores for dots, every layout calls a layer by one of few names. These are looked up in a
table made of the network's own layers, since an underscored name alone does not say where its
dots were.
"""

import functools
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from jax.tree_util import tree_flatten_with_path

from jaxdiff.convert.model import Model
from jaxdiff.convert.names import Rules, torch_key
from jaxdiff.convert.single_file_names import renamed, skeleton, unet_names
from jaxdiff.errors import UserError
from jaxdiff.models import TextEncoderConfig, UNetConfig, parameter_shapes

UNET = "unet"
TEXT_PREFIX = "text_model."  # before the names of a text encoder's layers, in every layout
PEFT_SETTINGS = "lora_adapter_metadata"  # in the header of diffusers' files: alpha, as JSON

# What a key ends in, after the layer's name -> which array it is.
_ENDINGS = (
    (r"\.lora_down\.weight$", "down"),  # kohya
    (r"\.lora_up\.weight$", "up"),
    (r"\.lora_mid\.weight$", "mid"),
    (r"\.lora_A(\.\w+)?\.weight$", "down"),  # peft, with or without its adapter's name
    (r"\.lora_B(\.\w+)?\.weight$", "up"),
    (r"(\.lora|\.lora_linear_layer|_lora)\.down\.weight$", "down"),  # diffusers before peft
    (r"(\.lora|\.lora_linear_layer|_lora)\.up\.weight$", "up"),
    (r"\.alpha$", "alpha"),
)

# What a key begins with -> its part; None: the first text encoder, whichever that is.
_BEGINNINGS = (
    ("lora_unet_", UNET),
    ("lora_te1_", "text_encoder"),
    ("lora_te2_", "text_encoder_2"),
    ("lora_te_", None),
    ("unet.", UNET),
    ("text_encoder_2.", "text_encoder_2"),
    ("text_encoder.", "text_encoder"),
    ("", UNET),  # the first files of diffusers, which were for UNets alone
)

# An underscored name -> the one in our table; applied in order.
_OLDER_NAMES: Rules = (
    (r"^text_model_", ""),
    (r"_processor_", "_"),  # when attention was a processor's: attn1.processor.to_q_lora
    (r"_to_out$", "_to_out_0"),
    (r"self_attn_to_out_0$", "self_attn_out_proj"),  # the same in text encoders
    (r"self_attn_to_([qkv])$", r"self_attn_\1_proj"),
)

# Kinds of files that are something else than a LoRA, by what is in a key.
_OTHER_KINDS = {
    r"\.hada_": "LoHa (LyCORIS)",
    r"\.lokr_": "LoKr (LyCORIS)",
    r"\.(dora_scale|lora_magnitude_vector)": "DoRA",
    r"\.(diff|diff_b|w_norm|b_norm)$": "whole differences (LyCORIS)",
    r"\.lora_[AB](\.\w+)?\.bias$": "trained biases",
    r"\.(a1|b1)\.weight$": "GLoRA (LyCORIS)",
}


class LoraKey(NamedTuple):
    """What a key of a file says."""

    part: str
    """`unet`, or the name of a text encoder."""
    name: str
    """The layer, with underscores for dots."""
    array: str
    """`down`, `up`, `mid` or `alpha`."""


def split_key(key: str, towers: Sequence[str]) -> LoraKey | None:
    """What a key says; None if it is no LoRA's.

    >>> split_key("unet.conv_in.lora_A.weight", ["text_encoder"])
    LoraKey(part='unet', name='conv_in', array='down')

    Args:
      key: as in the file.
      towers: the names of the model's text encoders.
    """
    for ending, array in _ENDINGS:
        layer, found = re.subn(ending, "", key)
        if not found:
            continue
        start, part = next(row for row in _BEGINNINGS if layer.startswith(row[0]))
        name = layer.removeprefix(start).replace(".", "_")
        for pattern, replacement in _OLDER_NAMES:
            name = re.sub(pattern, replacement, name)
        return LoraKey(part or next(iter(towers), "text_encoder"), name, array)
    return None


def kernel_shapes(model: Model) -> dict[str, dict[str, tuple[int, ...]]]:
    """By part, the shapes of a model's kernels by the paths of their modules.

    They follow from the configurations: a model may come without its parameters.
    """
    configs = {UNET: model.unet_config, **{tower.name: tower.config for tower in model.text}}
    return {part: _kernel_shapes(config) for part, config in configs.items()}


def layer_names(model: Model) -> dict[str, dict[str, str]]:
    """By part, the underscored names of a model's layers and the paths that they stand for.

    A UNet's layers have two names each: diffusers' and that of a single file.
    """
    shapes = kernel_shapes(model)
    table = {part: {path.replace("/", "_"): path for path in shapes[part]} for part in shapes}
    table[UNET] |= {name: path for path, name in _single_file_names(shapes[UNET], model).items()}
    return table


def torch_name(part: str, path: str) -> str:
    """A layer's name in torch's dots.

    >>> torch_name("unet", "mid_block/attentions_0/transformer_blocks_0/attn1/to_out_0")
    'mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0'
    """
    prefix = "" if part == UNET else TEXT_PREFIX
    return torch_key(f"{path}/kernel", prefix=prefix).removesuffix(".weight")


def diffusers_stem(part: str, path: str, model: Model) -> str:
    """What a layer's keys begin with in diffusers' layout."""
    return f"{part}.{torch_name(part, path)}"


def kohya_stem(part: str, path: str, model: Model) -> str:
    """What a layer's keys begin with in kohya's layout: of SDXL's UNet, a single file's name."""
    prefixes = {part: start for start, part in _BEGINNINGS if start.startswith("lora_")}
    several = part == UNET or len(model.text) > 1
    name = torch_name(part, path).replace(".", "_")
    if part == UNET and model.family.startswith("sdxl"):
        name = _single_file_names([path], model)[path]
    return prefixes[part if several else None] + name


def refuse_other_kinds(keys: Sequence[str], source: str) -> None:
    """Refuse a file that holds more than LoRA layers.

    Raises:
      UserError: a key belongs to another kind of change; it and the kind are named.
    """
    for pattern, kind in _OTHER_KINDS.items():
        found = [key for key in keys if re.search(pattern, key)]
        if found:
            raise UserError(
                f"{source} holds {kind} ({found[0]}), which is not supported; only LoRA and "
                "LoCon are"
            )


def peft_alphas(header: dict[str, str], source: str) -> dict[str, dict[str, Any]]:
    """By part, what the header of a file of diffusers says of alpha; often nothing.

    Raises:
      UserError: the header is no JSON object.
    """
    try:
        settings = json.loads(header.get(PEFT_SETTINGS, "{}"))
        parts: dict[str, dict[str, Any]] = {}
        for name, value in settings.items():
            part, _, setting = name.partition(".")
            parts.setdefault(part, {})[setting] = value
    except (ValueError, AttributeError) as error:
        raise UserError(
            f"{source}: its header's {PEFT_SETTINGS} is no JSON object ({error})"
        ) from error
    return parts


def peft_alpha(settings: dict[str, Any], name: str, rank: int) -> float:
    """Alpha of one layer by peft's rules: a pattern's, else that of all, else the rank.

    Args:
      settings: those of the layer's part, from `peft_alphas`.
      name: the layer's, in torch's dots.
      rank: of the layer.
    """
    alpha = settings.get("lora_alpha", rank)
    name = name.removeprefix(TEXT_PREFIX)
    for pattern, value in (settings.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern.replace(TEXT_PREFIX, '')})$", name):
            alpha = value
    # Kalajdzievski 2023: the change is scaled by alpha / sqrt(R) instead.
    return alpha * rank**0.5 if settings.get("use_rslora") else alpha


def _single_file_names(paths: Iterable[str], model: Model) -> dict[str, str]:
    """The underscored names that a UNet's layers have in a single file, by their paths."""
    table = unet_names(skeleton(model.unet_config))
    named = {path: renamed(torch_name(UNET, path), table) for path in paths}
    return {path: name.replace(".", "_") for path, name in named.items() if name is not None}


@functools.cache  # tracing a network of full size takes seconds
def _kernel_shapes(config: UNetConfig | TextEncoderConfig) -> dict[str, tuple[int, ...]]:
    leaves, _ = tree_flatten_with_path(parameter_shapes(config))
    named = {"/".join(entry.key for entry in path): leaf for path, leaf in leaves}
    return {
        path.removesuffix("/kernel"): tuple(leaf.shape)
        for path, leaf in named.items()
        if path.endswith("/kernel")
    }
