"""Which recipe learns fastest: rows that differ in one thing, trained alike, as curves.

    python benchmarks/recipes.py --rows base eps x0 --seeds 0 1 2 --out runs/recipes

A row is the preset `emoji-small` with some options of `train.py`. It is trained in stages; after
each, the averaged model draws held-out and training pairs, whose concept hit rates
(`concept_hit_rate.py`) make the curve over the pictures seen. All commands are printed. What is in
OUT/results.jsonl is not done again, so that a run goes on where it was ended. At last: a table with
the mean and the standard deviation over seeds, and OUT/curves.png.
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
from typing import Any

import numpy as np
import tyro

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import markdown  # noqa: E402
from benchmarks.curves import Axis, curves  # noqa: E402
from jaxdiff.cli import exit_code  # noqa: E402
from jaxdiff.errors import UserError, choose  # noqa: E402

PRESET = "emoji-small"
BATCH = 32  # pictures of a step, as the preset has it
ROWS: dict[str, str] = {
    "base": "",
    "eps": "--objective.noise.prediction eps",
    "x0": "--objective.noise.prediction x0",
    "flow": "--objective.noise.schedule flow --objective.noise.prediction flow",
    "flow as SD3": "--objective.noise.schedule flow --objective.noise.prediction flow "
    "--objective.loss.level-mean 0.0 --objective.loss.level-std 1.0",
    "edm": "--objective.noise.prediction edm --objective.noise.sigma-data 1.0",
    "min-snr": "--objective.loss.weighting min_snr",
    "sigmoid": "--objective.loss.weighting sigmoid",
    "levels stratified": "--objective.loss.levels stratified --objective.loss.level-mean None "
    "--objective.loss.level-std None",
    "levels mean 0": "--objective.loss.level-mean 0.0",
    "ema 0.99": "--ema.decay 0.99",
    "ema 0.9999": "--ema.decay 0.9999",
    "dropout 0": "--data.caption-dropout 0.0",
    "dropout 0.2": "--data.caption-dropout 0.2",
    "rate 5e-4": "--optimizer.learning-rate 5e-4",
    "rate 2e-3": "--optimizer.learning-rate 2e-3",
}
KINDS = {
    "held out": "generated, held-out pairs",
    "seen": "generated, training pairs",
}


@dataclass(frozen=True)
class Arguments:
    """Compare recipes."""

    rows: tuple[str, ...] = tuple(ROWS)
    """Which."""
    seeds: tuple[int, ...] = (0,)
    """One training of every row for each."""
    steps: int = 8000
    """Of every training."""
    stages: int = 4
    """Points of a curve."""
    count: int = 381
    """Pictures drawn for each hit rate."""
    out: Path = Path("runs/recipes")
    """Work directories, results.jsonl, curves.png."""


def train_and_score(args: Arguments, row: str, seed: int) -> Iterator[dict[str, Any]]:
    """Train a row by stages; yields what each stage scored."""
    home = args.out / f"{row.replace(' ', '-')}-{seed}"
    for stage in range(1, args.stages + 1):
        steps = args.steps * stage // args.stages
        if not _known(args.out, row, seed, steps):
            model, scores = home / f"model-{steps}", home / f"scores-{steps}.json"
            options = ["--seed", seed, "--num-steps", steps, "--data.cache", args.out / "cache"]
            places = ["--workdir", home / "run", "--export", model]
            _command(home, "train.py", PRESET, *ROWS[row].split(), *options, *places)
            _require_step(model, steps)
            how = ["--model", model, "--count", args.count, "--json", scores]
            _command(home, "benchmarks/concept_hit_rate.py", *how)
            found = json.loads(scores.read_text())
            rates = {kind: found[name]["hits"] / args.count for kind, name in KINDS.items()}
            told = {"row": row, "options": ROWS[row], "seed": seed, "count": args.count}
            yield {**told, "pictures": steps * BATCH, **rates}


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


def require_alike(args: Arguments) -> None:
    """Refuse to go on with results that were had otherwise.

    Raises:
      UserError: a row has other options now, or another count of pictures was drawn.
    """
    for known in results(args.out):
        now = {"options": ROWS.get(known["row"]), "count": args.count}
        for name, value in now.items():
            if known[name] != value:
                raise UserError(
                    f"{args.out / 'results.jsonl'}: row {known['row']!r} had {name} "
                    f"{known[name]!r}, now {value!r}; give another --out"
                )


def _known(out: Path, row: str, seed: int, steps: int) -> bool:
    wanted = row, seed, steps * BATCH
    return any((r["row"], r["seed"], r["pictures"]) == wanted for r in results(out))


def lines(found: list[dict[str, Any]], kind: str) -> dict[str, list[tuple[float, float]]]:
    """Row -> (thousands of pictures seen, mean percentage over seeds), in order."""
    values: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for result in found:
        values[result["row"]][result["pictures"]].append(100 * result[kind])
    return {
        row: [(count / 1000, float(np.mean(each[count]))) for count in sorted(each)]
        for row, each in values.items()
    }


def table(found: list[dict[str, Any]]) -> str:
    """A line per row: the last stage, over seeds."""
    last = max(result["pictures"] for result in found)
    out = [markdown.head("recipe", "options", *KINDS, "seeds")]
    for row in dict.fromkeys(result["row"] for result in found):
        ends = [r for r in found if r["row"] == row and r["pictures"] == last]
        if ends:
            cells = [_shown([100 * r[kind] for r in ends]) for kind in KINDS]
            out.append(markdown.row(row, f"`{ROWS[row]}`", *cells, str(len(ends))))
    return "\n".join(out)


def _shown(values: list[float]) -> str:
    spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}%{spread}"


def main(words: list[str]) -> int:
    """Run the command line; 0 on success, 2 on bad input."""

    def run() -> None:
        args = tyro.cli(Arguments, args=words)
        for row in args.rows:
            choose("row", row, ROWS)
        args.out.mkdir(parents=True, exist_ok=True)
        require_alike(args)
        for seed in args.seeds:
            for row in args.rows:
                for result in train_and_score(args, row, seed):
                    with (args.out / "results.jsonl").open("a") as file:
                        file.write(json.dumps(result) + "\n")
        found = results(args.out)
        print(table(found))
        drawn = lines(found, "held out")
        axes = Axis("thousand pictures"), Axis("held-out hit rate", "{x:.0f}%")
        curves(drawn, f"{PRESET}, recipes at equal compute", *axes).savefig(args.out / "curves.png")

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
