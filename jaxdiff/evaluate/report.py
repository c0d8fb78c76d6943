"""Scores as a table and as JSON: means over the sets, never the best one, and all counts."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxdiff.errors import UserError
from jaxdiff.evaluate.counts import spread
from jaxdiff.evaluate.measures import Score

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
        cells = scores[0].name, _shown(mean), _shown(std), str(count), pictures, scores[0].note
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def tell(sets: Sequence[Sequence[Score]], about: dict[str, Any], file: Path | None) -> None:
    """Print the table and, below it, what it is about; all of it as JSON too if a file is named.

    Args:
      sets: the scores of each set.
      about: `samples`, `sample pictures`, and what else is to be told.
      file: the JSON file; null stands there where there is no number.

    Raises:
      UserError: the file cannot be written.
    """
    print(table(sets, about["sample pictures"]))
    rest = (f"{name} {value}" for name, value in about.items() if not name.startswith("sample"))
    print("\n" + ", ".join(rest))
    if file is None:
        return
    scores: dict[str, list[float | None]] = {}
    for score in (score for each in sets for score in each):
        value = score.value if math.isfinite(score.value) else None
        scores.setdefault(score.name, []).append(value)
    try:
        text = json.dumps(about | {"scores": scores}, indent=2, ensure_ascii=False)
        file.write_text(text + "\n", "utf-8")
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror or error}") from error


def _shown(value: float) -> str:
    """Four digits, or a dash where there is no number."""
    if not math.isfinite(value):
        return "–"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
