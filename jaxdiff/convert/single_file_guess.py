"""What a single file without a configuration is: its family by the names and shapes in it.

    text encoder     others            family
    CLIP                               Stable Diffusion 1
    OpenCLIP                           2; the x4 upscaler with class embeddings
    both             label embeddings  SDXL
    OpenCLIP         label embeddings  SDXL's refiner

The noise is that of the family's own training. Only what the network predicts differs within one.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxdiff.convert.layout import FEW_STEPS, Layout
from jaxdiff.convert.scheduler import NoiseConfig, PredictionName
from jaxdiff.convert.single_file_names import Skeleton
from jaxdiff.convert.single_file_shapes import autoencoder_config, text_config, unet_config
from jaxdiff.convert.tensors import Stored
from jaxdiff.errors import UserError

V_MARKER, ZERO_SNR_MARKER = "v_pred", "ztsnr"
"""Empty tensors by which ComfyUI and A1111 know an SDXL model with v-prediction."""

# Tensors by which other programs know models that are not supported here.
_REFUSED = {
    "edm_mean": "Playground 2.5 (EDM noise)",
    "edm_vpred.sigma_max": "a model with EDM noise and v-prediction",
}
_PREDICTIONS: dict[str, PredictionName] = {"epsilon": "eps", "v": "v", "v_prediction": "v"}
_METADATA = ("modelspec.prediction_type", "modelspec.predict_key")
# Above it, the standard deviation of one bias in Stable Diffusion 2 means v-prediction: the rule by
# which ComfyUI tells the 768-pixel models from the 512-pixel ones.
_V_SPREAD = 0.09
_VIT_H_WIDTH, _VIT_H_LAYERS = 1024, 24  # OpenCLIP's ViT-H, of Stable Diffusion 2


class Parts(NamedTuple):
    """The networks of a single file, by diffusers' names."""

    unet: Mapping[str, Stored]
    skeleton: Skeleton
    vae: Mapping[str, Stored]
    towers: Mapping[str, tuple[Mapping[str, Stored], bool, int]]
    """By folder: tensors without "text_model.", whether OpenCLIP's, and its layers."""
    markers: Mapping[str, Stored]
    """Tensors that are no part of a network."""


class Family(NamedTuple):
    """What the shapes of a family do not show."""

    name: str
    pixels: int
    """Height and width of the pictures that it was trained on."""
    scaling_factor: float
    downscale: int = 8
    num_sizes: int = 6
    betas: tuple[float, float] = (0.00085, 0.012)


_SD1 = Family("Stable Diffusion 1", 512, 0.18215)
_SD2 = Family("Stable Diffusion 2", 512, 0.18215)
_SD2_V = Family("Stable Diffusion 2, 768 pixels", 768, 0.18215)
_SDXL = Family("SDXL", 1024, 0.13025)
_REFINER = Family("SDXL's refiner", 1024, 0.13025, num_sizes=5)
_UPSCALER = Family("the x4 upscaler", 512, 0.08333, downscale=4, betas=(0.0001, 0.02))


def guess_layout(
    parts: Parts, metadata: Mapping[str, str], prediction: PredictionName | None, source: str
) -> tuple[Layout, str]:
    """The shapes and the noise of a single file, without tokenizers, and a note on what is assumed.

    Args:
      parts: its networks.
      metadata: its header's.
      prediction: what the user says that it predicts, or None.
      source: the file, for messages.

    Raises:
      UserError: it is of another kind.
    """
    for marker, kind in _REFUSED.items():
        if marker in parts.markers:
            raise UserError(f"{source} is {kind}, which is not supported")
    try:
        said = prediction or _said(parts, metadata)
        family = _family(parts, said)
        predicts = said or _assumed(parts, family)
        return _layout(parts, family, predicts), _note(family, said, predicts, source)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error


def _layout(parts: Parts, family: Family, prediction: PredictionName) -> Layout:
    shapes = {name: tensor.shape for name, tensor in parts.unet.items()}
    texts = {}
    for name, (tensors, open_clip, layers) in parts.towers.items():
        large = "add_embedding.linear_1.weight" in shapes
        texts[name] = text_config(
            {key: tensor.shape for key, tensor in tensors.items()},
            act="gelu" if open_clip else "quick_gelu",
            layers=layers if large or not open_clip else _penultimate(tensors, layers),
            projects=large and open_clip,
        )
    added = shapes.get("add_embedding.linear_1.weight")
    pooled = max((text.projection_dim or 0 for text in texts.values()), default=0)
    width = (added[1] - pooled) // family.num_sizes if added else 0
    unet = unet_config(shapes, parts.skeleton, family.pixels // family.downscale, width)
    vae = {name: tensor.shape for name, tensor in parts.vae.items()}
    configs = {
        "unet": unet,
        "vae": autoencoder_config(vae, family.pixels, family.scaling_factor),
        **texts,
    }
    few_steps = unet.time_cond_proj_dim is not None
    noise = _noise(parts, family, prediction, few_steps)
    options = {"meta": {"sampling": dict(FEW_STEPS)}} if few_steps else {}
    if family is _UPSCALER:
        low_res = dataclasses.replace(noise, prediction="eps", steps_offset=0)
        options["low_res_noise"] = low_res
    if family is _SDXL:
        options["zero_empty_prompt"] = True
    return Layout(configs, {}, noise, options)


def _noise(
    parts: Parts, family: Family, prediction: PredictionName, few_steps: bool
) -> NoiseConfig:
    """The family's noise; sampling starts at its last level where the model was trained for that.

    Such are models distilled to few steps and those of zero terminal SNR (Lin et al. 2023).
    """
    zero_snr = ZERO_SNR_MARKER in parts.markers and prediction == "v"
    return NoiseConfig(
        "scaled_linear",
        *family.betas,
        prediction=prediction,
        zero_terminal_snr=zero_snr,
        spacing="trailing" if zero_snr or few_steps else "leading",
        steps_offset=1,
    )


def _penultimate(tensors: Mapping[str, Stored], layers: int) -> int:
    """Layers that Stable Diffusion 2 uses: all but the last, which some files leave out already."""
    full = tensors["embeddings.token_embedding.weight"].shape[1] == _VIT_H_WIDTH
    return min(layers, _VIT_H_LAYERS - 1) if full else max(1, layers - 1)


def _family(parts: Parts, said: PredictionName | None) -> Family:
    if "class_embedding.weight" in parts.unet:
        return _UPSCALER
    if "add_embedding.linear_1.weight" in parts.unet:
        if "text_encoder_2" not in parts.towers:
            raise UserError("a model that is given the embedding of a picture is not supported")
        return _SDXL if len(parts.towers) > 1 else _REFINER
    if any(open_clip for _, open_clip, _ in parts.towers.values()):
        return _SD2_V if (said or _assumed(parts, _SD2)) == "v" else _SD2
    return _SD1


def _said(parts: Parts, metadata: Mapping[str, str]) -> PredictionName | None:
    """What the file says that the network predicts."""
    for key in _METADATA:
        if metadata.get(key) in _PREDICTIONS:
            return _PREDICTIONS[metadata[key]]
    return "v" if V_MARKER in parts.markers else None


def _assumed(parts: Parts, family: Family) -> PredictionName:
    """What networks of the family predict where nobody says so."""
    if family is _UPSCALER:
        return "v"
    if family not in (_SD2, _SD2_V) or parts.unet["conv_in.weight"].shape[1] != 4:
        return "eps"
    last = f"up_blocks.{len(parts.skeleton.up) - 1}.attentions.{parts.skeleton.layers}"
    bias = parts.unet.get(f"{last}.transformer_blocks.0.norm1.bias")
    spread = 0.0 if bias is None else float(np.std(np.asarray(bias, np.float32)))
    return "v" if spread > _V_SPREAD else "eps"


def _note(
    family: Family, said: PredictionName | None, predicts: PredictionName, source: str
) -> str:
    hint = "" if said else " (if pictures come out as noise, give --prediction v or eps)"
    return (
        f"{source} carries no configuration; assumed: {family.name}, {family.pixels} pixels, "
        f"prediction {predicts}{hint}"
    )
