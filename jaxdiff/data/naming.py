"""One vocabulary for the icon sets: every drawing's subject in plain words.

Four sets use Unicode's (CLDR) names, with older ones as aliases; `emojione` mixes older names in
and writes "flag-for-x"; `fxemoji` runs its words together ("blackleftpointingarrow"). A subject
that two artists draw must have one name, or nothing can be learned from one about the other.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources


class Vocabulary:
    """Maps a set's own name for a drawing to the name that the sets share.

    Args:
      names: the shared names, words joined by dashes ("cat-face").
      aliases: other well-formed names -> a name or another alias.
    """

    def __init__(self, names: Iterable[str], aliases: Mapping[str, str]):
        self._names = frozenset(names)
        self._aliases = dict(aliases)
        self._squeezed: dict[str, str] = {}
        self._unordered: dict[tuple[str, ...], str] = {}
        for name in [*sorted(self._names), *sorted(self._aliases)]:
            if known := self._known(name):
                self._squeezed.setdefault(name.replace("-", ""), known)
                self._unordered.setdefault(tuple(sorted(name.split("-"))), known)

    def subject(self, name: str, style: str) -> str:
        """The subject in words: `subject("grinningcat", "fxemoji")` is "grinning cat"."""
        if style == "fxemoji":
            name = self._unsqueeze(name)
        elif name.startswith("flag-for-"):
            plain = name.removeprefix("flag-for-").removeprefix("flag-")
            name = self._known(name) or self._known(f"flag-{plain}") or f"flag-{plain}"
        return (self._known(name) or name).replace("-", " ")

    def _known(self, name: str) -> str | None:
        """`name`, or what its aliases lead to, if that is a shared name."""
        for _ in range(3):
            if name in self._names:
                return name
            name = self._aliases.get(name, "")
        return None

    def _unsqueeze(self, name: str) -> str:
        """The shared name that is meant, else `name` itself."""
        if name in fxemoji_names():
            return fxemoji_names()[name].replace(" ", "-")
        for form in _variants(name.replace("-", "")):
            if form in self._squeezed:
                return self._squeezed[form]
        for colour in ("blue", "green", "purple", "yellow"):  # "heartblue"
            if name.endswith(colour):
                words = tuple(sorted((colour, name.removesuffix(colour))))
                return self._unordered.get(words, name)
        return name


def _variants(squeezed: str) -> Iterator[str]:
    """Spellings to look up, nearest first: as it is, as a face, without "symbol" or a colour."""
    yield squeezed
    yield f"{squeezed}face"
    yield f"facewith{squeezed}"
    for suffix in ("symbol", "sign", "icon"):
        if squeezed.endswith(suffix):
            yield squeezed.removesuffix(suffix)
    for colour in ("black", "white"):  # Unicode's word for filled and outlined, not a colour
        if squeezed.startswith(colour):
            yield squeezed.removeprefix(colour)
    yield f"{squeezed}symbol"
    yield f"{squeezed}button"
    if squeezed.endswith("flag"):
        yield f"flag{squeezed.removesuffix('flag')}"


@functools.cache
def fxemoji_names() -> dict[str, str]:
    """Names of fxemoji written out by hand: own name -> subject."""
    text = resources.files("jaxdiff.data").joinpath("fxemoji_names.txt").read_text("utf-8")
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return dict(line.split(": ", 1) for line in lines)
