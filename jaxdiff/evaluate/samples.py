"""Sets of pictures: folders, sample batches in `.npz`, and corpora, streamed batch by batch.

    PATH               a folder of pictures, subfolders included, in the order of their names
    PATH.npz           OpenAI's sample batch: `arr_0`, uint8 [N H W 3]; our own may hold captions,
                       a list in JSON, which numpy's readers pass over
    SOURCE@SPLIT       a corpus as training names it: emoji/permissive@heldout, folder:PATH@train

Axis legend: N pictures, B pictures of a batch, H W pixels, R resolution.
"""

import functools
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from jaxdiff.data.config import DataConfig
from jaxdiff.data.folder import SUFFIXES
from jaxdiff.data.images import decode_image, encode_png, square
from jaxdiff.data.sources import captions_of, make_source
from jaxdiff.errors import UserError
from jaxdiff.evaluate.captions import folder_captions
from jaxdiff.evaluate.files import staged, staged_folder

BATCH = 64
PICTURES, CAPTIONS = "arr_0", "captions.json"
_DAMAGE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)
Batch = UInt8[np.ndarray, "B H W 3"]


@dataclass(frozen=True)
class Samples:
    """A set of pictures that is read as it is needed."""

    name: str
    """What the user called it."""
    count: int
    """N."""
    batches: Callable[[], Iterator[Batch]]
    """All pictures in their order, uint8 [B H W 3]; reads them anew at every call."""
    captions: Callable[[], list[str]]
    """The caption of each; raises `UserError` where there is none."""

    @functools.cached_property
    def size(self) -> tuple[int, int]:
        """Height and width of the first picture, and so of all."""
        height, width = next(self.batches()).shape[1:3]
        return height, width

    def take(self, places: Sequence[int]) -> dict[int, UInt8[np.ndarray, "H W 3"]]:
        """The pictures at some places, by place."""
        wanted, found, start = set(places), {}, 0
        for batch in self.batches():
            for place in wanted.intersection(range(start, start + len(batch))):
                found[place] = batch[place - start].copy()
            start += len(batch)
        return found


def open_samples(where: str | Path, resolution: int | None = None) -> Samples:
    """Open a set of pictures.

    Args:
      where: a folder, an `.npz`, or SOURCE@SPLIT.
      resolution: crop every picture about its centre and resize it to such a square; None leaves
        pictures as they are, and they must be of one size (a corpus is then read at 64).

    Raises:
      UserError: nothing is there, it holds no picture, or it is damaged.
    """
    path = Path(where).expanduser()
    if path.is_dir():
        return _open_folder(path, resolution)
    if path.is_file() and path.suffix == ".npz":
        return _open_npz(path, resolution)
    source, at, split = str(where).rpartition("@")
    if at and not path.exists():
        return _open_corpus(str(where), source, split, resolution or 64)
    raise UserError(
        f"{where} is no folder, no .npz and no SOURCE@SPLIT (such as emoji/permissive@heldout)"
    )


def open_all(names: tuple[str, ...], resolution: int | None) -> list[Samples]:
    """Several sets, as `open_samples`.

    Raises:
      UserError: none is named, or one cannot be opened.
    """
    if not names:
        raise UserError("name at least one set of samples")
    return [open_samples(name, resolution) for name in names]


def write_npz(
    path: Path, samples: Samples, captions: Sequence[str] | None = None
) -> tuple[int, ...]:
    """Write pictures as OpenAI's sample batch, one batch after the other; its shape.

    Args:
      path: the file.
      samples: the pictures.
      captions: stored too, where other readers leave them alone.

    Raises:
      UserError: the pictures are damaged or of several sizes, or the file cannot be written.
    """
    batches = samples.batches()
    first = next(batches)
    shape, seen = (samples.count, *first.shape[1:]), len(first)
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with staged(path) as temporary:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            with archive.open(f"{PICTURES}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array_header_1_0(stream, header)
                stream.write(first.tobytes())
                for batch in batches:
                    stream.write(batch.tobytes())
                    seen += len(batch)
            if captions is not None:
                archive.writestr(CAPTIONS, json.dumps(list(captions)))
        if seen != samples.count:
            raise UserError(f"{samples.name} gave {seen} pictures, not {samples.count}")
    return shape


def write_folder(folder: Path, samples: Samples) -> int:
    """Write pictures as 000000.png, 000001.png, ...; how many.

    Raises:
      UserError: the folder exists and is not empty, or the pictures are damaged.
    """
    place = 0
    with staged_folder(folder) as temporary:
        for batch in samples.batches():
            for picture in batch:
                (temporary / f"{place:06d}.png").write_bytes(encode_png(picture))
                place += 1
    return place


def _open_folder(folder: Path, resolution: int | None) -> Samples:
    files = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in SUFFIXES and p.is_file()]
    if not files:
        raise UserError(f"the folder {folder} holds no pictures ({', '.join(SUFFIXES)})")

    def batches() -> Iterator[Batch]:
        for start in range(0, len(files), BATCH):
            part = [_decoded(file, resolution) for file in files[start : start + BATCH]]
            yield _stack(part, files[start : start + BATCH], files[0], resolution)

    return Samples(str(folder), len(files), batches, lambda: folder_captions(folder, files))


def _decoded(file: Path, resolution: int | None) -> UInt8[np.ndarray, "H W 3"]:
    picture = decode_image(file)
    return np.asarray(picture) if resolution is None else square(picture, resolution)


def _stack(part: list[np.ndarray], files: list[Path], first: Path, resolution: int | None) -> Batch:
    """One array; refuses pictures of several sizes."""
    wanted = part[0].shape if files[0] == first else _decoded(first, resolution).shape
    for picture, file in zip(part, files, strict=True):
        if picture.shape != wanted:
            sizes = [f"{shape[1]} x {shape[0]}" for shape in (picture.shape, wanted)]
            raise UserError(
                f"{file} is {sizes[0]} pixels and {first} {sizes[1]}: give --resolution to crop "
                "and resize all to one size"
            )
    return np.stack(part)


def _open_npz(path: Path, resolution: int | None) -> Samples:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{PICTURES}.npy") as stream:
            shape = _header(stream, path)
    except UserError:
        raise
    except KeyError as error:
        raise UserError(f"{path} holds no {PICTURES}; it is no batch of samples") from error
    except _DAMAGE as error:
        raise UserError(f"{path} is damaged or no .npz ({error}); fetch it again") from error
    if resolution is not None and shape[1:3] != (resolution, resolution):
        raise UserError(
            f"{path} holds pictures of {shape[2]} x {shape[1]}; --resolution {resolution} is for "
            "folders and corpora"
        )
    return Samples(
        str(path),
        shape[0],
        lambda: _npz_batches(path, shape),
        lambda: _npz_captions(path, shape[0]),
    )


def _header(stream: zipfile.ZipExtFile, path: Path) -> tuple[int, ...]:
    """The shape of `arr_0`, the stream then at its first byte."""
    version = np.lib.format.read_magic(stream)
    read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
        version, np.lib.format.read_array_header_2_0
    )
    shape, fortran, dtype = read(stream)
    if dtype != np.uint8 or fortran or len(shape) != 4 or shape[3] != 3 or not shape[0]:
        raise UserError(
            f"{path}: {PICTURES} should be uint8 [N, height, width, 3], not {dtype} {list(shape)}"
        )
    return shape


def _npz_batches(path: Path, shape: tuple[int, ...]) -> Iterator[Batch]:
    size = int(np.prod(shape[1:]))
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{PICTURES}.npy") as stream:
            _header(stream, path)
            for start in range(0, shape[0], BATCH):
                count = min(BATCH, shape[0] - start)
                data = stream.read(count * size)
                yield np.frombuffer(data, np.uint8).reshape(count, *shape[1:])
    except UserError:
        raise
    except _DAMAGE as error:
        raise UserError(f"{path} is damaged or no .npz ({error}); fetch it again") from error


def _npz_captions(path: Path, count: int) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            captions = json.loads(archive.read(CAPTIONS))
    except KeyError as error:
        raise UserError(f"{path} holds no captions; give --captions FILE, one in a line") from error
    except _DAMAGE as error:
        raise UserError(f"{path} is damaged ({error}); make it anew") from error
    if not isinstance(captions, list) or len(captions) != count:
        raise UserError(f"{path} holds no list of {count} captions; make it anew")
    return [str(caption) for caption in captions]


def _open_corpus(name: str, source: str, split: str, resolution: int) -> Samples:
    corpus = make_source(DataConfig(source=source, split=split, resolution=resolution))
    count = len(corpus)

    def batches() -> Iterator[Batch]:
        for start in range(0, count, BATCH):
            places = range(start, min(start + BATCH, count))
            yield np.stack([corpus[place]["image"] for place in places])

    return Samples(name, count, batches, lambda: captions_of(corpus))
