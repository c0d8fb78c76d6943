"""The plans of the large presets on four pods, as one table: no accelerator is needed.

    python benchmarks/plans.py [--effort none] [--only sd15:v5e:16x16]

A line per preset and pod, for a batch that fits: what `train.py PRESET --plan POD` says at length.
"""

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from jaxdiff import platform  # noqa: E402
from jaxdiff.cli import or_exit  # noqa: E402

or_exit(lambda: platform.configure(accelerator=False))

from jaxdiff.planning.chips import GIB  # noqa: E402
from jaxdiff.planning.compiled import make_plan  # noqa: E402
from jaxdiff.planning.plan import Plan  # noqa: E402
from jaxdiff.presets import PRESETS  # noqa: E402
from jaxdiff.training.config import TrainConfig  # noqa: E402
from jaxdiff.training.options import EFFORTS  # noqa: E402

PODS = ("v5e:4x4", "v5e:16x16", "v5p:4x4x4", "v6e:16x16")
CASES = {  # batch over all chips, micro-batches
    "sd15": ((2048, 16), (2048, 1), (2048, 1), (2048, 1)),
    "sd21": ((2048, 16), (2048, 1), (2048, 1), (2048, 1)),
    "sdxl": ((2048, 128), (2048, 8), (2048, 4), (2048, 4)),
}
COLUMNS = (
    "preset, pod",
    "batch = chips x rows x times",
    "state + temporaries = in all / HBM, GiB",
    "TFLOP/image: model, computed",
    "a chip sends, GB",
    "compute, memory, links, ms",
    "binds",
    "about images/s",
    "MFU",
    "largest batch",
    "planned in",
    "how",
)


def runs(only: str) -> Iterator[tuple[str, str, TrainConfig]]:
    """Preset, pod and run of every line whose PRESET:POD begins with `only`."""
    for preset, sizes in CASES.items():
        run = PRESETS[preset][1]
        for pod, (batch, times) in zip(PODS, sizes, strict=True):
            if f"{preset}:{pod}".startswith(only):
                data = dataclasses.replace(run.data, batch_size=batch)
                optimizer = dataclasses.replace(run.optimizer, accumulate=times)
                yield preset, pod, dataclasses.replace(run, data=data, optimizer=optimizer)


def line(preset: str, plan: Plan) -> str:
    """A line of the table."""
    chips, batch = plan.topology.count, plan.run.data.batch_size
    parts = plan.mesh["data"] * plan.mesh["fsdp"] * plan.run.optimizer.accumulate
    gib = [size / GIB for size in (plan.state, plan.temporaries, plan.total, plan.topology.memory)]
    own, done = (each * chips / batch / 1e12 for each in (plan.model_flops, plan.flops))
    times = plan.times
    cells = (
        f"{preset}, {plan.topology.name}",
        f"{batch} = {chips} x {plan.rows} x {plan.run.optimizer.accumulate}",
        "{:.2f} + {:.2f} = {:.2f} / {:.2f}".format(*gib) + ("" if plan.fits else " **no**"),
        f"{own:.3g}, {done:.3g}",
        f"{sum(each.sent for each in plan.collectives) / 1e9:.3g}",
        ", ".join(f"{1e3 * each:.0f}" for each in times.values()),
        max(times, key=times.get),
        f"{plan.images_per_second:,.0f}",
        f"{plan.mfu:.0%}",
        f"{plan.most_rows * parts}",
        "{:.0f} s ({:.0f} s of a core)".format(*plan.seconds),
        plan.source.partition(" from ")[0],
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table, line by line as plans are made."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--effort", choices=(*EFFORTS, "none"), help="as --plan-effort")
    parser.add_argument("--only", default="", help="PRESET:POD, or how it begins")
    asked = parser.parse_args()
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    for preset, pod, run in runs(asked.only):
        print(line(preset, make_plan(run, pod, asked.effort)), flush=True)


if __name__ == "__main__":
    main()
