"""Compare with diffusers at full size: Stable Diffusion 1.5, 2.1 and XL with random weights.

    python benchmarks/full_size.py --families sd15

For each family a reference is made with diffusers and saved; then each side, in a process of its
own, loads it, encodes two prompts, takes some DDIM steps with guidance from the same latents, and
decodes. Printed are how far apart the latents are after the first step and the last, and the
pictures (a network of random weights amplifies a difference from step to step), and of both sides
the seconds to load, to compile, per step (median), to decode, and the peak of resident memory.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import markdown  # noqa: E402
from benchmarks.families import END, FAMILIES, VOCABULARY  # noqa: E402
from benchmarks.vs_diffusers import environment  # noqa: E402
from jaxdiff.cli import exit_code  # noqa: E402
from jaxdiff.errors import UserError, choose  # noqa: E402

_SIDES = {
    "make": "from benchmarks.full_size_diffusers import make; make(where, family, dtype)",
    "diffusers": "from benchmarks.full_size_diffusers import run; "
    "print(json.dumps(run(where, family, dtype, steps)))",
    "jaxdiff": "from jaxdiff import platform; platform.configure(); "
    "from benchmarks.full_size_jaxdiff import run; print(json.dumps(run(where, dtype, steps)))",
}
_PRELUDE = (
    "import json, sys; from pathlib import Path; "
    "where, family, dtype, steps = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]); "
)


@dataclass(frozen=True)
class Arguments:
    """Compare with diffusers at full size."""

    families: tuple[str, ...] = tuple(FAMILIES)
    """Which: sd15, sd21, sdxl."""
    size: int | None = None
    """Latent pixels of a side; by default the family's own: 64, 96, 128."""
    steps: int = 4
    """Steps."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights, and what networks compute in."""


def compare(family: str, args: Arguments, directory: Path) -> list[str]:
    """The table's rows of one family."""
    shapes = FAMILIES[choose("family", family, FAMILIES)]
    size = args.size or shapes["latents"]
    _call("make", directory, family, args)
    rng = np.random.default_rng(0)
    ids = rng.integers(1, VOCABULARY - 2, size=(2, 77)).astype(np.int32)
    ids[:, -1] = END
    noise = rng.normal(size=(1, size, size, 4)).astype(np.float32)
    np.savez(directory / "inputs.npz", ids=ids, x=noise)
    numbers = {side: _call(side, directory, family, args) for side in ("diffusers", "jaxdiff")}
    apart = [_apart(directory, what) for what in ("first", "latents", "picture")]
    rows = []
    for side, n in numbers.items():
        seconds = [f"{n[key]:.1f}" for key in ("load", "compile", "step", "decode")]
        cells = [family, f"{size}x{size}", side, *seconds, f"{n['peak']:.1f}"]
        rows.append(markdown.row(*cells, *(apart if side == "jaxdiff" else [""] * 3)))
    return rows


def _call(side: str, directory: Path, family: str, args: Arguments) -> dict[str, float]:
    """Run a part in a process of its own, so that its memory is its own; the numbers it prints."""
    command = [sys.executable, "-c", _PRELUDE + _SIDES[side], str(directory), family, args.dtype]
    done = subprocess.run(
        [*command, str(args.steps)], env=environment(), stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise UserError(f"{family}: {side} failed ({done.returncode}); what it said is above")
    return {} if side == "make" else json.loads(done.stdout.splitlines()[-1])


def _apart(directory: Path, what: str) -> str:
    """The largest difference of a result, and the largest value."""
    ours, theirs = (np.load(directory / f"{side}_{what}.npy") for side in ("ours", "theirs"))
    return f"{np.abs(ours - theirs).max():.1e} of {np.abs(theirs).max():.3g}"


def main(arguments: list[str]) -> int:
    """Run the command line; 0 on success, 2 on bad input."""

    def run() -> None:
        args = tyro.cli(Arguments, args=arguments)
        names = "family", "latents", "side", "load s", "compile s", "s per step", "decode s"
        names += ("peak GB", "first step apart", "latents apart", "picture apart")
        print("| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|", flush=True)
        for family in args.families:
            with tempfile.TemporaryDirectory() as directory:
                for row in compare(family, args, Path(directory)):
                    print(row, flush=True)

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
