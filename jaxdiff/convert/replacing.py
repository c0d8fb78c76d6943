"""Directories written whole or not at all: a sibling is written, then renamed."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from jaxdiff.errors import UserError

CARD = "README.md"  # what somebody wrote of a model


def replace_directory(
    directory: str | Path,
    write: Callable[[Path], None],
    *,
    replaceable: Callable[[Path], bool],
    kind: str = "model directory",
    carry_over: Callable[[Path, Path], None] | None = None,
) -> None:
    """Write a directory in the place of an old one, whose card stays; or leave it as it was.

    Args:
      directory: its path.
      write: fills an empty directory.
      replaceable: whether an existing directory may be replaced.
      kind: what such a directory is called.
      carry_over: copies from the old directory to the new one what shall stay.

    Raises:
      UserError: `directory` may not be replaced or cannot be written.
    """
    require_writable(directory, replaceable, kind)
    target = Path(directory).resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
            staged = Path(scratch) / "new"
            staged.mkdir()
            write(staged)
            if target.exists() and carry_over is not None:
                carry_over(target, staged)
            if (target / CARD).is_file() and not (staged / CARD).exists():
                shutil.copy2(target / CARD, staged / CARD)
            _swap(staged, target, Path(f"{scratch}-old"))
    except OSError as error:
        raise UserError(f"{directory} cannot be written: {error.strerror or error}") from error


def require_writable(
    directory: str | Path, replaceable: Callable[[Path], bool], kind: str = "model directory"
) -> None:
    """Raise what `replace_directory` would before anything is written; writes nothing.

    Raises:
      UserError: `directory` is a file, may not be replaced, or cannot be written.
    """
    directory = Path(directory)
    _require_parent(directory)
    if directory.exists() and not (directory.is_dir() and replaceable(directory)):
        raise UserError(f"{directory} exists and is no {kind}; choose another")


def require_writable_file(path: Path) -> None:
    """Raise if a file cannot be put there; missing folders are no hindrance. Writes nothing.

    Raises:
      UserError: `path` is a folder, or cannot be written.
    """
    if path.is_dir():
        raise UserError(f"{path} cannot be written: it is a folder; name a file")
    _require_parent(path)


def _require_parent(path: Path) -> None:
    """Raise unless the nearest folder that is there can be written to."""
    parent = next(folder for folder in path.resolve().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"{path} cannot be written: no permission, or no folder, at {parent}")


def _swap(staged: Path, directory: Path, retired: Path) -> None:
    """Put the staged directory in the place of an old one; if that fails, the old one stays."""
    if not directory.exists():
        staged.rename(directory)
        return
    directory.rename(retired)
    try:
        staged.rename(directory)
    except BaseException:
        retired.rename(directory)
        raise
    shutil.rmtree(retired, ignore_errors=True)
