"""Prompts, seeds and pictures as rows, in batches of few shapes. On the host, in numpy.

A picture depends on its own row alone: prompts that fill the text encoder more often than others
are drawn apart from them, since filling those up would change them.

Axis legend: B pictures, K chunks of T tokens.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from jaxdiff.convert import Model
from jaxdiff.errors import UserError
from jaxdiff.pipelines.inputs import Rows
from jaxdiff.pipelines.jobs import MAX_SEED
from jaxdiff.pipelines.prompts import Tokens, pad_chunks, tokenize_prompts
from jaxdiff.pipelines.sizes import Layout


class Words(NamedTuple):
    """One prompt and its negative prompt, in equally many chunks."""

    tokens: tuple[Tokens, ...]
    """One entry per text encoder, [1 K T]."""
    negative: tuple[Tokens, ...]
    """The same of the negative prompt."""
    notes: tuple[str, ...]
    """What to tell the user of the prompt."""

    @property
    def chunks(self) -> int:
        """K."""
        return self.tokens[0].ids.shape[1]


def read_prompt(model: Model, prompt: str, negative: str, max_chunks: int) -> Words:
    """Tokens of a prompt and its negative prompt for every text encoder.

    Raises:
      UserError: `max_chunks` is below 1, or a prompt is no text.
    """
    notes: dict[str, None] = {}
    read: list[list[Tokens]] = []
    for text in (prompt, negative):
        read.append([])
        for tower in model.text:
            tokens, said = tokenize_prompts(tower.tokenizer, [text], max_chunks=max_chunks)
            read[-1].append(tokens)
            notes |= dict.fromkeys(said)
    chunks = max(tokens.ids.shape[1] for tokens in (*read[0], *read[1]))
    both = (
        tuple(
            pad_chunks(tower.tokenizer, tokens, chunks)
            for tower, tokens in zip(model.text, towers, strict=True)
        )
        for towers in read
    )
    return Words(*both, tuple(notes))


def check_jobs(prompts: str | Sequence[str], seeds: Sequence[int]) -> list[str]:
    """One prompt per seed.

    Raises:
      UserError: there is nothing to draw, numbers differ, or a seed is out of range.
    """
    prompts = [prompts] * len(seeds) if isinstance(prompts, str) else list(prompts)
    if len(prompts) != len(seeds):
        raise UserError(f"{len(prompts)} prompts but {len(seeds)} seeds; give one per picture")
    if not prompts:
        raise UserError("nothing to draw: no prompts and no seeds; give a seed per picture")
    for seed in seeds:
        if not 0 <= seed <= MAX_SEED:
            raise UserError(f"seed {seed} is out of range; give 0 to {MAX_SEED}")
    return prompts


def make_rows(
    words: Sequence[Words],
    seeds: Sequence[int],
    layout: Layout,
    *,
    latents: np.ndarray | None = None,
    sample: np.ndarray | None = None,
) -> Iterator[tuple[np.ndarray, Rows]]:
    """The rows of all pictures, and which they are, those with equally many chunks together.

    Args:
      words: of each picture.
      seeds: of each picture.
      layout: pictures that go in, one for all or one for each.
      latents: noise to start from.
      sample: what another model drew.

    Raises:
      UserError: there are neither one nor as many pictures as are drawn.
    """
    chunks = np.array([each.chunks for each in words])
    each = {name: getattr(layout, name) for name in ("init", "mask", "small")}
    each |= {"latents": latents, "sample": sample}
    for count in np.unique(chunks):
        at = np.flatnonzero(chunks == count)
        yield (
            at,
            Rows(
                tokens=_joined([words[i].tokens for i in at]),
                negative=_joined([words[i].negative for i in at]),
                seeds=np.asarray(seeds, np.uint32)[at],
                control=tuple(
                    _at(array, at, len(words), "control image") for array in layout.control
                ),
                **{name: _at(array, at, len(words), name) for name, array in each.items()},
            ),
        )


def pad_rows(rows: Rows, devices: int) -> Rows:
    """As many rows as the next power of two per device: few shapes compile; the last repeats."""
    count = len(rows.seeds)
    per_device = 1 << (-(-count // devices) - 1).bit_length()
    take = np.minimum(np.arange(per_device * devices), count - 1)
    return jax.tree.map(lambda array: np.asarray(array)[take], rows)


def cut_rows(rows: Rows, start: int, stop: int) -> Rows:
    """Some of the rows."""
    return jax.tree.map(lambda array: array[start:stop], rows)


def _joined(tokens: list[tuple[Tokens, ...]]) -> tuple[Tokens, ...]:
    """The tokens of several prompts as one batch, for each text encoder."""
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *tokens)


def _at(array: np.ndarray | None, at: np.ndarray, count: int, name: str) -> np.ndarray | None:
    """The rows of an array that has one row for all pictures or one for each."""
    if array is None:
        return None
    if len(array) not in (1, count):
        raise UserError(f"{len(array)} of {name} for {count} pictures; give one, or one for each")
    return np.asarray(array)[at if len(array) == count else np.zeros_like(at)]
