"""Scores as a table and as JSON: means over the sets, never the best one, and all counts."""

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxdiff.evaluate.counts import spread
from jaxdiff.evaluate.features import Extractor
from jaxdiff.evaluate.files import write_text
from jaxdiff.evaluate.measures import Score
from jaxdiff.evaluate.samples import Samples

_ONLY_IN_JSON = ("samples", "sample pictures", "options")
_HEAD = "| measure | mean | std | sets | pictures | |\n|---|---|---|---|---|---|"


def table(sets: Sequence[Sequence[Score]], counts: Sequence[int]) -> str:
    """One row for each score: its mean and standard deviation over the sets.

    Args:
      sets: the scores of each set, of the same names in the same order.
      counts: how many pictures each set has.
    """
    lines = [_HEAD]
    pictures = str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"
    for scores in zip(*sets, strict=True):
        mean, std, count = spread([score.value for score in scores])
        note = _together([score.note for score in scores])
        cells = scores[0].name, _shown(mean), _shown(std), str(count), pictures, note
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _together(notes: list[str]) -> str:
    """The note of all sets, or the first one's and that others differ."""
    same = len(set(notes)) == 1
    return notes[0] if same else f"{notes[0]} (of the first set; --json has all)"


def tell(sets: Sequence[Sequence[Score]], about: dict[str, Any], file: Path | None) -> None:
    """Print the table and, below it, what it is about; all of it as JSON too if a file is named.

    Args:
      sets: the scores of each set.
      about: `samples`, `sample pictures`, `options`, and what else is to be told.
      file: the JSON file: what they are about, and of each score the value, the note and the
        standard deviation within every set, with null where there is no number.

    Raises:
      UserError: the file cannot be written.
    """
    print(table(sets, about["sample pictures"]))
    rest = (f"{name} {value}" for name, value in about.items() if name not in _ONLY_IN_JSON)
    print("\n" + ", ".join(rest))
    if file is None:
        return
    scores: dict[str, list[dict[str, Any]]] = {}
    for score in (score for each in sets for score in each):
        known = {"value": _number(score.value), "note": score.note, "std": _number(score.std)}
        scores.setdefault(score.name, []).append(known)
    text = json.dumps(about | {"scores": scores}, indent=2, ensure_ascii=False)
    # Half a character, of a file name that is no UTF-8, as the escape that JSON has for it.
    write_text(file, text.encode(errors="backslashreplace").decode() + "\n")


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _shown(value: float) -> str:
    """Four digits, or a dash where there is no number."""
    if not math.isfinite(value):
        return "–"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def about_sets(sets: list[Samples], extractor: Extractor, **more: Any) -> dict[str, Any]:
    """What the scores of sets are about, to be told."""
    names, counts = [each.name for each in sets], [each.count for each in sets]
    return {
        "samples": names,
        "sample pictures": counts,
        "extractor": extractor.name,
        **more,
    }


def say(line: str) -> None:
    """A line for the user, on standard error."""
    print(line, file=sys.stderr, flush=True)
