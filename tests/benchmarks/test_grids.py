"""The README's grids: every picture in its place, and only pairs that exist."""

import numpy as np
import pytest

from benchmarks.grids import captioned_grid, labelled_grid, training_captions
from jaxdiff.errors import UserError

COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 0, 255]], np.uint8)
IMAGES = np.broadcast_to(COLOURS[:, None, None], (4, 8, 8, 3))


def _shares(sheet):
    """Pixels of each colour, in units of one picture of 20 x 20."""
    pixels = np.asarray(sheet).reshape(-1, 3)
    return [(pixels == colour).all(axis=1).sum() / 400 for colour in COLOURS]


def test_labelled_grid():
    sheet = labelled_grid(IMAGES, ["noto", "fluent"], ["cat face", "a long name of it"], 20)
    assert _shares(sheet) == [1, 1, 1, 1]
    first = np.argwhere((np.asarray(sheet) == COLOURS[0]).all(axis=-1)).min(axis=0)
    last = np.argwhere((np.asarray(sheet) == COLOURS[3]).all(axis=-1)).min(axis=0)
    assert (last > first).all()


def test_captioned_grid():
    sheet = captioned_grid(IMAGES[:3], ["a", "b b b b b b b", "c"], 2, 20)
    assert _shares(sheet) == [1, 1, 1, 0]


def test_only_training_pairs():
    known = {"cat, noto style", "cat, fluent style", "sun, noto style"}
    styles = ("noto", "fluent")
    assert training_captions(known, ["cat"], styles) == ["cat, noto style", "cat, fluent style"]
    with pytest.raises(UserError, match="sun, fluent style"):
        training_captions(known, ["cat", "sun"], styles)
