"""Other names of what captions speak of: WordNet's synonyms, and names of kinds of the thing.

    python -m jaxdiff.data.other_names synonyms.txt --captions emoji/permissive@train

A corpus calls each thing by one name. Where the training data gives a file of others
(`data.synonyms`), a share of the captions says one of them instead ("tabby, noto style" for "cat,
noto style"), so that a text encoder that learns from the captions knows them as well.

A name stands for the subject of a caption (what comes before its first comma) if both are of one
synset, if its synset is below the subject's (twice at the most, and not below a subject that is
over more than a number of names), or if it is said to be a young one ("young domestic cat"). That
must be the first sense in which it can be drawn, or, for a synonym, the second.
"""

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jaxdiff.cli import exit_code, parse_or_explain
from jaxdiff.data.captions import subject_of
from jaxdiff.data.sources import captions_at
from jaxdiff.data.synonyms import Synonym
from jaxdiff.data.text import write_lines
from jaxdiff.data.tfds_source import data_folder
from jaxdiff.data.wordnet import WORDNET, Synset, read_wordnet, synsets
from jaxdiff.errors import UserError

# Numbers of lexicographers' files (lexnames(5WN)): animal, artifact, food, object, plant. None for
# people and their bodies: what WordNet calls them is in part abuse.
_DRAWN = frozenset({"05", "06", "13", "17", "20"})
_YOUNG = re.compile(r"(?:an? )?young (\w+)(?: (\w+))?")
_DEPTH = 2  # levels below a subject
_SENSES = 2  # in one of the most frequent of which a synonym must be the subject


@dataclass(frozen=True)
class Arguments:
    """Write other names of what a corpus' captions speak of, a line each."""

    out: Annotated[Path, tyro.conf.Positional]
    """The text file, of lines SYNONYM = SUBJECT."""
    captions: tuple[str, ...] = ("emoji/permissive@train",)
    """Corpora whose captions they are, as SOURCE@SPLIT."""
    most: int = 120
    """A subject over more names than that ("construction") gets none of what is below it."""
    resolution: int = 64
    """Of the corpora's pictures, which are not read."""

    def __post_init__(self) -> None:
        """Refuse a number of names that is none."""
        if self.most < 0:
            raise UserError(f"--most must be at least 0, not {self.most}")


def senses_of(index: str, known: dict[str, Synset]) -> dict[str, list[str]]:
    """Name -> places of those of its senses that are known, the most frequent first."""
    found = {}
    for line in index.splitlines():
        if not line.startswith("  "):
            fields = line.split()
            places = [place for place in fields[-int(fields[2]) :] if place in known]
            if places:
                found[fields[0].replace("_", " ")] = places
    return found


def other_names(data: str, index: str, subjects: Iterable[str], most: int) -> list[Synonym]:
    """Other names of the subjects, each for one: that of its synset, or the nearest above.

    Args:
      data: WordNet's `data.noun`.
      index: WordNet's `index.noun`.
      subjects: what captions speak of.
      most: a subject over more names gets none of what is below it.
    """
    known = {synset.place: synset for synset in synsets(data, _DRAWN)}
    senses, subjects = senses_of(index, known), set(subjects)
    near: dict[str, tuple[int, str]] = {}  # a name -> (steps up, subject)

    def offer(place: str, steps: int, subject: str) -> None:
        for name in known[place].names:
            # Names with capitals have no senses: the index is in small letters.
            if place in senses.get(name, [])[: 1 if steps else _SENSES]:
                near[name] = min(near.get(name, (steps, subject)), (steps, subject))

    for subject in sorted(subjects):
        if subject in senses:
            levels = _levels(senses[subject][0], known)
            under = {place for level in levels[1:] for place in level}
            too_many = sum(len(known[place].names) for place in under) > most
            for steps, level in enumerate(levels[:1] if too_many else levels):
                for place in level:
                    offer(place, steps, subject)
    for place, synset in known.items():
        young = _YOUNG.match(synset.gloss)
        grown = next((word for word in young.groups() if word in subjects), None) if young else None
        if grown:
            offer(place, 1, grown)
    return [Synonym(word, near[word][1]) for word in sorted(near) if word not in subjects]


def _levels(place: str, known: dict[str, Synset]) -> list[list[str]]:
    """The synset and, level by level, those below it."""
    levels = [[place]]
    for _ in range(_DEPTH):
        levels.append([low for high in levels[-1] for low in known[high].below if low in known])
    return levels


def run(args: Arguments) -> None:
    """Write the file."""
    captions = [c for name in args.captions for c in captions_at(name, args.resolution)]
    folder = data_folder() / "downloads" / "npm"
    data, index = (read_wordnet(folder, part) for part in ("data", "index"))
    found = other_names(data, index, map(subject_of, captions), args.most)
    head = f"# WordNet ({WORDNET.name} {WORDNET.version}): SYNONYM = SUBJECT"
    write_lines(args.out, [head, *(f"{word} = {subject}" for word, subject in found)])
    things = len({subject for _, subject in found})
    print(f"wrote {args.out}: {len(found)} other names of {things} subjects")


def main(words: list[str]) -> int:
    """Run the command line; 0 on success, 2 on bad input."""
    prog = "python -m jaxdiff.data.other_names"
    return exit_code(
        lambda: run(parse_or_explain(lambda: tyro.cli(Arguments, prog=prog, args=words)))
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
