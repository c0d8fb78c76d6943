"""What the commands write: checked before any work, and there as a whole or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from jaxdiff.errors import UserError


def require_writable(*paths: Path | None) -> None:
    """Refuse files that could not be written at the end; None is no file.

    Raises:
      UserError: the folder of one is not there or cannot be written to, or a folder, a device or
        what the command prints to has its name.
    """
    for path in paths:
        if path is None:
            continue
        folder = _target(path).parent
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise UserError(f"{path} cannot be written: {folder} is no folder to write to")


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A name for a file or a folder, which becomes `path` once all of it is there.

    It lies beside `path` or, where that is a link, beside what it leads to, and the link stays.

    Raises:
      UserError: it cannot be written.
    """
    target = _target(path)
    temporary = target.with_name(f".{target.name}.tmp")
    _remove(temporary)  # what a process that was killed left
    try:
        yield temporary
        temporary.replace(target)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        _remove(temporary)


@contextlib.contextmanager
def staged_folder(path: Path) -> Iterator[Path]:
    """A folder to write files into, which are in `path` once all of them are there.

    An empty folder stays where it is, since it may be the current one, a mount, or behind a link:
    the files are moved up into it.

    Raises:
      UserError: `path` is there and no empty folder, or cannot be written.
    """
    target = Path(os.path.realpath(path))
    if not target.exists():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{path} cannot be made: {error.strerror or error}") from error
        with staged(target) as temporary:
            temporary.mkdir()
            yield temporary
        return
    temporary = target / ".unfinished.tmp"
    try:
        if not target.is_dir() or any(each != temporary for each in target.iterdir()):
            raise UserError(f"{path} exists and is not empty; choose another")
        _remove(temporary)  # what a process that was killed left
        temporary.mkdir()
        yield temporary
        for each in temporary.iterdir():
            each.rename(target / each.name)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        _remove(temporary)


def _target(path: Path) -> Path:
    """Where a name leads, through links: to a file, or to nothing yet.

    Raises:
      UserError: it leads elsewhere; what replaces a device or a pipe would be lost.
    """
    target = Path(os.path.realpath(path))
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file")
    printed = path.exists() and any(_is_open_at(path, number) for number in (1, 2))
    if printed or target.is_symlink() or (path.exists() and not path.is_file()):
        raise UserError(f"{path} is a device, a pipe or what this command prints to; name a file")
    return target


def _is_open_at(path: Path, descriptor: int) -> bool:
    """Whether a file is what a descriptor writes to."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:  # closed
        return False


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):  # its folder may be a file
            path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a file in UTF-8.

    Raises:
      UserError: it cannot be written, or the text holds half a character.
    """
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        line = text[: error.start].count("\n") + 1
        raise UserError(
            f"{path} cannot be written: its line {line} would hold {text[error.start]!a}, which is "
            "no character (of a file name or a caption that is no UTF-8?)"
        ) from error
    with staged(path) as temporary:
        temporary.write_bytes(data)
