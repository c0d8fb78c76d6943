"""Small sets of pictures on disk, and the command line in this process."""

import pytest
from rectangles import make_pictures, write_pictures


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
