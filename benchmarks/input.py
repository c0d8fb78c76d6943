"""How fast one core feeds a chip: JPEGs of three sizes, and latents computed beforehand.

    python benchmarks/input.py [--seconds 3]

Pictures a second that one core decodes, crops and resizes, or reads from a cache, beside what one
chip of each kind takes in at most: its peak over the operations of a training step of one picture.
"""

import argparse
import dataclasses
import io
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from jaxdiff import platform  # noqa: E402
from jaxdiff.cli import or_exit  # noqa: E402

or_exit(lambda: platform.configure(accelerator=False))

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from benchmarks import operations  # noqa: E402
from jaxdiff.data.buckets import fit  # noqa: E402
from jaxdiff.data.images import decode_image  # noqa: E402
from jaxdiff.planning.blueprint import blueprint  # noqa: E402
from jaxdiff.planning.chips import CHIPS  # noqa: E402
from jaxdiff.presets import PRESETS  # noqa: E402
from jaxdiff.training.cache import cached_rows  # noqa: E402

KINDS = ("v5e", "v5p", "v6e", "h100")
SIZES = {64: "emoji64", 256: "sd15", 512: "sd15"}  # pixels, and who trains on them
FILES, ROWS = 32, 256


def photograph(side: int, seed: int) -> bytes:
    """A JPEG with as much detail as photographs have: noise of all scales; a third larger."""
    rng, large = np.random.default_rng(seed), side * 4 // 3
    total = np.zeros((large, large, 3))
    for cells in (4, 16, 64, 256):
        noise = rng.normal(128, 96 / np.sqrt(cells), (cells, cells, 3)).clip(0, 255)
        layer = Image.fromarray(noise.astype(np.uint8)).resize((large, large), Image.BICUBIC)
        total += np.asarray(layer, float) / 4
    file = io.BytesIO()
    Image.fromarray(total.astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def per_second(work: Callable[[int], object], seconds: float) -> float:
    """How often `work(n)` runs in a second of this process's time on a core."""
    count, start = 0, time.process_time()
    while (spent := time.process_time() - start) < seconds:
        work(count)
        count += 1
    return count / spent


def decoding(side: int, seconds: float) -> float:
    """Pictures decoded, cropped and resized in a second."""
    files = [photograph(side, seed) for seed in range(FILES)]

    def work(n: int) -> np.ndarray:
        return fit(decode_image(files[n % FILES], at_least=side), side, side)

    return per_second(work, seconds)


def reading(preset: str, seconds: float) -> float:
    """Rows of latents and text states read from a cache in a second, copied into a batch."""
    run = PRESETS[preset][1]
    fields = {k: v for k, v in blueprint(run).batch.items() if v.ndim > 2}
    dtype = np.dtype([(name, shape.dtype, shape.shape[1:]) for name, shape in fields.items()])

    def compute(numbers: np.ndarray) -> dict[str, np.ndarray]:
        return {k: np.zeros((len(numbers), *v.shape[1:]), v.dtype) for k, v in fields.items()}

    with tempfile.TemporaryDirectory() as folder:
        groups = [(dtype, np.arange(ROWS))]
        rows = cached_rows(Path(folder), "latents", {"preset": preset}, groups, compute)

        def work(n: int) -> list[np.ndarray]:
            return [rows[n % ROWS][name].copy() for name in fields]

        return per_second(work, seconds)


def cost_of(preset: str, side: int) -> float:
    """FLOPs of a training step, per picture."""
    run = PRESETS[preset][1]
    data = dataclasses.replace(run.data, resolution=side)
    return operations.of_training(dataclasses.replace(run, data=data))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="per measurement")
    seconds = parser.parse_args().seconds
    head = "input                 one core     TFLOP     " + "".join(f"{kind:>9}" for kind in KINDS)
    print(f"{head}   (pictures/s that a chip takes in at most)")
    for side, preset in SIZES.items():
        cost = cost_of(preset, side)
        chips = "".join(f"{CHIPS[kind].flops / cost:9.0f}" for kind in KINDS)
        rate = decoding(side, seconds)
        print(f"JPEG {side:4d} px       {rate:9.0f}/s   {cost / 1e12:8.4f}     {chips}   {preset}")
    rate = reading("sd15", seconds)
    print(f"latents, 512 px    {rate:9.0f}/s   {cost / 1e12:8.4f}     {chips}   sd15")


if __name__ == "__main__":
    main()
