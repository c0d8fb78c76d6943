"""Time this library against diffusers, eager and through `torch.compile`, on the same machine.

    python benchmarks/vs_diffusers.py
    python benchmarks/vs_diffusers.py --rows unet text --rounds 9

Both sides load the same random weights of a scaled-down Stable Diffusion (`shapes.py`) and get the
same inputs; their results are compared before anything is timed. Each side is a process of its own
that waits while another one works. In every round each side does the work once, in an order that
rotates; a ratio is taken within a round, so that a machine whose speed drifts does not favour a
side. Above 1, this library is the faster one.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import markdown, processes  # noqa: E402
from benchmarks.shapes import ROWS, SIZES, make_inputs  # noqa: E402
from benchmarks.worker import SIDES  # noqa: E402
from jaxdiff.cli import exit_code  # noqa: E402
from jaxdiff.errors import UserError, choose  # noqa: E402

_FURTHEST = 0.1  # of the largest value: a picture in bfloat16 is not far from it
_REFERENCE = """
import sys
from pathlib import Path
from benchmarks.shapes import SIZES
from benchmarks.side_diffusers import make_reference
make_reference(Path(sys.argv[1]), SIZES[sys.argv[2]])
"""


@dataclass(frozen=True)
class Arguments:
    """Time this library against diffusers."""

    rows: tuple[str, ...] = ROWS
    """What to time: unet, train, text, decode, picture."""
    sides: tuple[str, ...] = SIDES
    """Who: jaxdiff, eager, compile."""
    rounds: int = 5
    """How often each side does each row, after a first time that compiles and one that warms up."""
    size: str = "35m"
    """A name of `SIZES`: 35m or tiny."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What networks compute in."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where PyTorch computes; JAX takes its default."""


@dataclass(frozen=True)
class Timing:
    """Seconds of one row: by side, the first time and then one per round."""

    row: str
    first: dict[str, float]
    rounds: dict[str, list[float]]


class Worker:
    """A side in its own process."""

    def __init__(self, side: str, directory: Path, args: Arguments) -> None:
        command = [sys.executable, "-m", "benchmarks.worker", side, str(directory)]
        self.process = subprocess.Popen(
            [*command, args.dtype, args.device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )

    def __call__(self, row: str) -> float:
        """Do the work once; its seconds."""
        self.process.stdin.write(f"{row}\n")
        self.process.stdin.flush()
        while line := self.process.stdout.readline():
            try:
                return float(line)
            except ValueError:  # a library said something
                print(line, end="", file=sys.stderr)
        raise UserError(f"a side failed in row {row}; what it said is above")

    def close(self) -> None:
        """Let it end."""
        self.process.stdin.close()
        self.process.wait()


def measure(args: Arguments, directory: Path) -> Iterator[Timing]:
    """Run every row, and give its times; prints how far the results are apart."""
    for row in args.rows:
        choose("row", row, ROWS)
    for side in args.sides:
        choose("side", side, SIDES)
    choose("size", args.size, SIZES)
    command = [sys.executable, "-c", _REFERENCE, str(directory), args.size]
    if subprocess.run(command, env=environment()).returncode:
        raise UserError("the reference could not be made; it needs torch, diffusers, transformers")
    np.savez(directory / "inputs.npz", **make_inputs(SIZES[args.size]))
    workers = {side: Worker(side, directory, args) for side in args.sides}
    try:
        for row in args.rows:
            yield _row(row, workers, args.rounds, directory)
    finally:
        for worker in workers.values():
            worker.close()


def _row(row: str, workers: dict[str, Worker], rounds: int, directory: Path) -> Timing:
    first = {side: worker(row) for side, worker in workers.items()}
    _compare(row, {side: np.load(directory / f"{side}_{row}.npy") for side in workers})
    seconds: dict[str, list[float]] = {side: [] for side in workers}
    for worker in workers.values():
        worker(row)
    order = list(workers)
    for i in range(rounds):
        for side in order[i % len(order) :] + order[: i % len(order)]:
            seconds[side].append(workers[side](row))
    return Timing(row, first, seconds)


def _compare(row: str, results: dict[str, np.ndarray]) -> None:
    """Say how far apart the sides' results are.

    Raises:
      UserError: they are not results of the same work.
    """
    names = list(results)
    first = results[names[0]]
    for name in names[1:]:
        difference, largest = np.abs(results[name] - first).max(), np.abs(first).max()
        print(
            f"{row}: {names[0]} and {name} are at most {difference:.1e} apart, of {largest:.3g}",
            file=sys.stderr,
        )
        if not difference <= _FURTHEST * largest:
            raise UserError(f"{row}: {names[0]} and {name} do not compute the same")


HEADER = "row", "side", "first s", "median s", "min s", "ratio", "quartiles", "ratio of minima"


def table(timing: Timing) -> str:
    """Median seconds of each side, and the ratios to ours: median, quartiles, of the minima."""
    lines, ours = [], timing.rounds.get("jaxdiff")
    for side, seconds in timing.rounds.items():
        cells = [timing.row, side, f"{timing.first[side]:.2f}", f"{np.median(seconds):.3f}"]
        cells.append(f"{min(seconds):.3f}")
        if ours and side != "jaxdiff":
            ratios = np.array(seconds) / np.array(ours)
            low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
            cells += [f"{middle:.2f}", f"{low:.2f} to {high:.2f}"]
            cells.append(f"{min(seconds) / min(ours):.2f}")
        else:
            cells += ["", "", ""]
        lines.append(markdown.row(*cells))
    return "\n".join(lines)


def environment() -> dict[str, str]:
    """The environment of a side."""
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}
    # Several processes share a GPU's memory.
    return processes.environment(**quiet, XLA_PYTHON_CLIENT_PREALLOCATE="false")


def main(arguments: list[str]) -> int:
    """Run the command line; 0 on success, 2 on bad input."""

    def run() -> None:
        args = tyro.cli(Arguments, args=arguments)
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory() as directory:
            print(markdown.head(*HEADER), flush=True)
            for timing in measure(args, Path(directory)):
                print(table(timing), flush=True)
        load = os.getloadavg()[0]
        print(
            f"{os.cpu_count()} cores, load average {load:.1f}, {args.rounds} rounds, "
            f"{args.size}, {args.dtype}, {time.perf_counter() - begin:.0f} s"
        )

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
