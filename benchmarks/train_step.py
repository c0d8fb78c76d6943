"""How long a train step takes: the real one, of a preset that trains from scratch.

    python benchmarks/train_step.py emoji64 --batches 16 32 --remat none blocks
    python benchmarks/train_step.py emoji64 --breakdown

A row for each combination, in a process of its own: seconds to trace, to compile with an empty
compile cache and again from it, and per step on random data; the rates that follow from the
median; the peak of memory. Operations are those of the model: what is computed again to save
memory is not counted again. With --breakdown, what passes between the command and the first step.
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

from benchmarks import measuring, processes  # noqa: E402
from benchmarks.printing import Table, print_breakdown, print_table  # noqa: E402
from jaxdiff.cli import exit_code, parse_or_explain  # noqa: E402
from jaxdiff.errors import UserError, choose  # noqa: E402
from jaxdiff.models import Remat  # noqa: E402

SCRATCH = ("tiny", "emoji64", "sd15", "sd21", "sdxl")


@dataclass(frozen=True)
class Arguments:
    """Time the train step of a preset."""

    preset: tyro.conf.Positional[str]
    """Which: tiny, emoji64, sd15, sd21 or sdxl."""
    batches: tuple[int, ...] = (32,)
    """Examples of a batch, over all devices."""
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32",)
    """What networks compute in."""
    remat: tuple[Remat, ...] = ("none",)
    """Whether blocks are recomputed in the backward pass."""
    attention: tuple[str, ...] = ("auto",)
    """Kernels: auto, einsum, blocked or cudnn."""
    fsdp: int = 1
    """Devices that share the state."""
    steps: int = 10
    """Steps that are timed, after one that is not."""
    breakdown: bool = False
    """Say what passes before the first step instead, of the first combination."""
    source: str | None = None
    """With --breakdown: train on this instead of the preset's data, as train.py's --data.source."""

    def __post_init__(self) -> None:
        """Refuse what cannot be measured, before anything is."""
        choose("preset", self.preset, SCRATCH)
        if self.steps < 1 or min(self.batches) < 1:
            raise UserError("--steps and --batches must be at least 1")
        if self.source is not None and not self.breakdown:
            raise UserError("--source goes with --breakdown; without it, data is random")


def combinations(args: Arguments) -> list[dict[str, Any]]:
    """What is measured, a row each."""
    names = "batch", "dtype", "remat", "attention"
    values = itertools.product(args.batches, args.dtypes, args.remat, args.attention)
    fixed = {"preset": args.preset, "fsdp": args.fsdp}
    return [fixed | dict(zip(names, each, strict=True)) for each in values]


def configured(what: dict[str, Any]) -> Any:
    """The run of a combination."""
    from jaxdiff.planning.blueprint import with_unet_options
    from jaxdiff.presets import PRESETS
    from jaxdiff.training.options import MeshConfig

    run = with_unet_options(
        PRESETS[what["preset"]][1], remat=what["remat"], attention=what["attention"]
    )
    data = dataclasses.replace(run.data, batch_size=what["batch"])
    mesh = MeshConfig(data=-1, fsdp=what["fsdp"])
    return dataclasses.replace(run, dtype=what["dtype"], data=data, mesh=mesh)


def flops(preset: str) -> float:
    """Operations of a step per example; in a process of its own."""
    from benchmarks import operations
    from jaxdiff.presets import PRESETS

    return operations.of_training(PRESETS[preset][1])


def measure(what: dict[str, Any], steps: int, flops: float) -> dict[str, Any]:
    """The numbers of a combination; in a process of its own, with an empty compile cache."""
    import jax

    from benchmarks.random_run import random_inputs
    from jaxdiff.heap import keep_heap
    from jaxdiff.models import count_parameters
    from jaxdiff.planning.traced import trace_step
    from jaxdiff.training.parallel import make_runner
    from jaxdiff.training.sharding import make_mesh

    run = configured(what)
    runner, mesh, laps = make_runner(run), make_mesh(run.mesh), measuring.Laps(time.time())
    traced = trace_step(run, mesh, runner).traced
    lowered = traced.lower()
    laps("trace")
    step = lowered.compile()
    laps("compile")
    state, frozen, *rest = random_inputs(run, runner)
    keep_heap(count_parameters((state.params, frozen)))  # as train.py does
    seconds = []
    for _ in range(steps + 1):
        begin = time.perf_counter()
        state, _ = jax.block_until_ready(step(state, frozen, *rest))
        seconds.append(time.perf_counter() - begin)
    peak = measuring.peak_memory()
    del state, frozen, rest
    measured = measuring.rates(seconds[1:], what["batch"], flops)
    again = measuring.compile_again(traced)
    place = measuring.place()
    return {**laps.seconds, "cached": again, **measured, "peak": peak, "place": place}


def cells(what: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """The numbers of a row."""
    seconds = [f"{found[name]:.1f}" for name in ("trace", "compile", "cached")]
    seconds += [f"{found[name]:.4g}" for name in ("median", "min")]
    return [*seconds, *measuring.rate_cells(found)]


TABLE = Table(
    target="benchmarks.train_step:measure",
    keys=("preset", "batch", "dtype", "remat", "attention"),
    names=("trace s", "compile s", "cached s", "s per step", "shortest", *measuring.RATES),
    cells=cells,
)


def table(args: Arguments) -> None:
    """Print the table, and what it was measured on."""
    given = {"preset": args.preset}
    try:
        each = processes.call("benchmarks.train_step:flops", given, **processes.CPU)
    except processes.ProcessFailed as error:
        raise UserError(f"{args.preset}: {error}") from error
    devices = print_table(TABLE, combinations(args), steps=args.steps, flops=each)
    print(f"{args.steps} steps, {measuring.conditions(devices)}")


def breakdown(args: Arguments) -> None:
    """Print what passes before the first step."""
    given = {"what": combinations(args)[0], "source": args.source}
    print_breakdown("benchmarks.first_step:stages", f"train.py {args.preset}", **given)


def main(arguments: list[str]) -> int:
    """Run the command line; 0 on success, 2 on bad input."""

    def run() -> None:
        args = parse_or_explain(lambda: tyro.cli(Arguments, args=arguments))
        breakdown(args) if args.breakdown else table(args)

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
