"""One pipeline from a source to batches of pictures and tokens.

The stream is a pure function of (source, config, the file of synonyms that it names): the example
with global number n is source[order(n)], where `order` is a fresh shuffle in every epoch, and its
flip, caption dropout and other name are drawn from (seed, n). Process p of P serves rows
[p b, (p + 1) b) of every global batch of P b examples, so the batches of any number of processes,
side by side, are the same batches. The state is one integer, the number of global examples
consumed.

Axis legend: b examples of this process, H W pixels, h w latent pixels, T tokens.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxdiff.data.buckets import bucket_order
from jaxdiff.data.captions import loosen, may_flip
from jaxdiff.data.config import DataConfig
from jaxdiff.data.corpus import Source
from jaxdiff.data.sources import make_source
from jaxdiff.data.synonyms import read_names, rename
from jaxdiff.errors import UserError

__all__ = ["Batches", "DataConfig", "ReadCaptions", "make_batches", "make_source"]

Batch = dict[str, np.ndarray]
ReadCaptions = Callable[[list[str]], Batch]
"""Captions -> arrays of a batch: {"tokens": int32 [b, T]}, or what text encoders made of them."""

PICTURES = ("image", "conditioning")  # mirrored when a row is
BOTH_WAYS = "moments"  # [flips, h, w, 2Z] of an example, not mirrored and mirrored


class Batches(Iterator[Batch]):
    """Endless batches; `state` is the number of global examples consumed so far."""

    def __init__(self, batches: Any, start: int, batch_size: int):
        self._batches, self._batch_size = batches, batch_size
        self.state = start

    def __next__(self) -> Batch:
        batch = next(self._batches)
        self.state += self._batch_size
        return batch


def make_batches(
    source: Source,
    config: DataConfig,
    read_captions: ReadCaptions,
    *,
    process_index: int = 0,
    process_count: int = 1,
    start: int = 0,
) -> Batches:
    """Batches of this process from the global example `start` on; resuming costs nothing.

    Args:
      source: random access to examples, as `make_source` opens it; "image" may stand there as
        "moments" [flips, h, w, 2Z], which the autoencoder made of the picture and its mirror image.
      config: batch size (over all processes), seed, flips and dropout.
      read_captions: captions -> arrays, one row per caption.
      process_index: which process this is.
      process_count: how many share every batch.
      start: the `state` of the iterator to continue, whatever its process count was.

    Returns:
      An endless iterator of {"image": uint8 [b, H, W, 3], "example": int64 [b], the global numbers,
      "size": int32 [b, 6], see `buckets.size_conditioning`} and what `read_captions` gives.

    Raises:
      UserError: the batch size is not a multiple of the process count.
    """
    import grain
    from absl import flags

    if config.batch_size % process_count:
        raise UserError(
            f"data.batch_size {config.batch_size} must be a multiple of the"
            f" {process_count} processes that share it"
        )
    maker = _BatchMaker(source, config, read_captions, process_index, process_count, start)
    options = grain.ReadOptions(
        num_threads=config.num_threads,
        prefetch_buffer_size=config.prefetch if config.num_threads else 0,
    )
    batches = grain.MapDataset.source(maker).to_iter_dataset(options)
    if config.workers:  # in turn: worker w of W makes batches w, w + W, ...
        if not flags.FLAGS.is_parsed():  # grain asks for its own
            flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(
            grain.MultiprocessingOptions(config.workers, per_worker_buffer_size=config.prefetch)
        )
    return Batches(iter(batches), start, config.batch_size)


def example_order(source: Source, config: DataConfig) -> Callable[[int], int]:
    """Global number of an example -> its number in the source."""
    import grain

    shapes = getattr(source, "shapes", None)
    if shapes is not None:
        return bucket_order(shapes, config.batch_size, config.seed)
    shuffled = grain.MapDataset.range(len(source)).seed(config.seed).shuffle().repeat()
    return lambda number: int(shuffled[number])


class _BatchMaker:
    """Random access to batches; number k holds global examples start + k B + [p b, (p + 1) b)."""

    def __init__(
        self,
        source: Source,
        config: DataConfig,
        read_captions: ReadCaptions,
        process_index: int,
        process_count: int,
        start: int,
    ):
        self._source, self._config, self._read_captions = source, config, read_captions
        self._local = config.batch_size // process_count
        self._first = start + process_index * self._local
        self._order = example_order(source, config)
        self._names = read_names(config)

    def __len__(self) -> int:
        return sys.maxsize // self._config.batch_size - self._first

    def __getitem__(self, number: int) -> Batch:
        first = self._first + int(number) * self._config.batch_size
        examples = np.arange(first, first + self._local, dtype=np.int64)
        arrays, captions = zip(*(self._example(int(n)) for n in examples), strict=True)
        batch = {name: np.stack([row[name] for row in arrays]) for name in arrays[0]}
        return {**batch, **self._read_captions(list(captions)), "example": examples}

    def _example(self, number: int) -> tuple[Batch, str]:
        """The arrays of an example, and its caption."""
        example = self._source[self._order(number)]
        caption = example["caption"]
        draws = np.random.Generator(np.random.Philox(key=[self._config.seed, number]))
        flip, drop, loose, how = draws.random(4)
        flipped = self._config.flip and flip < 0.5 and may_flip(caption)
        arrays = {name: example[name] for name in PICTURES if name in example}
        if flipped:
            arrays = {name: image[:, ::-1] for name, image in arrays.items()}
        if BOTH_WAYS in example:
            arrays[BOTH_WAYS] = example[BOTH_WAYS][int(flipped)]
        side = self._config.resolution
        uncropped = np.array([side, side, 0, 0, side, side], np.int32)
        arrays["size"] = example.get("size", uncropped)
        if self._names:
            other, which = draws.random(2)
            if other < self._config.synonym_share:
                caption = rename(caption, self._names, which)
        if loose < self._config.loosen_captions:
            caption = loosen(caption, how)
        return arrays, "" if drop < self._config.caption_dropout else caption
