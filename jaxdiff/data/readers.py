"""A corpus opened for training: in memory at once, or decoded as needed.

Axis legend: N examples, R resolution, H height, W width.
"""

import hashlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import UInt8

from jaxdiff.data.corpus import Corpus, Example, skip
from jaxdiff.data.images import CorruptImage
from jaxdiff.errors import UserError

log = logging.getLogger(__name__)


class MemorySource:
    """Another source decoded at once into `images`; corrupt ones are left out.

    `images` is uint8 [N, R, R, 3], or a list of [H, W, 3] where the source has several `shapes`.
    """

    def __init__(self, source: Corpus, resolution: int, *, strict: bool = False):
        self._source, self.skipped = source, list(source.skipped)
        self.rows: list[Example] = []
        shapes, kept = getattr(source, "shapes", None), []
        images = [None] * len(source) if shapes is not None else None
        if images is None:
            images = np.empty((len(source), resolution, resolution, 3), np.uint8)

        def load(index: int) -> Example | CorruptImage:
            try:
                return source[index]
            except CorruptImage as error:
                return error

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for index, example in enumerate(pool.map(load, range(len(source)))):
                if isinstance(example, CorruptImage):
                    skip(str(example), self.skipped, strict)
                    continue
                images[len(kept)] = example.pop("image")
                self.rows.append(example)
                kept.append(index)
        if not kept:
            raise UserError(f"no picture can be read; the first: {self.skipped[0]}")
        if self.skipped:
            total = len(kept) + len(self.skipped)
            log.warning("skipped %d of %d pictures", len(self.skipped), total)
        self.images, self._kept = images[: len(kept)], kept
        self.shapes = None if shapes is None else shapes[kept]

    def __len__(self) -> int:
        """Number of readable examples N."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        """The example; its image is a view of `images`."""
        return {"image": self.images[index], **self.rows[index], "index": index}

    def row(self, index: int) -> Example:
        """The example without its image."""
        return self.rows[index]

    def conditioning(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """The example's conditioning picture."""
        return self.rows[index]["conditioning"]

    def fingerprint(self) -> str:
        """As a `LazySource` of the same pictures says, unless some were left out."""
        files = _file_hash(self._source)
        if files is None or len(self._kept) == len(self._source):
            return files or _pixel_hash(self.images)
        return hashlib.sha256(f"{files} {self._kept}".encode()).hexdigest()


class LazySource:
    """Another source decoded as needed; in the place of a corrupt picture comes the next readable.

    What stands at an index thus depends on the files alone, and a run stays repeatable; an example
    says by "index" which it is. If strict, every picture is decoded once at opening.
    """

    def __init__(self, source: Corpus, *, strict: bool = False):
        self._source, self._strict = source, strict
        self._corrupt: set[int] = set()
        self.skipped = list(source.skipped)
        self.shapes = getattr(source, "shapes", None)
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
        """The example at `index`, or the next readable one of its shape after it."""
        for step in range(len(self)):
            at = (index + step) % len(self)
            if at in self._corrupt or not self._same_shape(index, at):
                continue
            try:
                return {**self._source[at], "index": at}
            except CorruptImage as error:
                self._corrupt.add(at)
                count = f"{len(self._corrupt)} of {len(self)} pictures so far"
                skip(f"{error} ({count})", self.skipped, self._strict)
        raise UserError(f"no picture can be read; the last: {self.skipped[-1]}")

    def _same_shape(self, first: int, second: int) -> bool:
        return self.shapes is None or bool(np.all(self.shapes[first] == self.shapes[second]))

    def row(self, index: int) -> Example:
        """The example without its picture; a corrupt one still has its caption."""
        return self._source.row(index)

    def conditioning(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """The conditioning picture of the example at `index` itself; nothing else is decoded."""
        return self._source.conditioning(index)

    def fingerprint(self) -> str:
        """Hash of what its files hold, if the source can say; else of all pixels."""
        if files := _file_hash(self._source):
            return files
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return _pixel_hash(pool.map(lambda index: self[index]["image"], range(len(self))))


def _file_hash(source: Corpus) -> str | None:
    """Hash of what the source's files hold, if it can say."""
    cheap = getattr(source, "fingerprint", None)
    return None if cheap is None else cheap()


def _pixel_hash(images) -> str:  # noqa: ANN001 (any iterable of arrays)
    digest = hashlib.sha256()
    for image in images:
        digest.update(repr(image.shape).encode())
        digest.update(np.ascontiguousarray(image))
    return digest.hexdigest()
