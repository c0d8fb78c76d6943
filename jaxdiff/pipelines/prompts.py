r"""From a prompt to chunks of token ids, each with a weight: no arrays of jax, no networks.

The grammar is the one of AUTOMATIC1111's web UI ("Attention/emphasis" in its wiki):

    (x)      weight 1.1;  ((x)) 1.1 * 1.1        (x:1.3)  weight 1.3
    [x]      weight 1 / 1.1                      \( \) \[ \] \\  the character itself
    BREAK    what follows starts a new chunk

Weights of nested brackets multiply. A bracket without a partner is text.

Axis legend: B prompts, C chunks, T tokens of a chunk.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxdiff.data.wordpieces import AnyTokenizer
from jaxdiff.errors import UserError

EMPHASIS = 1.1
BREAK = ("BREAK", 1.0)
"""What `parse_weights` gives for a BREAK."""

_MARK = re.compile(
    r"\\(?P<escaped>[()\[\]\\])"
    r"|:\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\s*\)"
    r"|(?P<bracket>[()\[\]])"
    r"|(?P<break>\s*\bBREAK\b\s*)"
)
_CLOSING = {")": ("(", EMPHASIS), "]": ("[", 1 / EMPHASIS)}
_SHOWN = 60  # characters of a cut prompt that a note quotes


class Tokens(NamedTuple):
    """Prompts as token ids: one or more chunks, each with start token, end token and padding."""

    ids: np.ndarray
    """[B C T] int32."""
    weights: np.ndarray
    """[B C T] float32; 1 at start, end and padding."""


def parse_weights(prompt: str) -> tuple[list[tuple[str, float]], str | None]:
    """A prompt as (text, weight), in order, and what to tell the user of unbalanced brackets.

    >>> parse_weights("a (red:1.3) [cat]")[0]
    [('a ', 1.0), ('red', 1.3), (' ', 1.0), ('cat', 0.9090909090909091)]

    Neighbours of one weight are joined; a BREAK becomes `BREAK`. An empty prompt is [("", 1.0)].
    """
    runs, note = _parse(prompt)
    return [BREAK if run.new_chunk else (run.text, run.weight) for run in runs], note


def tokenize_prompts(
    tokenizer: AnyTokenizer, prompts: Sequence[str], *, max_chunks: int
) -> tuple[Tokens, list[str]]:
    """Token ids and weights of prompts, and what to tell the user of them.

    A chunk is what a text encoder reads at once. Each text between two changes of weight is split
    into words by itself. Without brackets and within one chunk the ids are the tokenizer's own.

    Args:
      tokenizer: the text encoder's.
      prompts: B texts in the grammar above.
      max_chunks: C at the most; what is beyond is cut, and a note says so.

    Returns:
      The chunks of the longest prompt; shorter ones are filled up as in `pad_chunks`.

    Raises:
      UserError: `max_chunks` is below 1, or a prompt is no text.
    """
    if max_chunks < 1:
        raise UserError(f"max_chunks is {max_chunks}; give at least 1")
    rows, notes = [], []
    for prompt in prompts:
        runs, unbalanced = _parse(prompt)
        chunks = _chunks(tokenizer, runs)
        cut = [place for chunk in chunks[max_chunks:] for _, _, place in chunk]
        rows.append(chunks[:max_chunks])
        notes += [unbalanced] if unbalanced else []
        notes += [_cut_note(prompt, cut[0], tokenizer.max_length, max_chunks)] if cut else []
    count = max(map(len, rows), default=1)
    shape = (len(rows), count, tokenizer.max_length)
    ids, weights = np.empty(shape, np.int32), np.ones(shape, np.float32)
    ids[:] = tokenizer.frame([])
    for b, chunks in enumerate(rows):
        for c, chunk in enumerate(chunks):
            ids[b, c] = tokenizer.frame([index for index, _, _ in chunk])
            weights[b, c, 1 : 1 + len(chunk)] = [weight for _, weight, _ in chunk]
    return Tokens(ids, weights), notes


def pad_chunks(tokenizer: AnyTokenizer, tokens: Tokens, chunks: int) -> Tokens:
    """The same prompts in more chunks, the new ones those of an empty prompt.

    Args:
      tokenizer: the one that made the tokens.
      tokens: of C chunks.
      chunks: how many there shall be, C or more.
    """
    missing = chunks - tokens.ids.shape[1]
    if missing < 0:
        raise ValueError(f"{tokens.ids.shape[1]} chunks cannot become {chunks}")
    shape = (len(tokens.ids), missing, tokenizer.max_length)
    empty = np.broadcast_to(np.array(tokenizer.frame([]), np.int32), shape)
    return Tokens(
        np.concatenate([tokens.ids, empty], axis=1),
        np.concatenate([tokens.weights, np.ones(shape, np.float32)], axis=1),
    )


class _Run(NamedTuple):
    """A stretch of a prompt."""

    text: str
    weight: float
    places: tuple[int, ...]
    """Where each character stands in the prompt."""
    new_chunk: bool = False


def _parse(prompt: str) -> tuple[list[_Run], str | None]:
    """The runs of a prompt, and a note on brackets without a partner."""
    runs: list[_Run] = []
    opened: list[int] = []  # brackets: where in `runs`
    alone: list[int] = []  # brackets without a partner: where in the prompt
    end = 0
    for match in _MARK.finditer(prompt):
        runs.append(_text(prompt, end, match.start()))
        end = match.end()
        if match["break"]:
            runs.append(_Run("", 1.0, (), new_chunk=True))
        elif match["escaped"]:
            runs.append(_text(prompt, end - 1, end))
        elif match["bracket"] in ("(", "["):
            opened.append(len(runs))
            runs.append(_text(prompt, *match.span()))
        else:
            opening, factor = _CLOSING[prompt[end - 1]]
            factor = float(match["weight"]) if match["weight"] else factor
            unclosed = _close(runs, opened, opening, factor)
            if unclosed is None:
                runs.append(_text(prompt, *match.span()))
            alone += [end - 1] if unclosed is None else unclosed
    runs.append(_text(prompt, end, len(prompt)))
    alone += [runs[index].places[0] for index in opened]
    return _joined(runs), _unbalanced_note(prompt, alone)


def _text(prompt: str, start: int, stop: int) -> _Run:
    return _Run(prompt[start:stop], 1.0, tuple(range(start, stop)))


def _close(runs: list[_Run], opened: list[int], opening: str, factor: float) -> list[int] | None:
    """Weigh what follows the last open bracket of a kind, which is text no more.

    Returns the places of brackets opened after it, which have no partner now; None if there is no
    such bracket.
    """
    partners = [index for index, at in enumerate(opened) if runs[at].text == opening]
    if not partners:
        return None
    at, *unclosed = opened[partners[-1] :]
    del opened[partners[-1] :]
    runs[at] = _Run("", 1.0, ())
    runs[at:] = [run._replace(weight=run.weight * factor) for run in runs[at:]]
    return [runs[index].places[0] for index in unclosed]


def _joined(runs: list[_Run]) -> list[_Run]:
    """Neighbours of one weight as one run; empty ones left out unless nothing else is there."""
    joined: list[_Run] = []
    for run in runs:
        last = joined[-1] if joined else None
        if run.new_chunk:
            joined.append(run)
        elif last and not last.new_chunk and last.weight == run.weight and run.text:
            joined[-1] = _Run(last.text + run.text, run.weight, last.places + run.places)
        elif run.text:
            joined.append(run)
    return joined or [_Run("", 1.0, ())]


def _chunks(tokenizer: AnyTokenizer, runs: list[_Run]) -> list[list[tuple[int, float, int]]]:
    """(id, weight, place in the prompt) of every token, in chunks of as many as fit."""
    room = tokenizer.max_length - 2
    chunks: list[list[tuple[int, float, int]]] = [[]]
    pieces = tokenizer.pieces([run.text for run in runs])
    for run, (ids, starts) in zip(runs, pieces, strict=True):
        if run.new_chunk:
            chunks.append([])
        for index, start in zip(ids, starts, strict=True):
            if len(chunks[-1]) == room:
                chunks.append([])
            chunks[-1].append((index, run.weight, run.places[start]))
    if len(chunks) > 1 and not chunks[-1]:
        chunks.pop()  # a BREAK at the end breaks nothing
    return chunks


def _unbalanced_note(prompt: str, alone: list[int]) -> str | None:
    """What to tell of brackets without a partner, or None."""
    if not alone:
        return None
    first = min(alone)
    more = f" and {len(alone) - 1} more" if len(alone) > 1 else ""
    verb = "are" if more else "is"
    return (
        f"unbalanced brackets: {prompt[first]!r} at character {first + 1}{more} {verb} taken "
        f"literally; write \\{prompt[first]} to say so"
    )


def _cut_note(prompt: str, place: int, length: int, max_chunks: int) -> str:
    """What to tell of a prompt whose end the model does not see."""
    cut = prompt[place:]
    end = "..." if len(cut) > _SHOWN else ""
    reads = length if max_chunks == 1 else f"{max_chunks} times {length}"
    return (
        f"the model reads {reads} tokens; of a prompt of {len(prompt)} characters the "
        f"last {len(cut)} were cut: {cut[:_SHOWN]!r}{end}"
    )
