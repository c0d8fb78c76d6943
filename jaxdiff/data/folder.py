"""A folder of pictures with captions, from `metadata.jsonl` or from a .txt file beside each.

`metadata.jsonl` has one JSON object in a line: {"file_name": "a/cat.png", "text": "a cat"}, with
"caption" as another word for "text", and, for networks that are steered by a second picture,
"conditioning": "edges/cat.png". Without it, `a/cat.png` takes its caption from `a/cat.txt`.

Axis legend: N pictures, H height, W width.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8
from PIL import __version__ as pillow_version

from jaxdiff.data.buckets import bucket_sizes, fit, nearest_bucket, size_conditioning
from jaxdiff.data.config import DataConfig
from jaxdiff.data.corpus import Example, skip
from jaxdiff.data.images import CorruptImage, decode_image, picture_size
from jaxdiff.errors import UserError, choose

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
METADATA = "metadata.jsonl"
ASPECT_TOLERANCE = 0.02  # of a conditioning picture, against its picture's


class _Entry(NamedTuple):
    name: str
    caption: str | None
    conditioning: str | None = None


class FolderSource:
    """The pictures of a folder and its subfolders that have a caption, in a fixed order.

    Each is cropped about its centre and resized to a square of the resolution or, in `shapes`
    (int [N, 2], height and width), to the nearest of the sizes of `data.bucket_step`; transparency
    becomes white. The order is that of `metadata.jsonl`, or else of the sorted names.

    Args:
      folder: where the pictures lie.
      config: resolution, sizes, caption, conditioning, `split` and `strict` count here.

    Raises:
      UserError: the folder is missing or has no captioned picture, `metadata.jsonl` is damaged, or
        (if strict) a picture lacks its caption or its file.
    """

    def __init__(self, folder: Path, config: DataConfig):
        choose("split of a folder", config.split, ("train",))
        if not folder.is_dir():
            raise UserError(f"the data folder {folder} is not there, or is no folder")
        self._folder, self._resolution = folder, config.resolution
        self.skipped: list[str] = []
        self._entries = [
            entry._replace(caption=entry.caption if entry.caption is not None else config.caption)
            for entry in _read(folder, config)
            if self._usable(entry, config)
        ]
        if not self._entries:
            raise UserError(_nothing(folder, len(self.skipped)))
        self._conditioned = config.conditioning
        self.shapes = self._choose_shapes(config) if config.bucket_step else None

    def _usable(self, entry: _Entry, config: DataConfig) -> bool:
        """Whether all that an example needs is there; if not, that is noted."""
        metadata, reason = self._folder / METADATA, None
        wanted = (entry.name, entry.conditioning) if config.conditioning else (entry.name,)
        absent = [name for name in wanted if name and not (self._folder / name).is_file()]
        if absent:
            reason = f"{metadata} names {absent[0]}, which is not there"
        elif entry.caption is None and not config.caption:
            reason = f"picture {self._folder / entry.name} has no caption"
        elif config.conditioning and not entry.conditioning:
            reason = f"{metadata} names no conditioning picture for {entry.name}"
        if reason:
            skip(reason, self.skipped, config.strict)
        return reason is None

    def _choose_shapes(self, config: DataConfig) -> Int[np.ndarray, "N 2"]:
        """The size of each picture, by its file's header; where that is damaged, the commonest.

        A picture that can not be read is replaced by one of its shape, which there must be.
        """
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = list(pool.map(picture_size, [self._folder / e.name for e in self._entries]))
        sizes = bucket_sizes(config.resolution, config.bucket_step, config.max_aspect)
        shapes = nearest_bucket(np.array([size or (1, 1) for size in found]), sizes)
        readable = np.array([size is not None for size in found])
        if readable.any():
            kinds, counts = np.unique(shapes[readable], axis=0, return_counts=True)
            shapes[~readable] = kinds[counts.argmax()]
        return shapes

    def __len__(self) -> int:
        """Number of captioned pictures."""
        return len(self._entries)

    def __getitem__(self, index: int) -> Example:
        """The example, its pictures decoded; `CorruptImage` if that can not be done."""
        entry = self._entries[index]
        example = {"image": self._decode(entry.name, index), **self.row(index)}
        if self._conditioned:
            example["conditioning"] = self.conditioning(index)
            self._require_same_aspect(entry)
        return example

    def conditioning(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """The example's conditioning picture, decoded; `CorruptImage` if that can not be done."""
        return self._decode(self._entries[index].conditioning, index)

    def _decode(self, name: str, index: int) -> UInt8[np.ndarray, "H W 3"]:
        height, width = self._shape(index)
        picture = decode_image(self._folder / name, at_least=2 * max(height, width))
        return fit(picture, height, width)

    def _require_same_aspect(self, entry: _Entry) -> None:
        paths = [self._folder / name for name in (entry.name, entry.conditioning)]
        (high, wide), (h, w) = (picture_size(path) for path in paths)
        if abs(high / wide * w / h - 1) > ASPECT_TOLERANCE:
            raise CorruptImage(
                f"the conditioning picture {paths[1]} is {w} x {h} pixels, of another shape than "
                f"{paths[0]} with {wide} x {high}"
            )

    def _shape(self, index: int) -> tuple[int, int]:
        if self.shapes is None:
            return self._resolution, self._resolution
        return tuple(self.shapes[index].tolist())

    def row(self, index: int) -> Example:
        """The example without its pictures, which are not decoded."""
        entry = self._entries[index]
        row: Example = {"caption": entry.caption, "id": entry.name}
        original = picture_size(self._folder / entry.name)
        if original is not None:
            row["size"] = size_conditioning(original, self._shape(index))
        return row

    def fingerprint(self) -> str:
        """Hash of the files' bytes, in order, and of how they are decoded."""
        digest = hashlib.sha256(f"pillow {pillow_version}".encode())

        def hashed(index: int) -> bytes:
            data = (self._folder / self._entries[index].name).read_bytes()
            return hashlib.sha256(data).digest() + repr(self._shape(index)).encode()

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for part in pool.map(hashed, range(len(self))):
                digest.update(part)
        return digest.hexdigest()


def _nothing(folder: Path, skipped: int) -> str:
    if skipped:
        return (
            f"none of the {skipped} pictures in {folder} can be used: each lacks a caption or file"
        )
    return f"the data folder {folder} holds no pictures ({', '.join(SUFFIXES)})"


def _read(folder: Path, config: DataConfig) -> Iterator[_Entry]:
    metadata = folder / METADATA
    if metadata.exists():
        return _read_metadata(metadata)
    if config.conditioning:
        raise UserError(
            f"{metadata} is missing; with data.conditioning it names every picture and, under "
            '"conditioning", its conditioning picture'
        )
    return _read_sidecars(folder)


def _read_metadata(path: Path) -> Iterator[_Entry]:
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
        caption, conditioning = row.get("text", row.get("caption")), row.get("conditioning")
        yield _Entry(
            str(name),
            None if caption is None else str(caption).strip(),
            None if conditioning is None else str(conditioning),
        )


def _read_sidecars(folder: Path) -> Iterator[_Entry]:
    """Every picture under the folder, with the text beside it."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            text = path.with_suffix(".txt")
            caption = _read_text(text).strip() if text.is_file() else None
            yield _Entry(path.relative_to(folder).as_posix(), caption)


def _read_text(path: Path) -> str:
    """A UTF-8 file's text, without a byte order mark."""
    try:
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise UserError(f"{path} cannot be read: {reason}") from error
