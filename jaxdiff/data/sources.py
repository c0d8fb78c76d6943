"""Where pictures come from: any corpus as random access to examples.

An example is {"image": uint8 [R, R, 3], "caption": str, "id": str} and whatever else the corpus
knows of it ("subject", "style", "licence", "author").

Axis legend: N examples, R resolution.
"""

import dataclasses
import logging
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxdiff.data.images import CorruptImage
from jaxdiff.errors import UserError, choose

log = logging.getLogger(__name__)

Example = dict[str, Any]


@runtime_checkable
class Source(Protocol):
    """Random access to captioned pictures of one resolution: all that the pipeline needs."""

    def __len__(self) -> int:
        """Number of examples."""

    def __getitem__(self, index: int) -> Example:
        """The example; raises `CorruptImage` if its picture can not be decoded."""


@runtime_checkable
class Corpus(Source, Protocol):
    """A source that knows its captions and which pictures were left out, and why."""

    skipped: list[str]

    def caption(self, index: int) -> str:
        """The caption alone, without decoding the picture."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What to train on and how to serve it."""

    source: str = "emoji/permissive"
    """emoji/STYLE, folder:PATH (pictures with captions), tfds:NAME (a prepared TFDS data set), or
    shapes (coloured shapes drawn on the spot)."""
    split: str = "train"
    """Which split; emoji has train and heldout, a folder only train."""
    resolution: int = 64
    """Side of the square pictures, in pixels."""
    batch_size: int = 64
    """Examples in a batch, over all processes."""
    flip: bool = True
    """Mirror half of the pictures whose caption allows it."""
    caption_dropout: float = 0.1
    """Share of examples whose caption becomes empty, for classifier-free guidance."""
    loosen_captions: float = 0.0
    """Share of examples whose caption is put as people type it: with an article, or no style."""
    seed: int = 0
    """Decides the order, the flips and the dropped captions."""
    strict: bool = False
    """Stop at a corrupt picture instead of naming and skipping it."""
    label_template: str = "a photo of {name}"
    """Caption of a data set that has class labels and no captions; {name} is the class."""
    caption_field: str = ""
    """Feature that holds the captions of a TFDS data set; empty: caption, text or the label."""
    memory_mb: int = 2048
    """Hold the decoded pictures in memory if they fit in so many megabytes; 0: never."""
    num_threads: int = 0
    """Threads that prepare batches ahead; 0: in the training thread, best for data in memory."""
    prefetch: int = 2
    """Batches prepared ahead where num_threads is above 0."""
    data_dir: str = ""
    """Where TFDS data sets lie; empty: $JAXDIFF_DATA_DIR or ~/.cache/jaxdiff/tfds."""

    def __post_init__(self):
        least = {"resolution": 1, "batch_size": 1, "prefetch": 1}
        least |= {"memory_mb": 0, "num_threads": 0, "seed": 0}
        for field, bound in least.items():
            if (value := getattr(self, field)) < bound:
                raise UserError(f"data.{field} must be at least {bound}, not {value}")
        if self.seed >= 2**32:
            raise UserError(f"data.seed must be below 2^32, not {self.seed}")
        for field in ("caption_dropout", "loosen_captions"):
            if not 0 <= getattr(self, field) <= 1:
                raise UserError(f"data.{field} must be in [0, 1], not {getattr(self, field)}")
        if "{name}" not in self.label_template:
            raise UserError(f"data.label_template must hold {{name}}: {self.label_template!r}")


def make_source(config: DataConfig) -> "MemorySource | LazySource":
    """Open the corpus that `config` names; `emoji` is built first where it is missing.

    Raises:
      UserError: the source is of no known kind, can not be opened, or is empty.
    """
    kind, _, name = re.sub("^emoji/", "emoji:", config.source).partition(":")
    openers = {
        "emoji": _open_emoji,
        "folder": _open_folder,
        "shapes": _open_shapes,
        "tfds": _open_tfds,
    }
    choose("data source", kind, openers)
    if not name and kind != "shapes":
        raise UserError(f"data source {config.source!r} names nothing; expected emoji/STYLE,"
                        " folder:PATH or tfds:NAME")  # fmt: skip
    source = openers[kind](name, config)
    if len(source) == 0:
        raise UserError(f"data source {config.source!r} has no examples in split {config.split!r}")
    megabytes = len(source) * config.resolution**2 * 3 / 2**20
    if megabytes <= config.memory_mb:
        return MemorySource(source, config.resolution, strict=config.strict)
    return LazySource(source, strict=config.strict)


def skip(reason: str, skipped: list[str], strict: bool) -> None:
    """Note and log why a picture is left out; with `strict`, raise it as a `UserError`."""
    if strict:
        raise UserError(reason)
    skipped.append(reason)
    log.warning("skipped: %s", reason)


class MemorySource:
    """Another source decoded at once into `images`, uint8 [N, R, R, 3]; corrupt ones left out."""

    def __init__(self, source: Corpus, resolution: int, *, strict: bool = False):
        self.skipped = list(source.skipped)
        self.rows: list[Example] = []
        self.images = np.empty((len(source), resolution, resolution, 3), np.uint8)

        def load(index: int) -> Example | CorruptImage:
            try:
                return source[index]
            except CorruptImage as error:
                return error

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for example in pool.map(load, range(len(source))):
                if isinstance(example, CorruptImage):
                    skip(str(example), self.skipped, strict)
                else:
                    self.images[len(self.rows)] = example.pop("image")
                    self.rows.append(example)
        if not self.rows:
            raise UserError(f"no picture can be read; the first: {self.skipped[0]}")
        if self.skipped:
            total = len(self.rows) + len(self.skipped)
            log.warning("skipped %d of %d pictures", len(self.skipped), total)
        self.images = self.images[: len(self.rows)]

    def __len__(self) -> int:
        """Number of readable examples N."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        """The example; its image is a view of `images`."""
        return {"image": self.images[index], **self.rows[index]}

    def caption(self, index: int) -> str:
        """The caption alone."""
        return self.rows[index]["caption"]


class LazySource:
    """Another source decoded as needed; in the place of a corrupt picture comes the next readable.

    What stands at an index thus depends on the files alone, and a run stays repeatable. If strict,
    every picture is decoded once at opening.
    """

    def __init__(self, source: Corpus, *, strict: bool = False):
        self._source, self._strict = source, strict
        self._corrupt: set[int] = set()
        self.skipped = list(source.skipped)
        if strict:
            self._verify()

    def _verify(self) -> None:
        """Decode every picture once, so that a corrupt one stops a run before it begins."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            reasons = [reason for reason in pool.map(self._fault, range(len(self))) if reason]
        if reasons:
            raise UserError(
                f"{len(reasons)} of {len(self)} pictures can not be read; the first: {reasons[0]}"
            )

    def _fault(self, index: int) -> str | None:
        try:
            self._source[index]
        except CorruptImage as error:
            return str(error)
        return None

    def __len__(self) -> int:
        """Number of examples, corrupt ones included."""
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        """The example at `index`, or the next readable one after it."""
        for step in range(len(self)):
            at = (index + step) % len(self)
            if at in self._corrupt:
                continue
            try:
                return self._source[at]
            except CorruptImage as error:
                self._corrupt.add(at)
                count = f"{len(self._corrupt)} of {len(self)} pictures so far"
                skip(f"{error} ({count})", self.skipped, self._strict)
        raise UserError(f"no picture can be read; the last: {self.skipped[-1]}")

    def caption(self, index: int) -> str:
        """The caption alone; the picture is not read, so a corrupt one still has its caption."""
        return self._source.caption(index)


def captions_of(source: Source, limit: int | None = None) -> list[str]:
    """The captions of the first `limit` examples (all of them by default)."""
    count = len(source) if limit is None else min(limit, len(source))
    if isinstance(source, Corpus):
        return [source.caption(index) for index in range(count)]
    return [source[index]["caption"] for index in range(count)]


def _open_emoji(name: str, config: DataConfig) -> Corpus:
    from jaxdiff.data.tfds_source import TfdsSource, prepared_emoji

    return TfdsSource(prepared_emoji(name, config.resolution, config.data_dir), config)


def _open_folder(name: str, config: DataConfig) -> Corpus:
    from jaxdiff.data.folder import FolderSource

    return FolderSource(Path(name).expanduser(), config)


def _open_shapes(name: str, config: DataConfig) -> Corpus:
    from jaxdiff.data.shapes import ShapesSource

    return ShapesSource(config.split, config.resolution)


def _open_tfds(name: str, config: DataConfig) -> Corpus:
    from jaxdiff.data.tfds_source import TfdsSource, find_builder

    return TfdsSource(find_builder(name, config.data_dir), config)
