r"""Words for things, as lines of text: WordNet's names, in captions of the emoji's form.

    python -m jaxdiff.data.words words.txt --captions emoji/permissive@train

The things are those that can be drawn, by WordNet's own files (animals, artefacts, food, ...). Each
name has a line of its own ("kitten"), one in a style of the emoji in turn ("kitten, noto style"),
and with `--glosses` one that says what it is ("kitten, young domestic cat"). Captions of a corpus
may follow, each as often as asked for and once in every form that training loosens it to, so that a
text encoder that learns from the file (`train.py emoji-text --data.source text:FILE`) tells them
apart as well. `jaxdiff.training.near` leaves out what has nothing to do with the captions.
"""

import itertools
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jaxdiff.cli import exit_code, parse_or_explain
from jaxdiff.data.captions import emoji_caption, loosened
from jaxdiff.data.icons import PERMISSIVE
from jaxdiff.data.sources import captions_at
from jaxdiff.data.text import write_lines
from jaxdiff.data.tfds_source import data_folder
from jaxdiff.data.wordnet import read_wordnet, synsets
from jaxdiff.errors import UserError

# Numbers of lexicographers' files (lexnames(5WN)): animal, artifact, body, event, feeling, food,
# object, person, phenomenon, plant, shape, substance.
_DRAWN = frozenset({"05", "06", "08", "11", "12", "13", "17", "18", "19", "20", "25", "27"})
_WORDS = 10  # of what is said of a thing


@dataclass(frozen=True)
class Arguments:
    """Write words and what they mean, a line each."""

    out: Annotated[Path, tyro.conf.Positional]
    """The text file."""
    captions: tuple[str, ...] = ()
    """Corpora whose captions follow, as SOURCE@SPLIT."""
    times: int = 3
    """How often every caption stands there, since there are far more words."""
    glosses: bool = False
    """A third line for every name, with what WordNet says of it."""
    resolution: int = 64
    """Of the corpora's pictures, which are not read."""


def names(data: str) -> Iterator[tuple[str, str]]:
    """(name, gloss) of the things in a WordNet data file (wndb(5WN)).

    Proper names and Latin ones are left out: what begins with a capital letter or "genus".
    """
    for synset in synsets(data, _DRAWN):
        gloss = synset.gloss.split(";")[0].strip()
        gloss = re.sub(r"^(\([^)]*\) *)?((a|an|the|any) )?", "", gloss)
        for name in synset.names:
            if name == name.lower() and not name.startswith("genus "):
                yield name, " ".join(gloss.split()[:_WORDS])


def lines(found: Iterable[tuple[str, str]], glosses: bool) -> list[str]:
    """Every name alone, in a style, and with its gloss if asked for; each line once."""
    styles, written = itertools.cycle(PERMISSIVE), {}
    for name, gloss in found:
        if name not in written:
            written |= {name: None, emoji_caption(name, next(styles)): None}
        if glosses:
            written[f"{name}, {gloss}"] = None
    return list(written)


def run(args: Arguments) -> None:
    """Write the file."""
    if args.times < 1:
        raise UserError(f"--times must be at least 1, not {args.times}")
    captions = [c for name in args.captions for c in captions_at(name, args.resolution)]
    data = read_wordnet(data_folder() / "downloads" / "npm")
    forms = [form for caption in captions for form in sorted(loosened(caption))]
    texts = lines(names(data), args.glosses) + captions * args.times + list(dict.fromkeys(forms))
    write_lines(args.out, texts)
    print(f"wrote {args.out}: {len(texts)} lines, {len(captions)} captions {args.times} times")


def main(words: list[str]) -> int:
    """Run the command line; 0 on success, 2 on bad input."""
    return exit_code(
        lambda: run(
            parse_or_explain(
                lambda: tyro.cli(Arguments, prog="python -m jaxdiff.data.words", args=words)
            )
        )
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
