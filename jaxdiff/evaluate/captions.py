"""What the pictures of a set were to show: from their folder, their recipes, or a file."""

from collections.abc import Sequence
from pathlib import Path

from jaxdiff.data.config import DataConfig
from jaxdiff.data.folder import METADATA, FolderSource
from jaxdiff.errors import UserError
from jaxdiff.evaluate.files import write_text
from jaxdiff.provenance import read_png


def folder_captions(folder: Path, files: Sequence[Path]) -> list[str]:
    """The captions of a folder's pictures: `metadata.jsonl`, .txt files, or the PNGs' recipes.

    Args:
      folder: the folder.
      files: its pictures.

    Raises:
      UserError: a picture has none; the message names it.
    """
    if not (folder / METADATA).exists() and not files[0].with_suffix(".txt").exists():
        return [read_png(file)[1].prompt for file in files]
    source = FolderSource(folder, DataConfig(source=f"folder:{folder}"))
    rows = (source.row(index) for index in range(len(source)))
    known = {row["id"]: row["caption"] for row in rows}
    names = [file.relative_to(folder).as_posix() for file in files]
    missing = [name for name in names if name not in known]
    if missing:
        raise UserError(f"picture {folder / missing[0]} has no caption")
    return [known[name] for name in names]


def write_captions(path: Path, captions: Sequence[str]) -> None:
    """Write captions, one in a line, white space within them as single spaces.

    Raises:
      UserError: the file cannot be written.
    """
    write_text(path, "".join(" ".join(each.split()) + "\n" for each in captions))


def read_captions(path: Path, count: int) -> list[str]:
    """The lines of a file, one for each of `count` pictures in their order.

    Raises:
      UserError: the file cannot be read, or has another number of lines.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise UserError(f"{path} cannot be read: {reason}") from error
    if len(lines) != count:
        raise UserError(f"{path} has {len(lines)} captions for {count} pictures; one line for each")
    return lines
