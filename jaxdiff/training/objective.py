"""What a run optimises: the interface between an objective and the loop."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdiff.data.pipeline import Tokenize
from jaxdiff.training.step import LossFn, Params


class Objective(NamedTuple):
    """All that the loop needs to know of what it trains."""

    init: Callable[[Any], Params]
    """key -> parameters."""
    frozen: Params
    """Parameters that the loss reads and nobody trains."""
    loss: LossFn
    """Per-example loss and metrics."""
    tokenize: Tokenize
    """Captions -> ids [B, T]."""
    keep: Callable[[Path], None]
    """Write what a resumed run reads, beside its checkpoints."""
    preview: Callable[[Params], np.ndarray | None]
    """Averaged parameters -> a uint8 picture [H, W, 3] to look at, or None."""
    export: Callable[[Path, Params, dict], None]
    """(directory, averaged parameters, facts for the record): write a model directory."""


def no_tokens(captions: list[str]) -> np.ndarray:
    """Ids [B, 0], for objectives that read no text."""
    return np.zeros((len(captions), 0), np.int32)


def tile(images: np.ndarray, columns: int) -> np.ndarray:
    """Lay pictures [N, H, W, 3] out in rows of `columns`: [rows * H, columns * W, 3]."""
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    canvas = np.full((rows * columns, height, width, channels), 255, images.dtype)
    canvas[:count] = images
    canvas = canvas.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return canvas.reshape(rows * height, columns * width, channels)
