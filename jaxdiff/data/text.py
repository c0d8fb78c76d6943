"""Lines of a text file: captions without pictures, for what reads texts alone."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from jaxdiff.data.corpus import Example
from jaxdiff.errors import UserError


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write what `TextSource` reads.

    Raises:
      UserError: the file cannot be written.
    """
    try:
        path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


class TextSource:
    """A caption in each line that is not empty, UTF-8; spaces at its ends do not count.

    Raises:
      UserError: the file cannot be read.
    """

    shapes = None

    def __init__(self, path: Path):
        try:
            content = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"data source text:{path} cannot be read: {error}; name a text file with a caption "
                "in each line"
            ) from error
        self._captions = [line.strip() for line in content.splitlines() if line.strip()]
        self.skipped: list[str] = []

    def __len__(self) -> int:
        """Number of captions."""
        return len(self._captions)

    def __getitem__(self, index: int) -> Example:
        """The example: {"caption": str, "id": str}."""
        return {"caption": self._captions[index], "id": str(index), "index": index}

    def row(self, index: int) -> Example:
        """The same."""
        return self[index]

    def fingerprint(self) -> str:
        """Hash of all captions."""
        return hashlib.sha256("\n".join(self._captions).encode()).hexdigest()
