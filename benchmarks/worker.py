"""One side of a comparison in a process of its own, which does a piece of work when it is told to.

    python -m benchmarks.worker SIDE DIRECTORY DTYPE DEVICE

It reads the name of a row per line, does the work once and answers with the seconds that it took.
Of the first time, it keeps the result in DIRECTORY/SIDE_ROW.npy. It does nothing between two lines,
so that another side has the machine to itself.
"""

import sys
import time
from pathlib import Path

import numpy as np

SIDES = ("jaxdiff", "eager", "compile")


def main(side: str, directory: Path, dtype: str, device: str) -> None:
    """Serve until the input ends."""
    inputs = dict(np.load(directory / "inputs.npz"))
    rows = _rows(side, directory, inputs, dtype, device)
    for line in sys.stdin:
        name, file = line.strip(), directory / f"{side}_{line.strip()}.npy"
        begin = time.perf_counter()
        result = rows[name]()
        seconds = time.perf_counter() - begin
        if not file.exists():
            np.save(file, result)
        print(seconds, flush=True)


def _rows(side: str, directory: Path, inputs: dict, dtype: str, device: str) -> dict:
    if side == "jaxdiff":
        from jaxdiff import platform

        platform.configure()
        from benchmarks.side_jaxdiff import prepare

        return prepare(directory, inputs, dtype=dtype)
    from benchmarks.side_diffusers import prepare

    compiled = side == "compile"
    return prepare(directory, inputs, compiled=compiled, device=device, dtype=dtype)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
