"""A folder of pictures with captions, from `metadata.jsonl` or from a .txt file beside each.

`metadata.jsonl` has one JSON object in a line: {"file_name": "a/cat.png", "text": "a cat"}, with
"caption" as another word for "text". Without it, `a/cat.png` takes its caption from `a/cat.txt`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from jaxdiff.data.images import decode_image, square
from jaxdiff.data.sources import DataConfig, Example, skip
from jaxdiff.errors import UserError, choose

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
METADATA = "metadata.jsonl"


class _Entry(NamedTuple):
    name: str
    caption: str


class FolderSource:
    """The pictures of a folder and its subfolders that have a caption, in a fixed order.

    Each is cropped to its central square and resized to [R, R, 3] uint8; transparency becomes
    white. The order is that of `metadata.jsonl`, or else of the sorted names.

    Args:
      folder: where the pictures lie.
      config: `resolution`, `split` and `strict` count here.

    Raises:
      UserError: the folder is missing or has no captioned picture, `metadata.jsonl` is damaged, or
        (if strict) a picture lacks its caption or its file.
    """

    def __init__(self, folder: Path, config: DataConfig):
        choose("split of a folder", config.split, ("train",))
        if not folder.is_dir():
            raise UserError(f"the data folder {folder} is not there, or is no folder")
        self._folder, self._resolution = folder, config.resolution
        self._entries: list[_Entry] = []
        self.skipped: list[str] = []
        metadata = folder / METADATA
        read = _read_metadata(metadata) if metadata.exists() else _read_sidecars(folder)
        for name, caption in read:
            if not (folder / name).is_file():
                skip(f"{metadata} names {name}, which is not there", self.skipped, config.strict)
            elif caption is None:
                skip(f"picture {folder / name} has no caption", self.skipped, config.strict)
            else:
                self._entries.append(_Entry(name, caption))
        if not self._entries:
            raise UserError(_nothing(folder, len(self.skipped)))

    def __len__(self) -> int:
        """Number of captioned pictures."""
        return len(self._entries)

    def __getitem__(self, index: int) -> Example:
        """The example, its picture decoded; `CorruptImage` if that can not be done."""
        name, caption = self._entries[index]
        picture = decode_image(self._folder / name, at_least=2 * self._resolution)
        return {"image": square(picture, self._resolution), "caption": caption, "id": name}

    def caption(self, index: int) -> str:
        """The caption alone; the picture is not read."""
        return self._entries[index].caption


def _nothing(folder: Path, skipped: int) -> str:
    if skipped:
        return (
            f"none of the {skipped} pictures in {folder} can be used: each lacks a caption or file"
        )
    return f"the data folder {folder} holds no pictures ({', '.join(SUFFIXES)})"


def _read_metadata(path: Path) -> Iterator[tuple[str, str | None]]:
    """(file name, caption or None) of every line."""
    # Not splitlines(): JSON may hold U+2028 and other separators in a string.
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name = row["file_name"]
        except (json.JSONDecodeError, TypeError, KeyError) as error:
            wanted = '{"file_name": ..., "text": ...}'
            raise UserError(f"{path}, line {number}: expected {wanted}, got {line[:60]}") from error
        caption = row.get("text", row.get("caption"))
        yield str(name), None if caption is None else str(caption).strip()


def _read_sidecars(folder: Path) -> Iterator[tuple[str, str | None]]:
    """(file name, caption or None) of every picture under the folder."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            text = path.with_suffix(".txt")
            caption = _read_text(text).strip() if text.is_file() else None
            yield path.relative_to(folder).as_posix(), caption


def _read_text(path: Path) -> str:
    """A UTF-8 file's text, without a byte order mark."""
    try:
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise UserError(f"{path} cannot be read: {reason}") from error
