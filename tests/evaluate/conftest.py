"""Small sets of pictures on disk, and the command line in this process."""

import numpy as np
import pytest
from PIL import Image


def make_pictures(count, seed, side=16):
    """Coloured rectangles on white, uint8 [count, side, side, 3]."""
    rng = np.random.default_rng(seed)
    pictures = np.full((count, side, side, 3), 255, np.uint8)
    for picture in pictures:
        (top, left), (high, wide) = rng.integers(0, side // 2, 2), rng.integers(2, side // 2, 2)
        picture[top : top + high, left : left + wide] = rng.integers(0, 256, 3)
    return pictures


def write_pictures(folder, pictures):
    folder.mkdir()
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{i:04d}.png")
    return folder


@pytest.fixture
def folder(tmp_path):
    """Writes rectangles into a folder: (name, count, seed) -> its path."""

    def write(name, count, seed, side=16):
        return write_pictures(tmp_path / name, make_pictures(count, seed, side))

    return write


@pytest.fixture
def evaluate(tmp_path, monkeypatch, capsys):
    """`python -m jaxdiff.evaluate` in this process: (code, lines out, lines err)."""
    from jaxdiff.evaluate.commands import main

    monkeypatch.chdir(tmp_path)

    def call(*words):
        code = main([str(word) for word in words])
        printed = capsys.readouterr()
        return code, printed.out.splitlines(), printed.err.splitlines()

    return call
