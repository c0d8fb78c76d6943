"""What a corpus is: random access to captioned pictures.

An example is {"image": uint8 [H, W, 3], "caption": str, "id": str} and whatever else the corpus
knows of it: "conditioning" (uint8 [H, W, 3]), "size" (int32 [6], see `buckets.size_conditioning`),
"subject", "style", "licence", "author".

Axis legend: H height, W width.
"""

import hashlib
import logging
from typing import Any, Protocol, runtime_checkable

from jaxdiff.data.captions import loosened
from jaxdiff.data.config import DataConfig
from jaxdiff.data.synonyms import read_names, renamed
from jaxdiff.errors import UserError

log = logging.getLogger(__name__)

Example = dict[str, Any]


@runtime_checkable
class Source(Protocol):
    """Random access to captioned pictures: all that the pipeline needs.

    Where pictures are of several sizes, a source has `shapes`, int [N, 2] (height and width).
    """

    def __len__(self) -> int:
        """Number of examples."""

    def __getitem__(self, index: int) -> Example:
        """The example; raises `CorruptImage` if its picture can not be decoded."""


@runtime_checkable
class Corpus(Source, Protocol):
    """A source that knows its captions and which pictures were left out, and why.

    One that can say cheaply which pictures it has does so by `fingerprint() -> str`; one with
    conditioning pictures gives one alone by `conditioning(index)`.
    """

    skipped: list[str]

    def row(self, index: int) -> Example:
        """The example without its pictures, which are not decoded."""


def captions_of(source: Source, limit: int | None = None) -> list[str]:
    """The captions of the first `limit` examples (all of them by default)."""
    count = len(source) if limit is None else min(limit, len(source))
    read = source.row if isinstance(source, Corpus) else source.__getitem__
    return [read(index)["caption"] for index in range(count)]


def caption_forms(*sources: Source, config: DataConfig) -> list[str]:
    """Every text that a batch may hold, sorted: the captions, none at all, and their other forms.

    Args:
      *sources: whose captions.
      config: how captions are changed.
    """
    captions = {"", *(caption for source in sources for caption in captions_of(source))}
    names = read_names(config)
    captions |= {form for caption in captions for form in renamed(caption, names)}
    loosen = config.loosen_captions > 0
    loose = {form for caption in captions for form in loosened(caption)} if loosen else set()
    return sorted(captions | loose)


def glimpse(source: Source) -> dict[str, Any]:
    """How many examples there are, and a hash of three of them: enough to tell sources apart."""
    digest, count = hashlib.sha256(), len(source)
    for index in (0, count // 2, count - 1):
        example = source[index]
        digest.update(example["caption"].encode())
        if "image" in example:
            digest.update(example["image"].tobytes())
    return {"number of examples": count, "hash of three examples": digest.hexdigest()[:12]}


def skip(reason: str, skipped: list[str], strict: bool) -> None:
    """Note and log why a picture is left out; with `strict`, raise it as a `UserError`."""
    if strict:
        raise UserError(reason)
    skipped.append(reason)
    log.warning("skipped: %s", reason)
