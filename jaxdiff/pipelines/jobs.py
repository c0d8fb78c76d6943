"""What a command line asks for: prompts, seeds and file names. Imports no jax."""

import dataclasses
import itertools
import os
import re
import tempfile
from pathlib import Path

from jaxdiff.errors import UserError
from jaxdiff.provenance import Recipe, read_png

MAX_SEED = 2**32 - 1
_MAX_RANGE = 100_000  # seeds of one command
_MAX_STEM = 60  # characters of a prompt in a file name


def read_prompts(path: Path) -> list[str]:
    """The prompts of a text file, one a line; empty lines and lines that begin with # are skipped.

    Raises:
      UserError: the file cannot be read, or holds no prompt.
    """
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise UserError(f"prompts file {path} cannot be read: {reason}") from error
    prompts = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not prompts:
        raise UserError(f"prompts file {path} holds no prompt; write one a line")
    return prompts


def parse_seeds(text: str) -> list[int]:
    """Seeds from numbers and ranges.

    >>> parse_seeds("7,0-2")
    [7, 0, 1, 2]

    Raises:
      UserError: a part is no number or range, or out of range.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if match is None:
            raise UserError(f"seeds {text!r}: {part!r} is no number; give 7, or 0-63, or 1,5,8-11")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last > MAX_SEED:
            raise UserError(f"seeds {text!r}: {part!r} is no range within 0 to {MAX_SEED}")
        if len(seeds) + last - first >= _MAX_RANGE:
            raise UserError(f"seeds {text!r} are more than {_MAX_RANGE}; draw fewer at a time")
        seeds += range(first, last + 1)
    return seeds


def count_up(seed: int, count: int) -> list[int]:
    """`count` seeds from `seed` on.

    Raises:
      UserError: there are none, or they leave the range.
    """
    if count < 1:
        raise UserError(f"--num-images is {count}; give at least 1")
    if not 0 <= seed <= MAX_SEED - count + 1:
        raise UserError(f"seed {seed} is out of range; give 0 to {MAX_SEED - count + 1}")
    return parse_seeds(f"{seed}-{seed + count - 1}")


def writable_directory(path: Path) -> Path:
    """Make a directory, and try that a file can be written into it.

    Raises:
      UserError: it cannot.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(f"output directory {path} cannot be written: {error.strerror}") from error
    return path


def picture_path(folder: Path, recipe: Recipe) -> Path:
    """Where a picture goes: `red-heart-noto-style-7.png`.

    The same recipe gets the same path; where another recipe's picture stands there, `-2`, `-3`, ...
    is appended.
    """
    words = re.sub(r"\W+", "-", recipe.prompt.lower()).strip("-")[:_MAX_STEM].strip("-")
    words = words.encode("utf-8")[: 2 * _MAX_STEM].decode("utf-8", "ignore")
    return _path(folder, f"{words or 'picture'}-{recipe.seed}", recipe)


def strip_path(picture: Path, recipe: Recipe) -> Path:
    """Where the strip of steps of a picture goes: beside it, `red-heart-7-steps.png`."""
    return _path(picture.parent, f"{picture.stem}-steps", recipe)


def _path(folder: Path, stem: str, recipe: Recipe) -> Path:
    """The first path that is free, or holds this very recipe."""
    for number in itertools.count(1):
        path = folder / (f"{stem}.png" if number == 1 else f"{stem}-{number}.png")
        if not os.path.lexists(path) or _has_recipe(path, recipe):
            return path
    raise AssertionError("unreachable")


def _has_recipe(path: Path, recipe: Recipe) -> bool:
    """Whether the picture there was drawn by this recipe, by whatever versions."""
    try:
        other = read_png(path)[1]
    except UserError:
        return False
    return dataclasses.replace(other, versions={}) == dataclasses.replace(recipe, versions={})
