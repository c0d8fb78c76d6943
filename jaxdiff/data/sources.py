"""Where pictures come from: a name such as `emoji/noto` or `folder:PATH`, opened for training.

Axis legend: N examples, R resolution.
"""

import re
from pathlib import Path

from jaxdiff.data.config import DataConfig
from jaxdiff.data.corpus import Corpus, Example, Source, caption_forms, captions_of, glimpse, skip
from jaxdiff.data.readers import LazySource, MemorySource
from jaxdiff.errors import UserError, choose

__all__ = [
    "Corpus",
    "DataConfig",
    "Example",
    "LazySource",
    "MemorySource",
    "Source",
    "caption_forms",
    "captions_at",
    "captions_of",
    "glimpse",
    "make_source",
    "skip",
]


def make_source(config: DataConfig) -> Source:
    """Open the corpus that `config` names; `emoji` is built first where it is missing.

    Raises:
      UserError: the source is of no known kind, can not be opened, or is empty.
    """
    kind, _, name = re.sub("^emoji/", "emoji:", config.source).partition(":")
    openers = {
        "emoji": _open_emoji,
        "folder": _open_folder,
        "shapes": _open_shapes,
        "text": _open_text,
        "tfds": _open_tfds,
    }
    choose("data source", kind, openers)
    if not name and kind != "shapes":
        raise UserError(f"data source {config.source!r} names nothing; expected emoji/STYLE,"
                        " folder:PATH, tfds:NAME or text:FILE")  # fmt: skip
    source = openers[kind](name, config)
    if len(source) == 0:
        raise UserError(f"data source {config.source!r} has no examples in split {config.split!r}")
    if kind == "text":
        return source
    pictures = len(source) * (2 if config.conditioning else 1)
    megabytes = pictures * config.resolution**2 * 3 / 2**20
    if megabytes <= config.memory_mb:
        return MemorySource(source, config.resolution, strict=config.strict)
    return LazySource(source, strict=config.strict)


def captions_at(name: str, resolution: int) -> list[str]:
    """The captions of SOURCE@SPLIT, such as emoji/permissive@train, whose pictures are not read.

    Raises:
      UserError: the name has another form, or `make_source` refuses it.
    """
    source, at, split = name.rpartition("@")
    if not at:
        raise UserError(f"--captions {name!r} should be SOURCE@SPLIT")
    return captions_of(make_source(DataConfig(source=source, split=split, resolution=resolution)))


def _open_emoji(name: str, config: DataConfig) -> Corpus:
    from jaxdiff.data.tfds_source import TfdsSource, prepared_emoji

    return TfdsSource(prepared_emoji(name, config.resolution, config.data_dir), config)


def _open_folder(name: str, config: DataConfig) -> Corpus:
    from jaxdiff.data.folder import FolderSource

    return FolderSource(Path(name).expanduser(), config)


def _open_shapes(name: str, config: DataConfig) -> Corpus:
    from jaxdiff.data.shapes import ShapesSource

    return ShapesSource(config.split, config.resolution)


def _open_text(name: str, config: DataConfig) -> Corpus:
    from jaxdiff.data.text import TextSource

    return TextSource(Path(name).expanduser())


def _open_tfds(name: str, config: DataConfig) -> Corpus:
    from jaxdiff.data.tfds_source import TfdsSource, find_builder

    return TfdsSource(find_builder(name, config.data_dir), config)
