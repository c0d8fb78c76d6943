"""What a run optimises: the interface between an objective and the loop."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdiff.data.pipeline import Batch, DataConfig, ReadCaptions, make_batches
from jaxdiff.data.sources import Source
from jaxdiff.training.step import LossFn, Params

Serve = Callable[[int], Iterator[Batch]]
"""The number of examples consumed so far -> the batches from there on, of this process."""


class Objective(NamedTuple):
    """All that the loop needs to know of what it trains."""

    init: Callable[[Any], Params]
    """key -> parameters."""
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
    """The batches of `make_batches` for this process."""

    def batches(start: int) -> Iterator[Batch]:
        return make_batches(
            source,
            config,
            read_captions,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
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
