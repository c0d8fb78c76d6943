r"""Quality against steps: a model with each sampler, and a student of it that draws in few.

    python benchmarks/few_steps.py --model models/emoji64 --extractor clip:models/emoji-clip
    python benchmarks/few_steps.py --model models/emoji64+models/emoji64-fast/lora.safetensors \
        --samplers lcm --steps 1 2 4 --extractor clip:models/emoji-clip

The pairs of a split are drawn with several seeds, a set for each. A row has the mean and the
standard deviation over sets of the Fréchet distance to the real pictures of the same pairs, of KID
and, by an extractor that reads texts, of the score and the retrieval of captions; and the pictures
per second of a batch, compiled before. The first row is the real pictures' own.
"""

import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

sys.path.insert(0, str(Path(__file__).parents[1]))

from jaxdiff import platform  # noqa: E402
from jaxdiff.cli import exit_code, or_exit, parse_or_explain  # noqa: E402

or_exit(platform.configure)

from benchmarks import markdown, measuring  # noqa: E402
from benchmarks.judge import Pairs, draw, numbers, open_model, some_pairs  # noqa: E402
from jaxdiff.diffusion.samplers import SAMPLERS  # noqa: E402
from jaxdiff.errors import UserError, choose  # noqa: E402
from jaxdiff.evaluate.extractors import open_extractor  # noqa: E402
from jaxdiff.evaluate.features import Extractor  # noqa: E402
from jaxdiff.evaluate.samples import open_samples  # noqa: E402
from jaxdiff.heap import keep_heap  # noqa: E402
from jaxdiff.models.checks import require_positive  # noqa: E402
from jaxdiff.pipelines import TextToImage  # noqa: E402

_TIMED = 5  # batches


@dataclass(frozen=True)
class Arguments:
    """Measure quality against steps."""

    model: str = "models/emoji64"
    """Model directory, or MODEL+LORA."""
    extractor: str = "latents:models/emoji64"
    """What looks at the pictures, as `python -m jaxdiff.evaluate` names it."""
    pictures: str = "emoji/permissive@heldout"
    """Corpus whose captions are drawn, and whose pictures are the reference."""
    samplers: tuple[str, ...] = ("ddim", "dpmpp_2m", "unipc", "heun", "euler_a", "dpmpp_sde")
    """Rows, with each of `steps`."""
    steps: tuple[int, ...] = (5, 10, 15, 25, 50)
    """Sampling steps."""
    count: int | None = None
    """Pictures of a set, drawn from the corpus at random; None: all of it."""
    seeds: int = 2
    """Sets of pictures; picture i of set k of N has the seed k N + i."""
    guidance_scale: float | None = None
    """Guidance; by default what the model recommends."""
    batch: int = 8
    """Pictures of a call whose time is taken."""


def images_per_second(pipe: TextToImage, captions: list[str], **settings: Any) -> float:
    """Of a batch that was drawn before."""
    seeds, seconds = range(len(captions)), []
    for _ in range(_TIMED + 1):
        begin = time.perf_counter()
        pipe(captions, seeds, **settings)
        seconds.append(time.perf_counter() - begin)
    return len(captions) / statistics.median(seconds[1:])


def draw_and_score(args: Arguments, pipe: TextToImage, pairs: Pairs, extractor: Extractor) -> None:
    """Print a row for every sampler and number of steps, as soon as it is known."""
    reference, captions = pairs
    own = numbers(reference, reference.features, extractor, captions)
    print(markdown.head("sampler", "steps", *own, "images/s"))
    print(markdown.row("real pictures", "", *(f"{value:.4g}" for value in own.values()), ""))
    for sampler in args.samplers:
        for steps in args.steps:
            settings = {"sampler": sampler, "num_steps": steps}
            settings["guidance_scale"] = args.guidance_scale
            sets = []
            for number in range(args.seeds):
                features = draw(pipe, captions, number, extractor, **settings)
                sets.append(numbers(reference, features, extractor, captions))
            cells = [markdown.spread([each[name] for each in sets]) for name in own]
            rate = images_per_second(pipe, captions[: args.batch], **settings)
            print(markdown.row(sampler, str(steps), *cells, f"{rate:.3g}"), flush=True)


def main(words: list[str]) -> int:
    """Run the command line; 0 on success, 2 on bad input."""

    def run() -> None:
        args = parse_or_explain(lambda: tyro.cli(Arguments, args=words))
        require_positive("few_steps", args, ("seeds", "batch"))
        for sampler in args.samplers:
            choose("sampler", sampler, SAMPLERS)
        pipe = open_model(args.model)
        real = open_samples(args.pictures, pipe.image_size)
        count = real.count if args.count is None else args.count
        if not 2 <= count <= real.count:
            raise UserError(f"count is {count}; give 2 to {real.count}, as many as there are")
        extractor = open_extractor(args.extractor)
        keep_heap(pipe.num_parameters)
        draw_and_score(args, pipe, some_pairs(real, count, extractor), extractor)
        print(f"\n{args.model}, {count} pictures a set, {args.seeds} sets, {extractor.name}; ")
        print(measuring.conditions(measuring.place()))

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
