"""Other names for what captions speak of, from a file; `other_names` writes one."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxdiff.data.captions import subject_of
from jaxdiff.data.config import DataConfig
from jaxdiff.errors import UserError

Names = Mapping[str, Sequence[str]]
"""A subject -> other names of it."""


class Synonym(NamedTuple):
    """Two names for one thing."""

    word: str
    subject: str
    """What captions call it."""


def read_synonyms(path: Path) -> list[Synonym]:
    """Lines SYNONYM = SUBJECT; # begins a comment.

    Raises:
      UserError: the file cannot be read, or a line has another form.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"synonyms {path} cannot be read: {error}") from error
    found = []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if text:
            word, equals, subject = (part.strip() for part in text.partition("="))
            if not (word and equals and subject):
                raise UserError(f"{path}, line {number}: {line!r} should be SYNONYM = SUBJECT")
            found.append(Synonym(word, subject))
    return found


def names_by_subject(synonyms: Iterable[Synonym]) -> dict[str, list[str]]:
    """Each subject's other names."""
    found: dict[str, list[str]] = {}
    for word, subject in synonyms:
        found.setdefault(subject, []).append(word)
    return found


def read_names(config: DataConfig) -> Names:
    """The other names that a config asks for."""
    if not (config.synonyms and config.synonym_share):
        return {}
    return names_by_subject(read_synonyms(Path(config.synonyms)))


def names_digest(config: DataConfig, captions: Callable[[], Iterable[str]]) -> dict[str, str]:
    """{"synonyms": hash} of the other names that a config asks for, or {}.

    Args:
      config: names the file.
      captions: gives the corpus' captions, where they are needed.

    Raises:
      UserError: the file cannot be read, or no caption is of one of its subjects.
    """
    names = read_names(config)
    if not names:
        return {}
    subjects = {subject_of(caption) for caption in captions()}
    if not subjects & names.keys():
        raise UserError(
            f"data.synonyms={config.synonyms} has no other name for {min(subjects, default='')!r} "
            f"or any other subject of the {len(subjects)} in the captions: a subject is all that "
            "stands before the first comma"
        )
    return {"synonyms": hashlib.sha256(repr(sorted(names.items())).encode()).hexdigest()}


def rename(caption: str, names: Names, draw: float) -> str:
    """The caption with another name for its subject, chosen by `draw` in [0, 1), if there is one.

    >>> rename("cat, noto style", {"cat": ["kitty", "tabby"]}, 0.7)
    'tabby, noto style'
    """
    found = renamed(caption, names)
    return found[int(draw * len(found))] if found else caption


def renamed(caption: str, names: Names) -> list[str]:
    """The caption with each of its subject's other names."""
    subject = subject_of(caption)
    return [word + caption.lstrip()[len(subject) :] for word in names.get(subject, ())]
