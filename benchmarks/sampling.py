"""How long pictures take, from prompts to pixels by the real pipeline.

    python benchmarks/sampling.py --model models/emoji64 --batches 1 4 16
    python benchmarks/sampling.py --family sdxl --dtypes bfloat16 --attention auto einsum
    python benchmarks/sampling.py --model models/emoji64 --breakdown

A row for each combination, in a process of its own: seconds to load, to trace, to compile with an
empty compile cache and again from it, and for a batch (median); the rates that follow from them;
the peak of memory. A family has the published shapes and random weights: it needs no file. With
--breakdown, what passes between the command and the first picture.
"""

import dataclasses
import itertools
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import measuring  # noqa: E402
from benchmarks.families import FAMILIES  # noqa: E402
from benchmarks.printing import Table, print_breakdown, print_table  # noqa: E402
from jaxdiff.cli import exit_code, parse_or_explain  # noqa: E402
from jaxdiff.errors import UserError, choose  # noqa: E402


@dataclass(frozen=True)
class Arguments:
    """Time sampling."""

    model: Path | None = None
    """Model directory or .safetensors file."""
    family: str | None = None
    """Random weights of a published shape instead: sd15, sd21 or sdxl."""
    batches: tuple[int, ...] = (1,)
    """Pictures of a call, all of one prompt; the pipeline draws eight per device at a time."""
    steps: int = 25
    """Sampling steps."""
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32",)
    """Of the weights, and what networks compute in."""
    attention: tuple[str, ...] = ("auto",)
    """The UNet's kernels: auto, einsum, blocked or cudnn."""
    rounds: int = 3
    """Calls that are timed, after one that is not."""
    prompt: str = "a red heart, noto style"
    """What is drawn."""
    breakdown: bool = False
    """Say what passes before the first picture instead, of the first combination."""

    def __post_init__(self) -> None:
        """Refuse what cannot be measured, before anything is."""
        if (self.model is None) == (self.family is None):
            raise UserError("give either --model or --family")
        if self.family is not None:
            choose("family", self.family, FAMILIES)
        if self.model is not None and not self.model.exists():
            raise UserError(f"--model {self.model} does not exist; give a model directory")
        if min(self.rounds, self.steps, *self.batches) < 1:
            raise UserError("--rounds, --steps and --batches must be at least 1")


def combinations(args: Arguments) -> list[dict[str, Any]]:
    """What is measured, a row each."""
    values = itertools.product(args.batches, args.dtypes, args.attention)
    fixed = {"family": args.family, "model": None if args.model is None else str(args.model)}
    fixed |= {"steps": args.steps, "prompt": args.prompt, "name": args.family or args.model.name}
    return [fixed | dict(zip(("batch", "dtype", "attention"), v, strict=True)) for v in values]


def opened(what: dict[str, Any]) -> Any:
    """The pipeline of a combination."""
    from jaxdiff.heap import keep_heap
    from jaxdiff.pipelines.engine import Engine
    from jaxdiff.pipelines.text_to_image import TextToImage

    if what["family"] is not None:
        from benchmarks.random_model import random_model

        pipe = TextToImage(random_model(what["family"], what["dtype"]), dtype=what["dtype"])
    else:
        pipe = TextToImage.load(what["model"], what["dtype"])
    unet = dataclasses.replace(pipe.model.unet_config, attention=what["attention"])
    pipe.model = dataclasses.replace(pipe.model, unet_config=unet)
    pipe.engine = Engine(pipe.engine.networks._replace(model=pipe.model), pipe.engine.mesh)
    keep_heap(pipe.num_parameters)  # as sample.py does
    return pipe


def measure(what: dict[str, Any], rounds: int) -> dict[str, Any]:
    """The numbers of a combination; in a process of its own, with an empty compile cache."""
    import jax

    from benchmarks import operations

    place, laps = measuring.place(), measuring.Laps(time.time())
    pipe = opened(what)
    jax.block_until_ready(pipe.params)
    laps("load")
    pipe.engine._draw = staged = measuring.Staged(pipe.engine._draw)
    seconds = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        pipe(what["prompt"], range(what["batch"]), num_steps=what["steps"])
        seconds.append(time.perf_counter() - begin)
    peak, (given, static) = measuring.peak_memory(), staged.first
    each = operations.of_drawing(pipe.engine.networks, given, **static)
    measured = measuring.rates(seconds[1:], what["batch"], each)
    stages = {"trace": staged.trace, "compile": staged.compile, "cached": staged.compile_again()}
    return {**laps.seconds, **stages, **measured, "peak": peak, "place": place}


def cells(what: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """The numbers of a row."""
    seconds = [f"{found[stage]:.1f}" for stage in ("load", "trace", "compile", "cached")]
    seconds += [f"{found['median']:.4g}", f"{found['median'] / what['batch']:.4g}"]
    return [*seconds, *measuring.rate_cells(found)]


_STAGES = "load s", "trace s", "compile s", "cached s"
TABLE = Table(
    target="benchmarks.sampling:measure",
    keys=("name", "batch", "dtype", "attention"),
    names=(*_STAGES, "s per batch", "s per picture", *measuring.RATES),
    cells=cells,
)


def table(args: Arguments) -> None:
    """Print the table, and what it was measured on."""
    devices = print_table(TABLE, combinations(args), rounds=args.rounds)
    print(f"{args.steps} steps, {args.rounds} rounds, {measuring.conditions(devices)}")


def breakdown(args: Arguments) -> None:
    """Print what passes before the first picture."""
    what = combinations(args)[0]
    print_breakdown("benchmarks.first_picture:stages", f"sample.py, {what['name']}", what=what)


def main(arguments: list[str]) -> int:
    """Run the command line; 0 on success, 2 on bad input."""

    def run() -> None:
        args = parse_or_explain(lambda: tyro.cli(Arguments, args=arguments))
        breakdown(args) if args.breakdown else table(args)

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
