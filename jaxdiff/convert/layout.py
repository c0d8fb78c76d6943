"""A model directory but for its weights: shapes, noise and tokenizers, and the index of its parts.

    model_index.json   scheduler/   text_encoder/   tokenizer/   unet/   vae/   jaxdiff.json

and, for some families, `text_encoder_2/`, `tokenizer_2/` and `low_res_scheduler/`: what `diffusers`
reads and writes, but for `jaxdiff.json` (optional), which holds what a model says of itself: name,
licence, training step. A model whose text encoder is a BERT is of a class that `diffusers` does not
know and says so, rather than draw something else: it would not mask padding.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jaxdiff.convert.configs import (
    AUTOENCODER,
    LIBRARY_VERSION,
    TEXT_ENCODER,
    UNET,
    Config,
    read_config,
    write_config,
)
from jaxdiff.convert.merge import Params
from jaxdiff.convert.model import Model, TextTower
from jaxdiff.convert.scheduler import NoiseConfig, from_scheduler_config, to_scheduler_config
from jaxdiff.convert.sentence import read_bert_config, write_bert_config
from jaxdiff.convert.tensors import read_json, write_json
from jaxdiff.convert.weight_files import INDEX, names_a_class
from jaxdiff.errors import UserError
from jaxdiff.models import SentenceEncoderConfig

TOWERS = ("text_encoder", "text_encoder_2")
CARD = "jaxdiff.json"
SCHEDULER, LOW_RES_SCHEDULER = "scheduler", "low_res_scheduler"

LoadTokenizer = Callable[[Path], Any]

_BERT = "BertStableDiffusionPipeline"  # no class of diffusers
# The pipelines that are read; the task of a call, not the file, says what is drawn.
_READ = (
    _BERT,
    "LatentConsistencyModelPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionPipeline",
    "StableDiffusionUpscalePipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
    "StableDiffusionXLPipeline",
)
# The pipeline that is written for a family.
_WRITTEN = {
    "sd": "StableDiffusionPipeline",
    "sd-inpaint": "StableDiffusionInpaintPipeline",
    "sd-upscale": "StableDiffusionUpscalePipeline",
    "sdxl": "StableDiffusionXLPipeline",
    "sdxl-inpaint": "StableDiffusionXLInpaintPipeline",
    "sdxl-refiner": "StableDiffusionXLImg2ImgPipeline",
}
_CONSISTENCY = "LatentConsistencyModelPipeline"  # sd with an embedded guidance scale
FEW_STEPS = {"sampler": "lcm", "num_steps": 4}  # what a model with LCMScheduler draws best with
_SAFETY_PARTS = ("feature_extractor", "image_encoder", "safety_checker")  # none is written


class Layout(NamedTuple):
    """A model without parameters."""

    configs: dict[str, Config | SentenceEncoderConfig]
    """By folder: unet, vae, and one or two text encoders."""
    tokenizers: dict[str, Any]
    """By the text encoder's folder."""
    noise: NoiseConfig
    options: dict[str, Any]
    """Other fields of `Model`."""


def tokenizer_folder(directory: Path, tower: str) -> Path:
    """The folder of a text encoder's tokenizer in a model directory."""
    return directory / tower.replace("text_encoder", "tokenizer")


def read_layout(
    directory: Path, load_tokenizer: LoadTokenizer | None, tokenizer_dir: Path | None = None
) -> Layout:
    """Read all of a model directory but its weights.

    Args:
      directory: its path.
      load_tokenizer: what makes a tokenizer of a folder; None skips it.
      tokenizer_dir: a folder of tokenizer files that is read instead of the model's own, or a model
        directory with such folders.

    Raises:
      UserError: a file is missing or damaged, or of an architecture that is not supported.
    """
    index = read_json(directory / INDEX)
    name = index.get("_class_name")
    if name not in _READ:
        raise UserError(f"{directory / INDEX}: {name!r} is not supported; only {', '.join(_READ)}")
    towers = [tower for tower in TOWERS if names_a_class(index.get(tower))]
    configs = {
        "unet": read_config(directory / "unet" / "config.json", UNET),
        "vae": read_config(directory / "vae" / "config.json", AUTOENCODER),
    }
    if not towers:
        raise UserError(f"{directory / INDEX} names no text encoder")
    for tower in towers:
        path = directory / tower / "config.json"
        configs[tower] = (
            read_bert_config(path) if name == _BERT else read_config(path, TEXT_ENCODER)
        )
    large = configs["unet"].addition_embed_type is not None
    if large != ("XL" in name):
        theirs, ours = ("SDXL", "SD") if large else ("SD", "SDXL")
        raise UserError(f"{directory / INDEX}: {name} is for {ours}, but the UNet is of {theirs}")
    tokenizers = {}
    if load_tokenizer is not None:
        for tower in towers:
            tokenizers[tower] = load_tokenizer(_chosen_folder(directory, tower, tokenizer_dir))
    options = _read_options(directory, index, large)
    return Layout(configs, tokenizers, _read_noise(directory / SCHEDULER), options)


def assemble(layout: Layout, params: dict[str, Params], **options: Any) -> Model:
    """The model of a layout and the parameters of its networks, by folder.

    Args:
      layout: the rest.
      params: by folder.
      **options: further fields of `Model`.

    Raises:
      UserError: the parts do not fit each other.
    """
    configs = layout.configs
    towers = tuple(
        TextTower(tower, configs[tower], params[tower], layout.tokenizers.get(tower))
        for tower in TOWERS
        if tower in configs
    )
    return Model(
        configs["unet"],
        params["unet"],
        configs["vae"],
        params["vae"],
        text=towers,
        noise=layout.noise,
        **layout.options,
        **options,
    )


def write_layout(directory: Path, model: Model) -> None:
    """Write all of a model but its weights into an empty directory.

    Raises:
      UserError: no file format describes its noise.
    """
    parts = {"unet": model.unet_config, "vae": model.vae_config}
    parts |= {tower.name: tower.config for tower in model.text}
    for part, config in parts.items():
        (directory / part).mkdir()
        write = write_bert_config if isinstance(config, SentenceEncoderConfig) else write_config
        write(directory / part / "config.json", config)
    for tower in model.text:
        if tower.tokenizer is not None:
            tower.tokenizer.save(tokenizer_folder(directory, tower.name))
    consistency = model.unet_config.time_cond_proj_dim is not None
    scheduler = to_scheduler_config(model.noise)
    if consistency:
        scheduler["_class_name"] = "LCMScheduler"
    schedulers = {SCHEDULER: scheduler}
    if model.low_res_noise is not None:
        low_res = to_scheduler_config(model.low_res_noise) | {"_class_name": "DDPMScheduler"}
        del low_res["set_alpha_to_one"]
        schedulers[LOW_RES_SCHEDULER] = low_res
    for part, content in schedulers.items():
        (directory / part).mkdir()
        content["_diffusers_version"] = LIBRARY_VERSION
        write_json(directory / part / "scheduler_config.json", content)
    write_json(directory / CARD, _card(model, scheduler))
    write_json(directory / INDEX, _index(model, schedulers, consistency))


def _read_options(directory: Path, index: dict[str, Any], large: bool) -> dict[str, Any]:
    """Fields of `Model` that only some families have, and what the model says of itself."""
    options: dict[str, Any] = {}
    if large:
        options["zero_empty_prompt"] = bool(index.get("force_zeros_for_empty_prompt", True))
    if names_a_class(index.get(LOW_RES_SCHEDULER)):
        options["low_res_noise"] = _read_noise(directory / LOW_RES_SCHEDULER, clipped=True)
        options["max_noise_level"] = int(index.get("max_noise_level", 350))
    card = directory / CARD
    few_steps = "LCMScheduler" in (index.get(SCHEDULER) or ())
    meta = {"sampling": dict(FEW_STEPS)} if few_steps else {}
    return options | {"meta": read_json(card) if card.is_file() else meta}


def _read_noise(folder: Path, clipped: bool = False) -> NoiseConfig:
    """The noise of a scheduler; `clipped`: one that only adds noise may clip its predictions."""
    path = folder / "scheduler_config.json"
    config = read_json(path)
    if clipped:
        config.pop("clip_sample", None)
    return from_scheduler_config(config, str(path))


def _chosen_folder(directory: Path, tower: str, tokenizer_dir: Path | None) -> Path:
    """The folder that a text encoder's tokenizer is read from."""
    if tokenizer_dir is None:
        return tokenizer_folder(directory, tower)
    nested = tokenizer_folder(tokenizer_dir, tower)
    return nested if nested.is_dir() else tokenizer_dir


def _card(model: Model, scheduler: dict[str, Any]) -> dict[str, Any]:
    """What the model says of itself, and the grid where the scheduler has no word for it."""
    meta, spacing = dict(model.meta), model.noise.spacing
    if from_scheduler_config(scheduler).spacing != spacing:
        meta["sampling"] = {"schedule": spacing, **meta.get("sampling", {})}
    return meta


def _index(model: Model, schedulers: dict[str, Any], consistency: bool) -> dict[str, Any]:
    """`model_index.json`: the class of each part."""
    nothing, family = [None, None], model.family
    name = _CONSISTENCY if consistency and family == "sd" else _WRITTEN[family]
    index: dict[str, Any] = {
        "_class_name": _BERT if model.reads_bert else name,
        "_diffusers_version": LIBRARY_VERSION,
        "unet": ["diffusers", UNET.class_names[0]],
        "vae": ["diffusers", AUTOENCODER.class_names[0]],
    }
    for part, content in schedulers.items():
        index[part] = ["diffusers", content["_class_name"]]
    large = family.startswith("sdxl")
    for name in TOWERS if large else TOWERS[:1]:
        index[name] = index[str(tokenizer_folder(Path(), name))] = nothing
    for tower in model.text:
        encoder, tokenizer = _text_classes(tower)
        index[tower.name] = ["transformers", encoder]
        index[str(tokenizer_folder(Path(), tower.name))] = ["transformers", tokenizer]
    if large:
        index["force_zeros_for_empty_prompt"] = model.zero_empty_prompt
    if family == "sdxl-refiner":
        index["requires_aesthetics_score"] = True
    if model.low_res_noise is not None:
        index["max_noise_level"] = model.max_noise_level
    if not large:
        index |= {part: nothing for part in _SAFETY_PARTS} | {"requires_safety_checker": False}
    return index


def _text_classes(tower: TextTower) -> tuple[str, str]:
    """The classes of a text encoder and of its tokenizer."""
    if isinstance(tower.config, SentenceEncoderConfig):
        return "SentenceEncoder", "WordPieces"
    return TEXT_ENCODER.class_names[tower.config.projection_dim is not None], "CLIPTokenizer"
