"""Where pictures come from: any corpus as random access to examples.

An example is {"image": uint8 [R, R, 3], "caption": str, "id": str} and whatever else the corpus
knows of it ("subject", "style", "licence", "author").
"""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import UInt8

from jaxdiff.errors import UserError, choose

Example = dict[str, Any]


class Source(Protocol):
    """Random access to captioned pictures of one resolution."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What to train on and how to serve it."""

    source: str = "emoji/permissive"
    """emoji/STYLE, folder:PATH (pictures with captions) or tfds:NAME (a prepared TFDS data set)."""
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
        for field, least in (
            ("resolution", 1),
            ("batch_size", 1),
            ("memory_mb", 0),
            ("num_threads", 0),
            ("prefetch", 1),
            ("seed", 0),
        ):
            if getattr(self, field) < least:
                raise UserError(
                    f"data.{field} must be at least {least}, not {getattr(self, field)}"
                )
        for field in ("caption_dropout", "loosen_captions"):
            if not 0 <= getattr(self, field) <= 1:
                raise UserError(f"data.{field} must be in [0, 1], not {getattr(self, field)}")


def data_folder(data_dir: str = "") -> Path:
    """The folder of TFDS data sets: `data_dir`, else $JAXDIFF_DATA_DIR, else a cache folder."""
    chosen = data_dir or os.environ.get("JAXDIFF_DATA_DIR") or "~/.cache/jaxdiff/tfds"
    return Path(chosen).expanduser()


def make_source(config: DataConfig) -> Source:
    """Open the corpus that `config` names, preparing it first if it is `emoji`.

    Raises:
      UserError: the source is of no known kind, or can not be opened.
    """
    kind, _, name = config.source.replace("emoji/", "emoji:", 1).partition(":")
    openers = {"emoji": _open_emoji, "folder": _open_folder, "tfds": _open_tfds}
    choose("data source", kind, openers)
    source = openers[kind](name, config)
    if len(source) == 0:
        raise UserError(f"data source {config.source!r} has no examples in split {config.split!r}")
    needed = len(source) * config.resolution**2 * 3
    return MemorySource(source) if needed <= config.memory_mb * 2**20 else source


class MemorySource:
    """The decoded pictures of another source, held in one uint8 array [N, R, R, 3]."""

    def __init__(self, source: Iterable[Example]):
        pictures: list[UInt8[np.ndarray, "R R 3"]] = []
        self.rows: list[Example] = []
        for index in range(len(source)):
            example = source[index]
            pictures.append(example.pop("image"))
            self.rows.append(example)
        self.images = np.stack(pictures)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        return {"image": self.images[index], **self.rows[index]}


def captions_of(source: Source, limit: int | None = None) -> list[str]:
    """The captions of the first `limit` examples (all of them by default)."""
    if isinstance(source, MemorySource):
        return [row["caption"] for row in source.rows[:limit]]
    count = len(source) if limit is None else min(limit, len(source))
    return [source[index]["caption"] for index in range(count)]


def _open_emoji(name: str, config: DataConfig) -> Source:
    try:
        from jaxdiff.data.emoji import emoji_builder
        from jaxdiff.data.tfds_source import TfdsSource, prepare
    except ImportError as error:
        raise UserError(
            f"the emoji data need {error.name}: pip install 'jaxdiff[emoji]'"
        ) from error
    folder = data_folder(config.data_dir)
    builder = emoji_builder(name or "permissive", config.resolution, folder)
    prepare(builder)
    return TfdsSource(builder, config)


def _open_folder(name: str, config: DataConfig) -> Source:
    from jaxdiff.data.folder import FolderSource

    return FolderSource(Path(name).expanduser(), config)


def _open_tfds(name: str, config: DataConfig) -> Sequence[Example]:
    from jaxdiff.data.tfds_source import TfdsSource, find_builder

    return TfdsSource(find_builder(name, data_folder(config.data_dir)), config)
