"""The contrastive objective: a picture and its caption find each other among a batch (CLIP).

    L = -1/2 sum_j P_ij [log softmax_j(s u_i v_j) + log softmax_j(s v_i u_j)]                    (1)

u and v are unit embeddings of pictures and captions, s = exp(min(scale, ln 100)) is trained
(Radford et al. 2021, figure 3 and section 2.4), and P_ij = [caption i = caption j] / its count: a
batch has several pictures of one caption, and the others are no wrong answers (Khosla et al. 2020,
eq. 2). Where all captions differ, P is the identity.

Pictures are seen through a random square of theirs, the only augmentation of Radford et al. 2021.

Axis legend: B examples of a batch over all devices, E width of an embedding, T tokens, S side.
"""

import math
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxdiff.convert.clip import Clip, save_clip
from jaxdiff.data.sources import Source
from jaxdiff.errors import UserError
from jaxdiff.models import TextEncoder, VisionEncoder, example_inputs
from jaxdiff.models.vision import prepare
from jaxdiff.rng import named_keys
from jaxdiff.training.config import ContrastiveObjective, TrainConfig
from jaxdiff.training.objective import Objective, serve
from jaxdiff.training.step import Batch, LossFn, Metrics, Params, StepKeys
from jaxdiff.training.tokenizer import run_tokenizer

START_SCALE = math.log(1 / 0.07)
LARGEST_SCALE = math.log(100.0)


class Towers(NamedTuple):
    """The two networks, without their parameters."""

    vision: VisionEncoder
    text: TextEncoder

    def init(self, key: Key[Array, ""], given: Params) -> Params:
        """Fresh parameters, and the logarithm of the scale; nothing is given."""
        keys = named_keys(key, "vision", "text")
        params = {
            name: net.init(keys[name], **example_inputs(net.config))["params"]
            for name, net in (("vision", self.vision), ("text", self.text))
        }
        return {**params, "logit_scale": jnp.float32(START_SCALE)}


def contrastive_objective(run: TrainConfig, source: Source, workdir: Path) -> Objective:
    """Build the objective.

    Args:
      run: the whole run.
      source: the data, whose captions a new tokenizer is trained on.
      workdir: where a tokenizer that is trained here is kept.

    Raises:
      UserError: the batch would be cut where it should be seen whole, captions would be dropped, or
        the tokenizer does not fit the text encoder.
    """
    config: ContrastiveObjective = run.objective
    _require_whole(run)
    tokenizer = run_tokenizer(config.text, config.tokenizer, source, workdir, "text")
    towers = make_towers(run)

    def export(path: Path, params: Params, facts: dict) -> None:
        scale = min(float(params["logit_scale"]), LARGEST_SCALE)
        parts = config.text, params["text"], config.vision, params["vision"], scale, tokenizer
        save_clip(path, Clip(*parts), np.float16, {"name": run.name, **facts})

    return Objective(
        init=towers.init,
        given={},
        frozen={},
        loss=contrastive_loss(towers, config.smallest_crop),
        batches=serve(source, run.data, lambda captions: {"tokens": tokenizer(captions)}),
        keep=lambda workdir: tokenizer.save(workdir / "tokenizer"),
        preview=lambda params: None,
        export=export,
        inputs={"tokenizer": tokenizer.digest},
    )


def make_towers(run: TrainConfig) -> Towers:
    """The networks of a run."""
    config, dtype = run.objective, jnp.dtype(run.dtype)
    return Towers(VisionEncoder(config.vision, dtype), TextEncoder(config.text, dtype))


def contrastive_loss(towers: Towers, smallest_crop: float) -> LossFn:
    """The loss (eq. 1), with the share of pictures whose nearest caption is their own."""

    def loss(params: Params, frozen: Params, batch: Batch, keys: StepKeys) -> tuple[Array, Metrics]:
        pixels = prepare(towers.vision.config, batch["image"])
        if smallest_crop < 1:
            pixels = random_crops(pixels, keys.examples, smallest_crop)
        pictures = towers.vision.apply({"params": params["vision"]}, pixels)
        captions = towers.text.apply({"params": params["text"]}, batch["tokens"]).pooled
        scale = jnp.exp(jnp.minimum(params["logit_scale"], LARGEST_SCALE))
        logits = scale * _unit(pictures) @ _unit(captions).T
        return multi_positive_loss(logits, batch["tokens"])

    return loss


def random_crops(
    pixels: Float[Array, "B S S C"], keys: Key[Array, " B"], smallest: float
) -> Float[Array, "B S S C"]:
    """A random square of each picture, bilinearly resized to all of it.

    Args:
      pixels: the pictures.
      keys: one per picture, each of which follows its picture to any device.
      smallest: the side of a square is uniform in [smallest, 1] times S, its place uniform.
    """
    side = pixels.shape[1]

    def crop(picture: Array, key: Array) -> Array:
        named = named_keys(key, "crop_side", "crop_corner")
        share = jax.random.uniform(named["crop_side"], minval=smallest)
        corner = jax.random.uniform(named["crop_corner"], (2,)) * side * (1 - share)
        scale = jnp.full(2, 1 / share)
        return jax.image.scale_and_translate(
            picture, picture.shape, (0, 1), scale, -corner * scale, "linear", antialias=False
        )

    return jax.vmap(crop)(pixels, keys)


def multi_positive_loss(
    logits: Float[Array, "B B"], tokens: Int[Array, "B T"]
) -> tuple[Float[Array, " B"], Metrics]:
    """Eq. (1) of logits [picture, caption], and per example whether the nearest caption is right.

    Args:
      logits: s u_i v_j.
      tokens: the captions; rows that are equal are one caption.
    """
    same = (tokens[:, None] == tokens[None]).all(axis=-1)
    wanted = same / same.sum(axis=1, keepdims=True)  # symmetric: equal rows have equal counts

    def cross_entropy(logits: Array) -> Float[Array, " B"]:
        return -(wanted * jax.nn.log_softmax(logits, axis=-1)).sum(axis=-1)

    nearest = jnp.take_along_axis(same, logits.argmax(axis=1)[:, None], axis=1)[:, 0]
    losses = (cross_entropy(logits) + cross_entropy(logits.T)) / 2
    return losses, {"found": nearest.astype(jnp.float32)}


def _unit(x: Float[Array, "B E"]) -> Float[Array, "B E"]:
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def _require_whole(run: TrainConfig) -> None:
    """Refuse options under which an example would not see the whole batch, or has no caption."""
    for name, given, wanted in (
        ("optimizer.accumulate", run.optimizer.accumulate, 1),
        ("parallel", run.parallel, "mesh"),
        ("data.caption_dropout", run.data.caption_dropout, 0),
    ):
        if given != wanted:
            raise UserError(
                f"{name}={given} does not go with contrastive training, which compares every "
                f"caption with the whole batch; set it to {wanted}"
            )
