"""One pipeline from a source to batches of pictures and tokens.

The stream is a pure function of (source, config): the example with global number n is
source[order(n)], where `order` is a fresh shuffle in every epoch, and its flip and caption dropout
are drawn from (seed, n). Process p of P serves rows [p b, (p + 1) b) of every global batch of
P b examples, so the batches of any number of processes, side by side, are the same batches. The
state is one integer, the number of global examples consumed.

Axis legend: b examples of this process, R resolution, T tokens.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxdiff.data.captions import loosen, may_flip
from jaxdiff.data.sources import DataConfig, Source, make_source
from jaxdiff.errors import UserError

__all__ = ["Batches", "DataConfig", "make_batches", "make_source"]

Tokenize = Callable[[list[str]], np.ndarray]
Batch = dict[str, np.ndarray]


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
    tokenize: Tokenize,
    *,
    process_index: int = 0,
    process_count: int = 1,
    start: int = 0,
) -> Batches:
    """Batches of this process from the global example `start` on; resuming costs nothing.

    Args:
      source: random access to examples, as `make_source` opens it.
      config: batch size (over all processes), seed, flips and dropout.
      tokenize: captions -> int32 [b, T].
      process_index: which process this is.
      process_count: how many share every batch.
      start: the `state` of the iterator to continue, whatever its process count was.

    Returns:
      An endless iterator of {"image": uint8 [b, R, R, 3], "tokens": int32 [b, T],
      "example": int64 [b], the global numbers}.

    Raises:
      UserError: the batch size is not a multiple of the process count.
    """
    import grain

    if config.batch_size % process_count:
        raise UserError(
            f"data.batch_size {config.batch_size} must be a multiple of the"
            f" {process_count} processes that share it"
        )
    maker = _BatchMaker(source, config, tokenize, process_index, process_count, start)
    options = grain.ReadOptions(
        num_threads=config.num_threads,
        prefetch_buffer_size=config.prefetch if config.num_threads else 0,
    )
    batches = grain.MapDataset.source(maker).to_iter_dataset(options)
    return Batches(iter(batches), start, config.batch_size)


class _BatchMaker:
    """Random access to batches; number k holds global examples start + k B + [p b, (p + 1) b)."""

    def __init__(
        self,
        source: Source,
        config: DataConfig,
        tokenize: Tokenize,
        process_index: int,
        process_count: int,
        start: int,
    ):
        import grain

        self._source, self._config, self._tokenize = source, config, tokenize
        self._local = config.batch_size // process_count
        self._first = start + process_index * self._local
        self._order = grain.MapDataset.range(len(source)).seed(config.seed).shuffle().repeat()

    def __len__(self) -> int:
        return sys.maxsize // self._config.batch_size - self._first

    def __getitem__(self, number: int) -> Batch:
        first = self._first + int(number) * self._config.batch_size
        examples = np.arange(first, first + self._local, dtype=np.int64)
        images, captions = zip(*(self._example(int(n)) for n in examples), strict=True)
        tokens = np.asarray(self._tokenize(list(captions)), np.int32)
        return {"image": np.stack(images), "tokens": tokens, "example": examples}

    def _example(self, number: int) -> tuple[np.ndarray, str]:
        example = self._source[int(self._order[number])]
        image, caption = example["image"], example["caption"]
        draws = np.random.Generator(np.random.Philox(key=[self._config.seed, number]))
        flip, drop, loose, how = draws.random(4)
        if self._config.flip and flip < 0.5 and may_flip(caption):
            image = image[:, ::-1]
        if loose < self._config.loosen_captions:
            caption = loosen(caption, how)
        return image, "" if drop < self._config.caption_dropout else caption
