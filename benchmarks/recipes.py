"""Which recipe learns fastest: rows that differ in one thing, trained alike, as curves.

    python benchmarks/recipes.py --rows base eps x0 --seeds 0 1 2

A row is the preset `emoji-small` with some options of `train.py`, or some settings of drawing; rows
that train alike share one training. It is trained in stages; after each, the averaged model draws
the held-out pairs and as many training pairs, which the extractor judges (`jaxdiff.evaluate`): the
curve over the pictures seen. All commands are printed. What is in OUT/results.jsonl is not done
again, so that a run goes on where it was ended. At last: a table with the mean and the standard
deviation over seeds, and a picture of curves for each score.
"""

import json
import os
import shlex
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from jaxdiff import platform  # noqa: E402
from jaxdiff.cli import exit_code, or_exit, parse_or_explain  # noqa: E402

or_exit(platform.configure)

from benchmarks import markdown  # noqa: E402
from benchmarks.curves import Axis, curves  # noqa: E402
from benchmarks.judge import Judge  # noqa: E402
from benchmarks.recipe_rows import PRESET, ROWS, Row  # noqa: E402
from jaxdiff.errors import UserError, choose  # noqa: E402
from jaxdiff.models.checks import require_positive  # noqa: E402

BATCH = 32  # pictures of a step, as the preset has it


class Measured(NamedTuple):
    """A column of the table and a picture of curves."""

    name: str
    """As `judge.Judge` calls it."""
    form: str
    """How its numbers are written."""
    factor: float = 1.0


COLUMNS = (
    Measured("Fréchet distance, held out", "{x:.1f}"),
    Measured("retrieval at 10, held out", "{x:.1f}%", 100),
    Measured("retrieval at 10, seen", "{x:.1f}%", 100),
)


@dataclass(frozen=True)
class Arguments:
    """Compare recipes."""

    rows: tuple[str, ...] = tuple(ROWS)
    """Which."""
    seeds: tuple[int, ...] = (0,)
    """One training of every row for each."""
    steps: int = 1000
    """Of every training."""
    stages: int = 2
    """Points of a curve."""
    count: int = 381
    """Pictures of held-out pairs, and of training pairs, that are drawn for each point."""
    draw_steps: int = 10
    """Sampling steps of these."""
    extractor: str = "clip:models/emoji-clip"
    """What looks at the pictures, as `python -m jaxdiff.evaluate` names it; reads texts."""
    out: Path = Path("runs/recipes")
    """Work directories, results.jsonl, curves."""


def train_and_score(args: Arguments, judge: Judge, name: str, seed: int) -> Iterator[dict]:
    """Train a row by stages; yields what each stage scored."""
    row = ROWS[name]
    for stage in range(1, args.stages + 1):
        steps = args.steps * stage // args.stages
        if not _known(args.out, name, seed, steps):
            model = train(args, row, seed, steps)
            scores = judge.scores(model, seed, num_steps=args.draw_steps, **row.settings)
            about = asked(args, row, judge.extractor.name)
            told = {"row": name, **about, "seed": seed, "pictures": steps * BATCH}
            yield {**told, "scores": scores}


def train(args: Arguments, row: Row, seed: int, steps: int) -> Path:
    """The model of a row at a step, trained unless it is there."""
    first = next(name for name, other in ROWS.items() if other.options == row.options)
    home = args.out / f"{first.replace(' ', '-')}-{seed}"
    model = home / f"model-{steps}"
    if not model.is_dir():
        options = ["--seed", seed, "--num-steps", steps, "--data.cache", args.out / "cache"]
        places = ["--workdir", home / "run", "--export", model]
        _command(home, "train.py", PRESET, *row.options.split(), *options, *places)
    _require_step(model, steps)
    return model


def _command(home: Path, *words: Any) -> None:
    """Run one of the project's scripts, with its output in HOME/log.txt; print what is run.

    Raises:
      UserError: it ends with an error.
    """
    line = [str(word) for word in words]
    print("$ python", shlex.join(line), flush=True)
    home.mkdir(parents=True, exist_ok=True)
    with (home / "log.txt").open("a") as log:
        done = subprocess.run(
            [sys.executable, str(ROOT / line[0]), *line[1:]],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        raise UserError(f"{line[0]} ended with {done.returncode}; {log.name} says why")


def _require_step(model: Path, steps: int) -> None:
    """Refuse a model of another step than the curve says: its run had gone on already."""
    found = json.loads((model / "jaxdiff.json").read_text())["training"]["step"]
    if found != steps:
        raise UserError(
            f"{model} is of step {found}, not {steps}: its run went further before; delete "
            f"{model.parent} and begin the row again"
        )


def results(out: Path) -> list[dict[str, Any]]:
    """What is known."""
    file = out / "results.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def asked(args: Arguments, row: Row, extractor: str) -> dict[str, Any]:
    """What a row's result depends on, but for its seed and step; JSON values."""
    settings = json.loads(json.dumps(row.settings))
    about = {"count": args.count, "draw_steps": args.draw_steps, "extractor": extractor}
    return {"options": row.options, "settings": settings, **about}


def require_text_encoders(rows: tuple[str, ...]) -> None:
    """Refuse rows whose text encoder is not there, before any training.

    Raises:
      UserError: names the row and the folder.
    """
    for row in rows:
        words = ROWS[row].options.split()
        if "--objective.text" in words:
            folder = Path(words[words.index("--objective.text") + 1])
            if not folder.is_dir():
                raise UserError(
                    f"row {row!r} wants a text encoder in {folder}; make it as docs/training.md "
                    "says, or choose other --rows"
                )


def require_alike(args: Arguments, extractor: str) -> None:
    """Refuse to go on with results that were had otherwise.

    Raises:
      UserError: a row has other options now, or another count of pictures was drawn.
    """
    for known in results(args.out):
        row = ROWS.get(known["row"])
        now = {"options": None} if row is None else asked(args, row, extractor)
        for name, value in now.items():
            if known[name] != value:
                raise UserError(
                    f"{args.out / 'results.jsonl'}: row {known['row']!r} had {name} "
                    f"{known[name]!r}, now {value!r}; give another --out"
                )


def _known(out: Path, row: str, seed: int, steps: int) -> bool:
    wanted = row, seed, steps * BATCH
    return any((r["row"], r["seed"], r["pictures"]) == wanted for r in results(out))


def lines(found: list[dict[str, Any]], column: Measured) -> dict[str, list[tuple[float, float]]]:
    """Row -> (thousands of pictures seen, mean over seeds), in order; highest ends first."""
    values: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for result in found:
        value = column.factor * result["scores"][column.name]
        values[result["row"]][result["pictures"]].append(value)
    points = {
        row: [(count / 1000, float(np.mean(each[count]))) for count in sorted(each)]
        for row, each in values.items()
    }
    return dict(sorted(points.items(), key=lambda line: -line[1][-1][1]))


def table(found: list[dict[str, Any]]) -> str:
    """A line per row: the last stage, over seeds."""
    last = max(result["pictures"] for result in found)
    out = [markdown.head("recipe", "differs in", *(each.name for each in COLUMNS), "seeds")]
    for row in ROWS:
        ends = [r["scores"] for r in found if r["row"] == row and r["pictures"] == last]
        if ends:
            cells = [_cell([end[each.name] for end in ends], each) for each in COLUMNS]
            out.append(markdown.row(row, ROWS[row].told, *cells, str(len(ends))))
    return "\n".join(out)


def _cell(values: list[float], column: Measured) -> str:
    return markdown.spread([column.factor * x for x in values], column.form, column.form)


def draw_curves(found: list[dict[str, Any]], out: Path) -> None:
    """OUT/curves-1.png and so on, one for each column."""
    for number, column in enumerate(COLUMNS, 1):
        axes = Axis("thousand pictures"), Axis(column.name, column.form)
        drawn = curves(lines(found, column), f"{PRESET}, recipes after as many pictures", *axes)
        drawn.savefig(out / f"curves-{number}.png")


def main(words: list[str]) -> int:
    """Run the command line; 0 on success, 2 on bad input."""

    def run() -> None:
        args = parse_or_explain(lambda: tyro.cli(Arguments, args=words))
        for row in args.rows:
            choose("row", row, ROWS)
        require_positive("recipes", args, ("stages", "draw_steps"))
        if args.steps < args.stages:
            raise UserError(f"--steps {args.steps} are too few for --stages {args.stages}")
        require_text_encoders(args.rows)
        args.out.mkdir(parents=True, exist_ok=True)
        judge = Judge(args.extractor, args.count)
        require_alike(args, judge.extractor.name)
        for seed in args.seeds:
            for row in args.rows:
                for result in train_and_score(args, judge, row, seed):
                    with (args.out / "results.jsonl").open("a") as file:
                        file.write(json.dumps(result) + "\n")
        found = results(args.out)
        print(table(found))
        draw_curves(found, args.out)

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
