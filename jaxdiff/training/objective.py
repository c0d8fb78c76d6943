"""What a run optimises: the interface between an objective and the loop."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdiff.data.pipeline import Batch, DataConfig, ReadCaptions, make_batches
from jaxdiff.data.sources import Source
from jaxdiff.training.step import LossFn, Params


class Share(NamedTuple):
    """The part of every global batch that a process reads: number `index` of `count`."""

    index: int = 0
    count: int = 1


Serve = Callable[[int, Share], Iterator[Batch]]
"""(examples consumed so far, a process's share) -> its batches from there on."""


class Objective(NamedTuple):
    """All that the loop needs to know of what it trains."""

    init: Callable[[Any, Params], Params]
    """(key, `given`) -> parameters; compiled, so that none of them need fit on one device."""
    given: Params
    """Parameters on the host that training begins with, or {}."""
    frozen: Params
    """Parameters that the loss reads and nobody trains."""
    loss: LossFn
    """Per-example loss and metrics."""
    batches: Serve
    """The data."""
    keep: Callable[[Path], None]
    """Write what a resumed run reads, beside its checkpoints."""
    preview: Callable[[Params], np.ndarray | None]
    """Averaged parameters -> a uint8 picture [H, W, 3] to look at, or None."""
    export: Callable[[Path, Params, dict], None]
    """(path, averaged parameters, facts for the record): write what was trained."""
    inputs: dict[str, str] = {}
    """What a resumed run must find unchanged: a name, and a hash."""


def serve(source: Source, config: DataConfig, read_captions: ReadCaptions) -> Serve:
    """The batches of `make_batches` for a process's share."""

    def batches(start: int, share: Share) -> Iterator[Batch]:
        return make_batches(
            source,
            config,
            read_captions,
            process_index=share.index,
            process_count=share.count,
            start=start,
        )

    return batches


def tile(images: np.ndarray, columns: int) -> np.ndarray:
    """Lay pictures [N, H, W, 3] out in rows of `columns`: [rows * H, columns * W, 3]."""
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    canvas = np.full((rows * columns, height, width, channels), 255, images.dtype)
    canvas[:count] = images
    canvas = canvas.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return canvas.reshape(rows * height, columns * width, channels)
