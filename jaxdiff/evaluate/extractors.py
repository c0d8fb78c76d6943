"""The extractors by name: `pixels:SIDE`, `latents:MODEL`, `inception:FILE`, `clip:FOLDER`.

Axis legend: B pictures, H W pixels, S side, D numbers in a feature, C captions.
"""

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from jaxdiff.convert.clip import STEM, Clip, load_clip
from jaxdiff.convert.inception import load_inception
from jaxdiff.convert.model_dir import load_model, model_hash
from jaxdiff.convert.weight_files import weight_files
from jaxdiff.data.tokenizer import Tokenizer
from jaxdiff.errors import UserError, choose
from jaxdiff.evaluate.features import Extractor, Texts
from jaxdiff.heap import keep_heap
from jaxdiff.models import InceptionConfig, count_parameters, inception, network, vision
from jaxdiff.models.autoencoder import from_uint8
from jaxdiff.models.checks import require_latents

_PIXELS = "16"  # S of `pixels` alone
_TEXTS = 64  # captions at a time


def open_extractor(name: str) -> Extractor:
    """The extractor of a name, KIND:PATH, or `pixels`, or `pixels:SIDE`; keeps the heap for it.

    Raises:
      UserError: the kind is unknown or wants a path, or what lies there does not fit.
    """
    kind, _, path = name.partition(":")
    build = EXTRACTORS[choose("extractor", kind, EXTRACTORS)]
    if not path and kind != "pixels":
        raise UserError(f"the extractor {kind} wants a path: {kind}:PATH")
    extractor = build(path)
    keep_heap(count_parameters(extractor.params))
    return extractor


def _pixels(side: str) -> Extractor:
    """The pictures themselves, shrunk to a side: no network, for copies and for trying out."""
    side = side or _PIXELS
    if not side.isdecimal() or int(side) < 1:
        raise UserError(f"the extractor pixels takes a side, such as pixels:8; given {side!r}")

    def embed(_: Any, images: UInt8[Array, "B H W 3"]) -> Float[Array, "B D"]:
        shape = (images.shape[0], int(side), int(side), 3)
        return jax.image.resize(from_uint8(images), shape, "linear").reshape(shape[0], -1)

    return Extractor(f"pixels-{side}", embed)


def _latents(path: str) -> Extractor:
    """The latent means of a model's autoencoder, flattened."""
    model = load_model(path)
    vae, side = network(model.vae_config), model.vae_config.downscale

    def embed(params: Any, images: UInt8[Array, "B H W 3"]) -> Float[Array, "B D"]:
        require_latents(images.shape[1], images.shape[2], side)
        mean = vae.apply({"params": params}, from_uint8(images), method="encode")[0]
        return mean.reshape(mean.shape[0], -1)

    return Extractor(f"latents-{model_hash(path, None)}", embed, model.vae_params)


def _inception(path: str, arrangement: str = "tf1") -> Extractor:
    """The 2048 features of the FID's InceptionV3."""
    config = InceptionConfig(arrangement=arrangement)
    params = load_inception(path, config)
    net = network(config)

    def embed(params: Any, images: UInt8[Array, "B H W 3"]) -> Float[Array, "B D"]:
        return net.apply({"params": params}, inception.prepare(config, images)).features

    return Extractor(f"inception-{arrangement}-{_digest([Path(path)])}", embed, params)


def _clip(path: str) -> Extractor:
    """CLIP's embeddings, as they are (the measures scale them), and those of captions."""
    clip = load_clip(path, Tokenizer.load)
    net = network(clip.vision)

    def embed(params: Any, images: UInt8[Array, "B H W 3"]) -> Float[Array, "B D"]:
        return net.apply({"params": params}, vision.prepare(clip.vision, images))

    name = f"clip-{clip.vision.image_size}-{_digest(weight_files(Path(path), STEM))}"
    texts = functools.partial(_embed_texts, clip)
    return Extractor(name, embed, clip.vision_params, texts)


def _embed_texts(clip: Clip, captions: list[str]) -> Texts:
    """The embeddings of captions, of equal tokens one."""
    ids, own = np.unique(clip.tokenizer(captions), axis=0, return_inverse=True)
    net = network(clip.text)

    @jax.jit
    def embed(params: Any, ids: Array) -> Array:
        return net.apply({"params": params}, ids).pooled

    rows = []
    with jax.default_matmul_precision("float32"):
        for start in range(0, len(ids), _TEXTS):
            part = ids[start : start + _TEXTS]
            padded = np.resize(part, (_TEXTS, ids.shape[1]))  # one shape compiles
            rows.append(np.asarray(embed(clip.text_params, jnp.asarray(padded)))[: len(part)])
    return Texts(np.concatenate(rows), own.reshape(-1))


def _digest(files: list[Path]) -> str:
    """The first eight digits of the SHA-256 of files."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:8]


EXTRACTORS: dict[str, Callable[[str], Extractor]] = {
    "clip": _clip,
    "inception": _inception,
    "inception-torch": functools.partial(_inception, arrangement="torch"),
    "latents": _latents,
    "pixels": _pixels,
}
